"""Balances over any order of calls: against a model, and twice the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from phala.errors import Refused
from phala.frame import NO_ACCOUNT, Block, Signed, TokenError
from phala.pallets.balances import EXISTENTIAL_DEPOSIT, FREEZE_VOTE, HOLD_PREIMAGE, Balances
from phala.pallets.system import System
from phala.primitives.address import MultiAddress
from phala.primitives.types import AccountId, Balance, BlockNumber
from phala.testing.determinism import check_deterministic

ACCOUNTS = [AccountId(bytes([number]) * 32) for number in range(4)]
ED = int(EXISTENTIAL_DEPOSIT)

accounts = st.sampled_from(ACCOUNTS)
amounts = st.integers(0, 5 * ED) | st.sampled_from([ED - 1, ED, ED + 1, 0, 2**127])


class BalancesAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block(BlockNumber(1))
        self.system = System(self.block)
        self.balances = Balances(self.block, accounts=self.system)
        self.model: dict[AccountId, int] = {}
        for who in ACCOUNTS[:2]:
            self.balances.endow(who, Balance(4 * ED))
            self.model[who] = 4 * ED

    def transferred(self, source: AccountId, target: AccountId, amount: int, least: int) -> bool:
        """What the rules say, in plain numbers; the model follows when they allow it."""
        held = self.model.get(source, 0)
        if amount > held:
            return False
        if source == target or amount == 0:
            return True
        if held - amount < least or (target not in self.model and amount < ED):
            return False
        del self.model[source]
        if held - amount >= ED:
            self.model[source] = held - amount
        self.model[target] = self.model.get(target, 0) + amount
        return True

    @rule(source=accounts, taker=accounts, amount=amounts, keep_alive=st.booleans())
    def transfer(
        self, source: AccountId, taker: AccountId, amount: int, *, keep_alive: bool
    ) -> None:
        allowed = self.transferred(source, taker, amount, ED if keep_alive else 0)
        call = (
            self.balances.transfer_keep_alive if keep_alive else self.balances.transfer_allow_death
        )
        try:
            call(Signed(source), MultiAddress.of(taker), Balance(amount))
        except TokenError:
            assert not allowed
        else:
            assert allowed

    @rule(source=accounts, taker=accounts, amount=amounts)
    def pay_fee(self, source: AccountId, taker: AccountId, amount: int) -> None:
        held = self.model.get(source, 0)
        try:
            self.balances.withdraw(source, Balance(amount))
        except TokenError:
            assert held - amount < ED
            return
        self.balances.deposit(taker, Balance(amount))
        self.model[source] = held - amount
        if taker in self.model or amount >= ED:
            self.model[taker] = self.model.get(taker, 0) + amount

    @invariant()
    def each_holds_what_the_model_says(self) -> None:
        assert {who: self.balances.free(who) for who in ACCOUNTS if who in self.model} == self.model
        assert all(self.balances.free(who) == 0 for who in ACCOUNTS if who not in self.model)

    @invariant()
    def all_that_is_held_was_issued(self) -> None:
        assert self.balances.total_issuance.get() == sum(self.model.values())

    @invariant()
    def who_holds_less_than_the_deposit_is_gone(self) -> None:
        for who in ACCOUNTS:
            assert self.system.account_of(who).exists == (who in self.model)


TestBalances = BalancesAgainstModel.TestCase

NAMES = [b"one-lock", b"two-lock"]


class CustodyKeepsItsSums(RuleBasedStateMachine):
    """Any order of reserves, holds, locks and burns; what a refusal changed is rolled back."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(BlockNumber(1))
        self.system = System(self.block)
        self.balances = Balances(self.block, accounts=self.system)
        for who in ACCOUNTS[:3]:
            self.balances.endow(who, Balance(6 * ED))
        self.issued = 18 * ED  # less what was burnt

    def total(self, who: AccountId) -> int:
        data = self.system.account_of(who).data
        return data.free + data.reserved

    def attempt(self, action: Callable[[], object]) -> bool:
        digest = self.block.state.digest()
        try:
            action()
        except Refused:
            assert self.block.state.digest() == digest
            return False
        return True

    @rule(who=accounts, amount=amounts, name=st.none() | st.sampled_from(NAMES))
    def reserve(self, who: AccountId, amount: int, name: bytes | None) -> None:
        before, free = self.total(who), self.balances.free(who)
        done = self.attempt(
            (lambda: self.balances.reserve(who, Balance(amount)))
            if name is None
            else lambda: self.balances.reserve_named(name, who, Balance(amount))
        )
        assert self.total(who) == before
        assert self.balances.free(who) == (free - amount if done else free)

    @rule(who=accounts, amount=amounts, name=st.none() | st.sampled_from(NAMES))
    def unreserve(self, who: AccountId, amount: int, name: bytes | None) -> None:
        before, free = self.total(who), self.balances.free(who)
        left = (
            self.balances.unreserve(who, Balance(amount))
            if name is None
            else self.balances.unreserve_named(name, who, Balance(amount))
        )
        assert self.total(who) == before
        assert self.balances.free(who) == free + amount - left

    @rule(source=accounts, taker=accounts, amount=amounts, reserved=st.booleans())
    def repatriate(
        self, source: AccountId, taker: AccountId, amount: int, *, reserved: bool
    ) -> None:
        self.attempt(
            lambda: self.balances.repatriate_reserved(
                source, taker, Balance(amount), reserved=reserved
            )
        )

    @rule(who=accounts, amount=amounts)
    def slash(self, who: AccountId, amount: int) -> None:
        self.issued -= amount - self.balances.slash_reserved(who, Balance(amount))

    @rule(who=accounts, amount=amounts)
    def hold(self, who: AccountId, amount: int) -> None:
        self.attempt(lambda: self.balances.hold(HOLD_PREIMAGE, who, Balance(amount)))

    @rule(who=accounts, amount=amounts)
    def release(self, who: AccountId, amount: int) -> None:
        self.balances.release(HOLD_PREIMAGE, who, Balance(amount))

    @rule(who=accounts, amount=amounts, name=st.sampled_from(NAMES))
    def lock(self, who: AccountId, amount: int, name: bytes) -> None:
        self.attempt(lambda: self.balances.set_lock(name, who, Balance(amount)))

    @rule(who=accounts, amount=amounts)
    def freeze(self, who: AccountId, amount: int) -> None:
        self.attempt(lambda: self.balances.set_freeze(FREEZE_VOTE, who, Balance(amount)))

    @rule(source=accounts, taker=accounts, amount=amounts)
    def transfer(self, source: AccountId, taker: AccountId, amount: int) -> None:
        to = MultiAddress.of(taker)
        free = self.balances.free(source)
        done = self.attempt(
            lambda: self.balances.transfer_allow_death(Signed(source), to, Balance(amount))
        )
        if done and 0 < free - amount < ED and source != taker and amount:
            self.issued -= free - amount

    @rule(who=accounts, amount=amounts, keep_alive=st.booleans())
    def burn(self, who: AccountId, amount: int, *, keep_alive: bool) -> None:
        free = self.balances.free(who)
        if self.attempt(lambda: self.balances.burn(Signed(who), Balance(amount), keep_alive)):
            self.issued -= amount + (free - amount if free - amount < ED else 0)

    @invariant()
    def all_that_is_held_was_issued(self) -> None:
        assert self.balances.total_issuance.get() == self.issued
        assert sum(self.total(who) for who in ACCOUNTS) == self.issued

    @invariant()
    def every_name_and_hold_is_covered(self) -> None:
        for who in ACCOUNTS:
            named = sum(each.amount for each in self.balances.reserves.get(who))
            held = sum(each.amount for each in self.balances.holds.get(who))
            assert named + held <= self.system.account_of(who).data.reserved

    @invariant()
    def frozen_is_the_largest_lock_or_freeze(self) -> None:
        for who in ACCOUNTS:
            locked = max((each.amount for each in self.balances.locks.get(who)), default=0)
            frozen = max((each.amount for each in self.balances.freezes.get(who)), default=0)
            assert self.system.account_of(who).data.frozen == max(locked, frozen)

    @invariant()
    def who_is_relied_on_stays(self) -> None:
        for who in ACCOUNTS:
            info = self.system.account_of(who)
            assert info.consumers == bool(info.data.reserved or info.data.frozen)
            assert info.exists == (info.data.free >= ED)
            assert info.exists or info.data == NO_ACCOUNT.data


TestCustody = CustodyKeepsItsSums.TestCase


def test_a_run_is_the_same_under_any_hash_seed() -> None:
    script = Path(__file__).with_name("chain_run.py")

    assert check_deterministic(script, "1") != check_deterministic(script, "2")


def test_a_run_that_follows_a_sets_order_is_found(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text("print(list({'alice', 'bob', 'charlie', 'dave', 'eve'}))")

    with pytest.raises(AssertionError, match="under another hash seed"):
        check_deterministic(script)
