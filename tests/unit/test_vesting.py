"""Funds that become free block by block: what is locked when, merging, each refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.frame import BadOrigin, Block, Frozen, FundsUnavailable, Root, Signed
from phala.pallets.vesting import (
    SCHEDULES_MAX,
    TRANSFER_MIN,
    AmountLow,
    AtMaxVestingSchedules,
    InvalidScheduleParams,
    NotVesting,
    ScheduleIndexOutOfBounds,
    ScheduleRecord,
    VestingCompleted,
    VestingCreated,
    VestingUpdated,
    merged,
)
from phala.primitives.address import MultiAddress
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import World
from phala.testing.pallets import refused

ALICE, BOB = AccountId(b"a" * 32), AccountId(b"b" * 32)
TO_ALICE, TO_BOB = MultiAddress.of(ALICE), MultiAddress.of(BOB)
ONE = Balance(PHA)


def schedule(locked: int, per_block: int, start: int) -> ScheduleRecord:
    return ScheduleRecord(Balance(locked), Balance(per_block), BlockNumber(start))


TEN_BLOCKS = schedule(10 * PHA, PHA, 10)


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(1))


@pytest.fixture
def world(block: Block) -> World:
    made = World(block, AttestVerifier())
    made.balances.endow(ALICE, Balance(1_000 * PHA))
    made.balances.endow(BOB, ONE)
    return made


def frozen(world: World) -> int:
    return world.system.account_of(BOB).data.frozen


def test_funds_become_free_block_by_block(world: World, block: Block) -> None:
    world.vesting.vested_transfer(Signed(ALICE), TO_BOB, TEN_BLOCKS)

    kinds = (VestingCreated, VestingUpdated, VestingCompleted)
    assert [each for each in block.events if isinstance(each, kinds)] == [
        VestingCreated(BOB, 0),
        VestingUpdated(BOB, Balance(10 * PHA)),
    ]
    assert (world.balances.free(BOB), frozen(world)) == (11 * PHA, 10 * PHA)
    with refused(Frozen, block):
        world.balances.transfer_keep_alive(Signed(BOB), TO_ALICE, Balance(2 * PHA))

    block.number = BlockNumber(14)
    world.vesting.vest(Signed(BOB))
    assert frozen(world) == 6 * PHA
    world.balances.transfer_keep_alive(Signed(BOB), TO_ALICE, Balance(4 * PHA))

    block.number = BlockNumber(20)
    world.vesting.vest_other(Signed(ALICE), TO_BOB)
    assert frozen(world) == 0
    assert block.events[-1:] == [VestingCompleted(BOB)]
    with refused(NotVesting, block):
        world.vesting.vest(Signed(BOB))
    with refused(NotVesting, block):
        world.vesting.vest_other(Signed(ALICE), TO_BOB)


def test_a_schedule_must_come_to_something(world: World, block: Block) -> None:
    by = Signed(ALICE)
    with refused(AmountLow, block):
        world.vesting.vested_transfer(by, TO_BOB, schedule(TRANSFER_MIN - 1, 1, 0))
    with refused(InvalidScheduleParams, block):
        world.vesting.vested_transfer(by, TO_BOB, schedule(PHA, 0, 0))
    with refused(FundsUnavailable, block):
        world.vesting.vested_transfer(by, TO_BOB, schedule(2_000 * PHA, 1, 0))


def test_an_account_has_few_schedules(world: World, block: Block) -> None:
    for _ in range(SCHEDULES_MAX):
        world.vesting.vested_transfer(Signed(ALICE), TO_BOB, TEN_BLOCKS)
    with refused(AtMaxVestingSchedules, block):
        world.vesting.vested_transfer(Signed(ALICE), TO_BOB, TEN_BLOCKS)


def test_two_schedules_become_one(world: World, block: Block) -> None:
    for each in (TEN_BLOCKS, schedule(20 * PHA, PHA, 10)):
        world.vesting.vested_transfer(Signed(ALICE), TO_BOB, each)
    block.number = BlockNumber(15)
    with refused(ScheduleIndexOutOfBounds, block):
        world.vesting.merge_schedules(Signed(BOB), 0, 2)

    world.vesting.merge_schedules(Signed(BOB), 1, 1)
    world.vesting.merge_schedules(Signed(BOB), 0, 1)

    whole = schedule(20 * PHA, 20 * PHA // 15, 15)  # from now to block 30
    assert world.vesting.vesting.get(BOB) == (whole,)
    assert frozen(world) == 20 * PHA
    with refused(NotVesting, block):
        world.vesting.merge_schedules(Signed(ALICE), 0, 1)


@pytest.mark.parametrize(("now", "left"), [(19, 1), (20, 1), (30, 0)])
def test_what_is_over_is_not_merged(now: int, left: int) -> None:
    later = schedule(20 * PHA, PHA, 10)

    found = merged(BlockNumber(now), TEN_BLOCKS, later)

    assert len(found) == left
    assert now < 20 or found in ((later,), ())


@given(
    st.integers(0, 60),
    *[st.builds(schedule, st.integers(1, 10**6), st.integers(1, 10**5), st.integers(0, 40))] * 2,
)
def test_merging_frees_nothing_early(now: int, one: ScheduleRecord, two: ScheduleRecord) -> None:
    at = BlockNumber(now)
    before = one.locked_at(at) + two.locked_at(at)

    found = merged(at, one, two)

    assert sum(each.locked_at(at) for each in found) == before


def test_the_chain_itself_sends_and_ends(world: World, block: Block) -> None:
    world.vesting.force_vested_transfer(Root(), TO_ALICE, TO_BOB, TEN_BLOCKS)
    with refused(InvalidScheduleParams, block):
        world.vesting.force_remove_vesting_schedule(Root(), TO_BOB, 1)
    with refused(BadOrigin, block):
        world.vesting.force_remove_vesting_schedule(Signed(BOB), TO_BOB, 0)
    with refused(BadOrigin, block):
        world.vesting.force_vested_transfer(Signed(BOB), TO_ALICE, TO_BOB, TEN_BLOCKS)

    world.vesting.force_remove_vesting_schedule(Root(), TO_BOB, 0)

    assert frozen(world) == 0
    assert world.balances.free(BOB) == 11 * PHA
