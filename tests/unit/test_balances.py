"""What accounts hold: each way to move it, each refusal."""

import pytest

from phala.frame import (
    NO_ACCOUNT,
    BelowMinimum,
    Block,
    CannotLookup,
    FundsUnavailable,
    NotExpendable,
    Signed,
)
from phala.pallets.balances import (
    EXISTENTIAL_DEPOSIT,
    Balances,
    Deposit,
    DustLost,
    Endowed,
    Transfer,
    Withdraw,
)
from phala.pallets.system import KilledAccount, NewAccount, System
from phala.primitives.address import MultiAddress
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber
from phala.testing.pallets import refused

ALICE, BOB = AccountId(b"a" * 32), AccountId(b"b" * 32)
TEN = Balance(10 * PHA)
ED = EXISTENTIAL_DEPOSIT
TO_BOB = MultiAddress.of(BOB)


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


def test_the_existential_deposit_is_a_hundredth_of_a_pha() -> None:
    assert ED == 10**10


def test_a_transfer_makes_the_receiver(balances: Balances, block: Block, system: System) -> None:
    balances.transfer_keep_alive(Signed(ALICE), TO_BOB, Balance(PHA))

    assert (balances.free(ALICE), balances.free(BOB)) == (9 * PHA, PHA)
    assert block.events == [NewAccount(BOB), Endowed(BOB, Balance(PHA)), Transfer(ALICE, BOB, PHA)]
    assert system.account_of(BOB).providers == 1


def test_more_than_there_is_cannot_be_sent(balances: Balances, block: Block) -> None:
    with refused(FundsUnavailable, block):
        balances.transfer_allow_death(Signed(ALICE), TO_BOB, Balance(TEN + 1))


def test_an_account_without_funds_sends_nothing(balances: Balances, block: Block) -> None:
    with refused(FundsUnavailable, block):
        balances.transfer_allow_death(Signed(BOB), MultiAddress.of(ALICE), Balance(1))


def test_a_receiver_is_not_made_of_dust(balances: Balances, block: Block) -> None:
    with refused(BelowMinimum, block):
        balances.transfer_keep_alive(Signed(ALICE), TO_BOB, Balance(ED - 1))
    balances.transfer_keep_alive(Signed(ALICE), TO_BOB, ED)

    balances.transfer_keep_alive(Signed(ALICE), TO_BOB, Balance(1))

    assert balances.free(BOB) == ED + 1


def test_keep_alive_keeps_the_existential_deposit(balances: Balances, block: Block) -> None:
    with refused(NotExpendable, block):
        balances.transfer_keep_alive(Signed(ALICE), TO_BOB, Balance(TEN - ED + 1))

    balances.transfer_keep_alive(Signed(ALICE), TO_BOB, Balance(TEN - ED))
    assert balances.free(ALICE) == ED


def test_a_sender_may_die_and_its_dust_is_burnt(
    balances: Balances, block: Block, system: System
) -> None:
    dust = Balance(ED - 1)

    balances.transfer_allow_death(Signed(ALICE), TO_BOB, Balance(TEN - dust))

    assert system.account_of(ALICE) == NO_ACCOUNT
    assert balances.total_issuance.get() == TEN - dust == balances.free(BOB)
    assert block.events[:2] == [KilledAccount(ALICE), DustLost(ALICE, dust)]


def test_all_of_it_can_be_sent(balances: Balances) -> None:
    balances.transfer_all(Signed(ALICE), TO_BOB, True)  # noqa: FBT003 - as on the wire
    assert (balances.free(ALICE), balances.free(BOB)) == (ED, TEN - ED)

    balances.transfer_all(Signed(ALICE), TO_BOB, False)  # noqa: FBT003 - as on the wire
    assert (balances.free(ALICE), balances.free(BOB)) == (0, TEN)


def test_what_is_sent_to_oneself_stays(balances: Balances, block: Block) -> None:
    balances.transfer_allow_death(Signed(ALICE), MultiAddress.of(ALICE), TEN)

    assert balances.free(ALICE) == TEN
    with refused(FundsUnavailable, block):
        balances.transfer_allow_death(Signed(ALICE), MultiAddress.of(ALICE), Balance(TEN + 1))


def test_nothing_can_be_sent_to_anybody(balances: Balances, system: System) -> None:
    balances.transfer_allow_death(Signed(ALICE), TO_BOB, Balance(0))

    assert system.account_of(BOB) == NO_ACCOUNT


def test_an_address_that_names_no_account_is_refused(balances: Balances, block: Block) -> None:
    with refused(CannotLookup, block):
        balances.transfer_allow_death(Signed(ALICE), MultiAddress(2, b"raw"), Balance(PHA))


def test_a_fee_is_withdrawn_and_deposited(balances: Balances, block: Block) -> None:
    balances.withdraw(ALICE, Balance(PHA))
    balances.deposit(BOB, Balance(PHA))

    assert (balances.free(ALICE), balances.free(BOB)) == (9 * PHA, PHA)
    assert block.events[0] == Withdraw(ALICE, Balance(PHA))
    assert block.events[-1] == Deposit(BOB, Balance(PHA))


def test_a_fee_never_kills(balances: Balances, block: Block) -> None:
    with refused(NotExpendable, block):
        balances.withdraw(ALICE, Balance(TEN - ED + 1))


def test_a_fee_too_small_to_make_its_receiver_is_burnt(balances: Balances) -> None:
    balances.withdraw(ALICE, Balance(ED - 1))
    balances.deposit(BOB, Balance(ED - 1))

    assert balances.free(BOB) == 0
    assert balances.total_issuance.get() == TEN - (ED - 1)
