"""What of an account is reserved, held, locked or frozen; what the chain itself may set."""

import pytest

from phala.frame import (
    BadOrigin,
    Block,
    ConsumerRemaining,
    Frozen,
    FundsUnavailable,
    NotExpendable,
    Root,
    Signed,
)
from phala.pallets.balances import (
    EXISTENTIAL_DEPOSIT,
    FREEZE_VOTE,
    HOLD_PREIMAGE,
    Balances,
    BalanceSet,
    Burned,
    DeadAccount,
    DeltaZero,
    InsufficientBalance,
    IssuanceDeactivated,
    LiquidityRestrictions,
    Locked,
    Reserved,
    ReserveRepatriated,
    Slashed,
    Thawed,
    TotalIssuanceForced,
    Unlocked,
    Unreserved,
)
from phala.pallets.balances import Frozen as MoreFrozen
from phala.pallets.balances.errors import TooManyHolds, TooManyReserves
from phala.pallets.balances.rules import LOCKS_MAX, Hold, raised
from phala.pallets.system import System
from phala.primitives.address import MultiAddress
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber
from phala.testing.pallets import refused

ALICE, BOB = AccountId(b"a" * 32), AccountId(b"b" * 32)
TEN, ONE = Balance(10 * PHA), Balance(PHA)
ED = EXISTENTIAL_DEPOSIT
TO_BOB = MultiAddress.of(BOB)
FROM_ALICE = MultiAddress.of(ALICE)
LOCK = b"phala/ts"


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(1))


@pytest.fixture
def system(block: Block) -> System:
    return System(block)


@pytest.fixture
def balances(block: Block, system: System) -> Balances:
    made = Balances(block, accounts=system)
    made.endow(ALICE, TEN)
    block.events.clear()
    block.phases.clear()
    return made


def parts(system: System, who: AccountId) -> tuple[int, int, int]:
    data = system.account_of(who).data
    return data.free, data.reserved, data.frozen


# ---- reserves


def test_what_is_reserved_cannot_be_sent_and_comes_back(
    balances: Balances, block: Block, system: System
) -> None:
    balances.reserve(ALICE, ONE)

    assert parts(system, ALICE) == (9 * PHA, PHA, 0)
    assert system.account_of(ALICE).consumers == 1
    with refused(FundsUnavailable, block):
        balances.transfer_allow_death(Signed(ALICE), TO_BOB, TEN)

    assert balances.unreserve(ALICE, Balance(3 * PHA)) == 2 * PHA
    assert parts(system, ALICE) == (TEN, 0, 0)
    assert system.account_of(ALICE).consumers == 0
    assert block.events == [Reserved(ALICE, ONE), Unreserved(ALICE, ONE)]


def test_an_account_with_reserves_stays(balances: Balances, block: Block) -> None:
    balances.reserve(ALICE, ONE)

    with refused(NotExpendable, block):
        balances.transfer_allow_death(Signed(ALICE), TO_BOB, Balance(9 * PHA))
    balances.transfer_all(Signed(ALICE), TO_BOB, False)  # noqa: FBT003 - as on the wire

    assert balances.free(ALICE) == ED


def test_no_more_is_reserved_than_can_be(balances: Balances, block: Block) -> None:
    with refused(InsufficientBalance, block):
        balances.reserve(ALICE, Balance(TEN + 1))
    with refused(ConsumerRemaining, block):
        balances.reserve(ALICE, Balance(TEN - ED + 1))
    balances.set_lock(LOCK, ALICE, Balance(5 * PHA))
    with refused(LiquidityRestrictions, block):
        balances.reserve(ALICE, Balance(6 * PHA))


def test_reserves_are_slashed(balances: Balances, block: Block) -> None:
    balances.reserve(ALICE, ONE)

    assert balances.slash_reserved(ALICE, Balance(2 * PHA)) == PHA
    assert balances.total_issuance.get() == 9 * PHA
    assert block.events[-1] == Slashed(ALICE, ONE)


