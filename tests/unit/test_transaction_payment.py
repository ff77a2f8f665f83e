"""What an extrinsic costs: the multiplier after full and empty blocks, tips, what is burnt."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.frame import BadOrigin, Block, DispatchClass, DispatchInfo, Root, Signed, Weight
from phala.pallets.balances import Balances
from phala.pallets.system import System
from phala.pallets.transaction_payment import (
    BASE_FEE,
    BURN_SHARE_MAX,
    LENGTH_FEE,
    MULTIPLIER_MAX,
    MULTIPLIER_ONE,
    TREASURY,
    BurnShareSet,
    ShareTooLarge,
    TransactionFeePaid,
    TransactionPayment,
    next_multiplier,
)
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber
from phala.testing.pallets import refused

ALICE = AccountId(b"a" * 32)
TEN = Balance(10 * PHA)
MOST = 1_500_000_000_000


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(1))


@pytest.fixture
def balances(block: Block) -> Balances:
    made = Balances(block, accounts=System(block))
    made.endow(ALICE, TEN)
    made.endow(TREASURY, TEN)
    return made


@pytest.fixture
def payment(block: Block, balances: Balances) -> TransactionPayment:
    return TransactionPayment(block, currency=balances, ref_time_max=MOST)


# ---- the multiplier


def test_a_full_block_makes_weight_dearer() -> None:
    # v = 1e-5, d = 3/4: 7.5e-6 + (7.5e-6)**2 / 2 of itself
    assert next_multiplier(MULTIPLIER_ONE, MOST, MOST) == 1_000_007_500_028_125_000


def test_a_block_at_the_target_changes_nothing() -> None:
    assert next_multiplier(5 * MULTIPLIER_ONE, MOST // 4, MOST) == 5 * MULTIPLIER_ONE


def test_an_empty_block_makes_weight_cheaper_down_to_the_rest() -> None:
    # d = 1/4: 2.5e-6 - (2.5e-6)**2 / 2 of itself
    assert next_multiplier(2 * MULTIPLIER_ONE, 0, MOST) == 1_999_995_000_006_250_000
    assert next_multiplier(MULTIPLIER_ONE, 0, MOST) == MULTIPLIER_ONE


def test_the_multiplier_has_an_upper_end() -> None:
    assert next_multiplier(MULTIPLIER_MAX, MOST, MOST) == MULTIPLIER_MAX


@given(st.integers(MULTIPLIER_ONE, MULTIPLIER_MAX), st.integers(0, 2 * MOST))
def test_the_multiplier_follows_the_formula(before: int, taken: int) -> None:
    apart = Fraction(min(taken, MOST), MOST) - Fraction(1, 4)
    step = Fraction(1, 100_000) * apart
    exact = before * (1 + step + step * step / 2)
    exact = min(max(exact, Fraction(MULTIPLIER_ONE)), Fraction(MULTIPLIER_MAX))

    found = next_multiplier(before, taken, MOST)

    assert abs(found - exact) <= 4 + 4 * before // MULTIPLIER_ONE


def test_blocks_move_the_multiplier(payment: TransactionPayment, block: Block) -> None:
    block.ref_time[DispatchClass.NORMAL] = MOST
    block.ref_time[DispatchClass.MANDATORY] = MOST
    payment.on_finalize()
    raised = payment.next_fee_multiplier.get()
    assert raised > MULTIPLIER_ONE

    block.ref_time[DispatchClass.NORMAL] = 0
    payment.on_finalize()
    assert MULTIPLIER_ONE <= payment.next_fee_multiplier.get() < raised


def test_the_multiplier_makes_weight_dearer_and_nothing_else(payment: TransactionPayment) -> None:
    info = DispatchInfo(Weight(50_000_000, 0))
    payment.next_fee_multiplier.put(3 * MULTIPLIER_ONE)

    weight_fee = 3 * BASE_FEE // 2
    assert payment.fee(info, 100, Balance(7)) == BASE_FEE + 100 * LENGTH_FEE + weight_fee + 7
    assert payment.inclusion_fee(info, 100).total == payment.fee(info, 100, Balance(0))


# ---- where fees go


def test_a_fifth_of_fees_is_burnt_and_no_tip(
    payment: TransactionPayment, balances: Balances, block: Block
) -> None:
    fee, tip = Balance(3 * PHA), Balance(2 * PHA)
    payment.charge(ALICE, fee)
    payment.settle(ALICE, fee, tip)
    assert block.events[-1] == TransactionFeePaid(ALICE, fee, tip)
    payment.on_finalize()

    burnt = PHA // 5
    assert balances.free(TREASURY) == TEN + fee - burnt
    assert balances.total_issuance.get() == 2 * TEN - burnt
    assert balances.free(ALICE) == TEN - fee


@given(st.integers(0, PHA), st.integers(0, PHA), st.integers(0, BURN_SHARE_MAX))
def test_issuance_falls_by_what_is_burnt(inclusion: int, tip: int, share: int) -> None:
    block = Block(BlockNumber(1))
    balances = Balances(block, accounts=System(block))
    payment = TransactionPayment(block, currency=balances, ref_time_max=MOST)
    for who in (ALICE, TREASURY):
        balances.endow(who, TEN)
    payment.set_fee_burn_share(Root(), share)
    payment.charge(ALICE, Balance(inclusion + tip))
    payment.settle(ALICE, Balance(inclusion + tip), Balance(tip))
    payment.on_finalize()

    held = balances.free(ALICE) + balances.free(TREASURY)
    assert balances.total_issuance.get() == held
    assert 2 * TEN - held == inclusion * share // 10**9


def test_the_share_is_the_chains_to_set_up_to_a_half(
    payment: TransactionPayment, block: Block
) -> None:
    payment.set_fee_burn_share(Root(), 0)
    assert block.events[-1] == BurnShareSet(0)
    with refused(ShareTooLarge, block):
        payment.set_fee_burn_share(Root(), BURN_SHARE_MAX + 1)
    with refused(BadOrigin, block):
        payment.set_fee_burn_share(Signed(ALICE), 0)