@pytest.mark.parametrize("reserved", [False, True])
def test_reserves_go_to_another(
    balances: Balances, block: Block, system: System, *, reserved: bool
) -> None:
    balances.endow(BOB, ONE)
    balances.reserve(ALICE, ONE)

    assert balances.repatriate_reserved(ALICE, BOB, ONE, reserved=reserved) == 0

    assert parts(system, ALICE) == (9 * PHA, 0, 0)
    assert parts(system, BOB) == ((PHA, PHA, 0) if reserved else (2 * PHA, 0, 0))
    assert block.events[-1] == ReserveRepatriated(ALICE, BOB, ONE, int(reserved))


def test_reserves_go_to_nobody_dead(balances: Balances, block: Block) -> None:
    balances.reserve(ALICE, ONE)

    with refused(DeadAccount, block):
        balances.repatriate_reserved(ALICE, BOB, ONE, reserved=False)


def test_a_named_reserve_is_given_back_under_its_name_alone(balances: Balances) -> None:
    balances.reserve_named(LOCK, ALICE, ONE)

    assert balances.unreserve(ALICE, ONE) == PHA
    assert balances.unreserve_named(b"another!", ALICE, ONE) == PHA
    assert balances.unreserve_named(LOCK, ALICE, Balance(2 * PHA)) == PHA
    assert balances.free(ALICE) == TEN
    assert balances.reserves.get(ALICE) == ()


def test_named_reserves_have_a_limit(balances: Balances, block: Block) -> None:
    for number in range(LOCKS_MAX):
        balances.reserve_named(number.to_bytes(8, "big"), ALICE, Balance(1))

    with refused(TooManyReserves, block):
        balances.reserve_named(LOCK, ALICE, Balance(1))


# ---- holds


def test_what_is_held_is_released_for_its_reason(
    balances: Balances, block: Block, system: System
) -> None:
    balances.hold(HOLD_PREIMAGE, ALICE, ONE)
    balances.hold(HOLD_PREIMAGE, ALICE, ONE)

    assert balances.held(HOLD_PREIMAGE, ALICE) == 2 * PHA
    assert parts(system, ALICE) == (8 * PHA, 2 * PHA, 0)
    assert balances.unreserve(ALICE, ONE) == PHA, "a hold is no reserve"
    with refused(FundsUnavailable, block):
        balances.hold(HOLD_PREIMAGE, ALICE, Balance(8 * PHA - ED + 1))

    assert balances.release(HOLD_PREIMAGE, ALICE, Balance(5 * PHA)) == 3 * PHA
    assert parts(system, ALICE) == (TEN, 0, 0)
    assert balances.holds.get(ALICE) == ()


def test_holds_have_a_limit() -> None:
    full = tuple(Hold(number, Balance(1)) for number in range(LOCKS_MAX))

    with pytest.raises(TooManyHolds):
        raised(full, Hold, LOCKS_MAX, Balance(1), TooManyHolds)
    assert len(raised(full, Hold, 0, Balance(1), TooManyHolds)) == LOCKS_MAX


# ---- locks and freezes


def test_the_largest_lock_or_freeze_counts(
    balances: Balances, block: Block, system: System
) -> None:
    balances.set_lock(LOCK, ALICE, Balance(4 * PHA))
    balances.set_lock(b"another!", ALICE, Balance(6 * PHA))
    balances.set_freeze(FREEZE_VOTE, ALICE, Balance(7 * PHA))

    assert parts(system, ALICE) == (TEN, 0, 7 * PHA)
    with refused(Frozen, block):
        balances.transfer_allow_death(Signed(ALICE), TO_BOB, Balance(4 * PHA))
    balances.transfer_allow_death(Signed(ALICE), TO_BOB, Balance(3 * PHA))

    balances.set_freeze(FREEZE_VOTE, ALICE, Balance(0))
    balances.set_lock(b"another!", ALICE, Balance(0))
    balances.set_lock(LOCK, ALICE, Balance(0))

    assert parts(system, ALICE) == (7 * PHA, 0, 0)
    assert system.account_of(ALICE).consumers == 0
    kinds = (Locked, Unlocked, MoreFrozen, Thawed)
    assert [each for each in block.events if isinstance(each, kinds)] == [
        Locked(ALICE, Balance(4 * PHA)),
        Locked(ALICE, Balance(2 * PHA)),
        MoreFrozen(ALICE, Balance(PHA)),
        Thawed(ALICE, Balance(PHA)),
        Unlocked(ALICE, Balance(2 * PHA)),
        Unlocked(ALICE, Balance(4 * PHA)),
    ]


def test_what_is_reserved_counts_towards_what_is_frozen(balances: Balances) -> None:
    balances.reserve(ALICE, Balance(4 * PHA))
    balances.set_lock(LOCK, ALICE, Balance(5 * PHA))

    balances.transfer_allow_death(Signed(ALICE), TO_BOB, Balance(5 * PHA))

    assert balances.free(ALICE) == PHA


def test_nothing_is_locked_on_nobody(balances: Balances, block: Block) -> None:
    with refused(DeadAccount, block):
        balances.set_lock(LOCK, BOB, ONE)
    with refused(DeadAccount, block):
        balances.set_freeze(FREEZE_VOTE, BOB, ONE)


# ---- what the chain itself may


def test_the_chain_moves_and_sets_balances(balances: Balances, block: Block) -> None:
    balances.force_transfer(Root(), FROM_ALICE, TO_BOB, ONE)
    balances.force_set_balance(Root(), TO_BOB, Balance(5 * PHA))
    assert balances.total_issuance.get() == 14 * PHA
    balances.force_set_balance(Root(), TO_BOB, Balance(ED - 1))

    assert (balances.free(ALICE), balances.free(BOB)) == (9 * PHA, 0)
    assert balances.total_issuance.get() == 9 * PHA
    assert block.events[-1] == BalanceSet(BOB, Balance(0))
    balances.force_set_balance(Root(), TO_BOB, ONE)
    assert balances.total_issuance.get() == 10 * PHA


def test_the_chain_does_not_kill_who_has_reserves(balances: Balances, block: Block) -> None:
    balances.reserve(ALICE, ONE)

    with refused(ConsumerRemaining, block):
        balances.force_set_balance(Root(), FROM_ALICE, Balance(0))
    balances.force_unreserve(Root(), FROM_ALICE, ONE)
    balances.force_set_balance(Root(), FROM_ALICE, Balance(0))

    assert balances.total_issuance.get() == 0


def test_the_chain_mends_its_sum(balances: Balances, block: Block) -> None:
    balances.force_adjust_total_issuance(Root(), 0, ONE)
    balances.force_adjust_total_issuance(Root(), 1, Balance(3 * PHA))

    assert block.events[-1] == TotalIssuanceForced(Balance(11 * PHA), Balance(8 * PHA))
    with refused(DeltaZero, block):
        balances.force_adjust_total_issuance(Root(), 1, Balance(0))
    balances.inactive_issuance.put(Balance(8 * PHA))
    with refused(IssuanceDeactivated, block):
        balances.force_adjust_total_issuance(Root(), 1, ONE)


def test_nobody_else_may(balances: Balances, block: Block) -> None:
    by = Signed(ALICE)
    with refused(BadOrigin, block):
        balances.force_transfer(by, FROM_ALICE, TO_BOB, ONE)
    with refused(BadOrigin, block):
        balances.force_unreserve(by, FROM_ALICE, ONE)
    with refused(BadOrigin, block):
        balances.force_set_balance(by, FROM_ALICE, ONE)
    with refused(BadOrigin, block):
        balances.force_adjust_total_issuance(by, 0, ONE)
    with refused(BadOrigin, block):
        balances.upgrade_accounts(Root(), (ALICE,))
    balances.upgrade_accounts(by, (ALICE,))


# ---- burning


def test_own_funds_can_be_burnt(balances: Balances, block: Block) -> None:
    balances.burn(Signed(ALICE), ONE, True)  # noqa: FBT003 - as on the wire

    assert balances.total_issuance.get() == balances.free(ALICE) == 9 * PHA
    assert block.events == [Burned(ALICE, ONE)]
    with refused(NotExpendable, block):
        balances.burn(Signed(ALICE), Balance(9 * PHA), True)  # noqa: FBT003
    with refused(FundsUnavailable, block):
        balances.burn(Signed(ALICE), TEN, False)  # noqa: FBT003

    balances.burn(Signed(ALICE), Balance(9 * PHA - 1), False)  # noqa: FBT003

    assert balances.total_issuance.get() == balances.free(ALICE) == 0
