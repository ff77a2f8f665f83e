"""What the chain does by itself in a later block: order, limits, names, periods, cancelling."""

from hashlib import blake2b

import pytest

from phala.frame import BadOrigin, Block, Call, DispatchError, Root, Signed, dispatch_result
from phala.pallets.scheduler import (
    AGENDA_MAX,
    AGENDA_REF_TIME,
    TASK_REF_TIME,
    AgendaIncomplete,
    CallUnavailable,
    Canceled,
    Dispatched,
    FailedToSchedule,
    NotFound,
    PeriodicFailed,
    PermanentlyOverweight,
    RetryCancelled,
    RetryFailed,
    RetrySet,
    Scheduled,
    TargetBlockNumberInPast,
)
from phala.pallets.scheduler.kept import Inline, RetryConfig
from phala.primitives.address import MultiAddress
from phala.primitives.keys import storage_prefix
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber, Hash
from phala.runtime import GenesisConfig
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import World
from phala.tee.simulated_key import SimulatedKey
from phala.testing.chain import MemoryChain
from phala.testing.pallets import call_of, refused
from phala.trie import DictBase

ALICE, BOB = AccountId(b"a" * 32), AccountId(b"b" * 32)
NAME = b"n" * 32
AT = BlockNumber(5)
DONE = dispatch_result(None)
LONG = call_of("System", "remark", bytes(500))
LONG_HASH = Hash(blake2b(LONG.encoded, digest_size=32).digest())


def give(amount: int = PHA) -> Call:
    by, to = MultiAddress.of(ALICE), MultiAddress.of(BOB)
    return call_of("Balances", "force_transfer", by, to, Balance(amount))


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(1))


@pytest.fixture
def world(block: Block) -> World:
    made = World(block, AttestVerifier())
    made.balances.endow(ALICE, Balance(100 * PHA))
    return made


def run_to(world: World, number: int) -> list[object]:
    """Blocks up to that one. Returns what happened in the last of them."""
    while world.block.number < number:
        world.block.number = BlockNumber(world.block.number + 1)
        world.block.events.clear()
        world.block.phases.clear()
        world.scheduler.on_initialize()
    return world.block.events


def test_a_call_is_made_in_its_block_and_once(world: World, block: Block) -> None:
    world.scheduler.schedule(Root(), AT, None, 0, give())
    assert block.events[-1:] == [Scheduled(AT, 0)]

    run_to(world, 4)
    assert world.balances.free(BOB) == 0
    assert run_to(world, 5)[-1] == Dispatched((5, 0), None, DONE)
    run_to(world, 9)

    assert world.balances.free(BOB) == PHA
    assert AT not in world.scheduler.agenda


def test_a_call_that_fails_is_told(world: World) -> None:
    world.scheduler.schedule(Root(), AT, None, 0, call_of("Utility", "as_derivative", 0, give()))

    assert run_to(world, 5) == [Dispatched((5, 0), None, dispatch_result(DispatchError(2)))]


def test_calls_are_made_by_priority(world: World) -> None:
    for priority in (9, 1, 5):
        world.scheduler.schedule(Root(), AT, None, priority, give())

    made = [each for each in run_to(world, 5) if isinstance(each, Dispatched)]
    assert [each.task for each in made] == [(5, 1), (5, 2), (5, 0)]


def test_a_call_is_made_again_as_often_as_asked(world: World) -> None:
    world.scheduler.schedule(Root(), AT, (2, 3), 0, give())

    run_to(world, 20)

    assert world.balances.free(BOB) == 3 * PHA
    assert BlockNumber(11) not in world.scheduler.agenda


def test_after_counts_the_blocks_between(world: World, block: Block) -> None:
    world.scheduler.schedule_after(Root(), BlockNumber(3), None, 0, give())
    assert block.events[-1:] == [Scheduled(AT, 0)]
    world.scheduler.schedule_named_after(Root(), NAME, BlockNumber(3), None, 0, give())
    assert block.events[-1:] == [Scheduled(AT, 1)]


def test_a_name_is_taken_until_its_call_is_made(world: World, block: Block) -> None:
    world.scheduler.schedule_named(Root(), NAME, AT, None, 0, give())
    with refused(FailedToSchedule, block):
        world.scheduler.schedule_named(Root(), NAME, BlockNumber(6), None, 0, give())

    assert run_to(world, 5)[-1] == Dispatched((5, 0), NAME, DONE)
    world.scheduler.schedule_named(Root(), NAME, BlockNumber(6), None, 0, give())
    world.scheduler.cancel_named(Root(), NAME)

    assert block.events[-1:] == [Canceled(BlockNumber(6), 0)]
    with refused(NotFound, block):
        world.scheduler.cancel_named(Root(), NAME)
    run_to(world, 7)
    assert world.balances.free(BOB) == PHA


def test_what_is_canceled_is_not_made(world: World, block: Block) -> None:
    for _ in range(2):
        world.scheduler.schedule(Root(), AT, None, 0, give())
    world.scheduler.cancel(Root(), AT, 0)
    with refused(NotFound, block):
        world.scheduler.cancel(Root(), AT, 0)
    with refused(NotFound, block):
        world.scheduler.cancel(Root(), AT, 7)

    assert run_to(world, 5)[-1] == Dispatched((5, 1), None, DONE)
    assert world.balances.free(BOB) == PHA


def test_a_call_may_cancel_one_after_it(world: World) -> None:
    world.scheduler.schedule(Root(), AT, None, 0, call_of("Scheduler", "cancel", AT, 1))
    world.scheduler.schedule(Root(), AT, None, 1, give())

    run_to(world, 6)

    assert world.balances.free(BOB) == 0


def test_only_the_chain_schedules_and_only_what_is_to_come(world: World, block: Block) -> None:
    by = Signed(ALICE)
    with refused(BadOrigin, block):
        world.scheduler.schedule(by, AT, None, 0, give())
    with refused(BadOrigin, block):
        world.scheduler.schedule_named(by, NAME, AT, None, 0, give())
    with refused(BadOrigin, block):
        world.scheduler.cancel(by, AT, 0)
    with refused(BadOrigin, block):
        world.scheduler.cancel_named(by, NAME)
    with refused(TargetBlockNumberInPast, block):
        world.scheduler.schedule(Root(), BlockNumber(1), None, 0, give())


def test_an_agenda_has_a_limit(world: World, block: Block) -> None:
    for _ in range(AGENDA_MAX):
        world.scheduler.schedule(Root(), AT, None, 0, give())
    with refused(FailedToSchedule, block):
        world.scheduler.schedule(Root(), AT, None, 0, give())
    world.scheduler.cancel(Root(), AT, 3)

    world.scheduler.schedule(Root(), AT, None, 0, give())

    assert block.events[-1:] == [Scheduled(AT, 3)]


def test_a_period_ends_where_there_is_no_room(world: World) -> None:
    world.scheduler.schedule(Root(), AT, (2, 3), 0, give())
    for _ in range(AGENDA_MAX):
        world.scheduler.schedule(Root(), BlockNumber(7), None, 0, give())

    assert run_to(world, 5)[-1] == PeriodicFailed((5, 0), None)


# ---- long calls


def test_a_long_call_is_kept_by_its_hash_until_it_is_made(world: World) -> None:
    world.scheduler.schedule(Root(), AT, (2, 2), 0, LONG)
    assert world.preimage.preimage_of(LONG_HASH) == LONG.encoded

    assert Dispatched((5, 0), None, DONE) in run_to(world, 5)
    assert world.preimage.preimage_of(LONG_HASH) == LONG.encoded
    assert Dispatched((7, 0), None, DONE) in run_to(world, 7)
    assert world.preimage.preimage_of(LONG_HASH) is None


def test_a_call_that_is_gone_is_told(world: World) -> None:
    world.scheduler.schedule(Root(), AT, None, 0, LONG)
    world.preimage.preimage_for.delete((LONG_HASH, len(LONG.encoded)))

    assert CallUnavailable((5, 0), None) in run_to(world, 5)


def test_what_is_no_call_of_this_runtime_is_told(world: World) -> None:
    world.scheduler.schedule(Root(), AT, None, 0, give())
    (task,) = world.scheduler.agenda.get(AT)
    assert task is not None
    odd = type(task)(None, 0, Inline(b"\xff\xff"), None, Root())
    world.scheduler.agenda.put(AT, (odd,))

    assert run_to(world, 5) == [CallUnavailable((5, 0), None)]


# ---- limits


def test_what_there_is_no_time_for_is_made_in_the_next_block(world: World) -> None:
    each = TASK_REF_TIME + give().info.weight.ref_time
    world.scheduler.ref_time_max = AGENDA_REF_TIME + 2 * each
    for _ in range(3):
        world.scheduler.schedule(Root(), AT, None, 0, give())
    world.scheduler.schedule(Root(), BlockNumber(6), None, 0, give())

    assert run_to(world, 5)[-1] == AgendaIncomplete(AT)
    assert world.balances.free(BOB) == 2 * PHA
    run_to(world, 6)
    assert world.balances.free(BOB) == 3 * PHA
    run_to(world, 7)
    assert world.balances.free(BOB) == 4 * PHA
    assert world.scheduler.incomplete_since.get() is None


def test_what_never_fits_is_not_tried_again(world: World) -> None:
    world.scheduler.ref_time_max = AGENDA_REF_TIME + TASK_REF_TIME
    world.scheduler.schedule(Root(), AT, None, 0, give())

    assert run_to(world, 5) == [PermanentlyOverweight((5, 0), None)]
    assert run_to(world, 6) == []


def test_tasks_take_their_weight_of_the_block(world: World, block: Block) -> None:
    world.scheduler.schedule(Root(), AT, None, 0, give())
    block.number = AT

    weight = AGENDA_REF_TIME + TASK_REF_TIME + give().info.weight.ref_time
    assert world.scheduler.on_initialize() == weight
    assert world.scheduler.on_initialize() == 0


def test_a_block_begins_with_its_tasks() -> None:
    config = GenesisConfig.dev(
        authority=b"g" * 32,
        simulated_root=SimulatedKey(b"\1" * 32, b"\2" * 32).public_root,
        measurement=b"m" * 48,
        runtime_id=Hash(b"r" * 32),
    )
    chain = MemoryChain(config)
    before = chain.state()
    World(Block(BlockNumber(0), before), AttestVerifier()).scheduler.add(
        None, BlockNumber(1), None, 0, call_of("System", "remark_with_event", b"")
    )
    chain.trie = chain.trie.update(before.changes(), DictBase(chain.pairs))
    chain.pairs |= {key: value for key, value in before.changes() if value is not None}

    chain.block()

    block = Block(BlockNumber(1), chain.state())
    world = World(block, AttestVerifier())
    assert BlockNumber(1) not in world.scheduler.agenda
    mandatory = world.system.block_weight.get().mandatory.ref_time
    assert mandatory > AGENDA_REF_TIME + TASK_REF_TIME


NEVER = call_of("Utility", "as_derivative", 0, call_of("System", "remark", b""))  # root cannot
NEVER_LONG = call_of("Utility", "as_derivative", 0, LONG)


def tries(world: World, until: int) -> list[int]:
    """Blocks up to that one; in which of them a task ran."""
    found: list[int] = []
    while world.block.number < until:
        events = run_to(world, world.block.number + 1)
        found += [world.block.number for each in events if isinstance(each, Dispatched)]
    return found


@pytest.mark.parametrize("failing", [NEVER, NEVER_LONG])
def test_what_fails_is_tried_again_as_often_as_asked(
    world: World, block: Block, failing: Call
) -> None:
    world.scheduler.schedule(Root(), AT, None, 0, failing)
    world.scheduler.set_retry(Root(), (AT, 0), 2, BlockNumber(3))
    assert block.events[-1:] == [RetrySet((AT, 0), None, BlockNumber(3), 2)]

    assert tries(world, 20) == [5, 8, 11]

    assert list(block.state.keys(storage_prefix("Scheduler", "Retries"))) == []
    hash_ = Hash(blake2b(NEVER_LONG.encoded, digest_size=32).digest())
    assert world.preimage.preimage_of(hash_) is None


def test_a_retry_has_no_name_and_its_task_comes_again_all_the_same(world: World) -> None:
    world.scheduler.schedule_named(Root(), NAME, AT, (10, 2), 0, NEVER)
    world.scheduler.set_retry_named(Root(), NAME, 1, BlockNumber(0))

    assert tries(world, 30) == [5, 6, 15, 16]


def test_what_goes_well_is_not_tried_again(world: World) -> None:
    world.scheduler.schedule(Root(), AT, (4, 2), 0, give())
    world.scheduler.set_retry(Root(), (AT, 0), 9, BlockNumber(1))

    assert tries(world, 20) == [5, 9]
    assert world.scheduler.retries.get((9, 0)) is None


def test_retries_can_be_cancelled(world: World, block: Block) -> None:
    with refused(NotFound, block):
        world.scheduler.set_retry(Root(), (AT, 0), 1, BlockNumber(1))
    with refused(NotFound, block):
        world.scheduler.cancel_retry(Root(), (AT, 0))
    with refused(BadOrigin, block):
        world.scheduler.set_retry(Signed(ALICE), (AT, 0), 1, BlockNumber(1))
    with refused(BadOrigin, block):
        world.scheduler.set_retry_named(Signed(ALICE), NAME, 1, BlockNumber(1))
    world.scheduler.schedule(Root(), AT, None, 0, NEVER)
    world.scheduler.schedule_named(Root(), NAME, AT, None, 0, NEVER)
    world.scheduler.set_retry(Root(), (AT, 0), 1, BlockNumber(1))
    world.scheduler.set_retry_named(Root(), NAME, 1, BlockNumber(1))
    assert world.scheduler.retries.get((AT, 1)) == RetryConfig(1, 1, BlockNumber(1))

    world.scheduler.cancel_retry(Root(), (AT, 0))
    world.scheduler.cancel_retry_named(Root(), NAME)

    assert block.events[-2:] == [RetryCancelled((AT, 0), None), RetryCancelled((AT, 1), NAME)]
    assert tries(world, 10) == [5, 5]


def test_a_retry_for_which_there_is_no_room_is_told(world: World) -> None:
    world.scheduler.schedule(Root(), AT, None, 0, NEVER)
    world.scheduler.set_retry(Root(), (AT, 0), 1, BlockNumber(1))
    for _ in range(AGENDA_MAX):
        world.scheduler.schedule(Root(), BlockNumber(6), None, 0, give())

    assert run_to(world, 5)[-1:] == [RetryFailed((5, 0), None)]


def test_a_task_that_is_cancelled_leaves_no_retry_to_the_next_in_its_place(world: World) -> None:
    world.scheduler.schedule(Root(), AT, None, 0, NEVER)
    world.scheduler.set_retry(Root(), (AT, 0), 1, BlockNumber(1))
    world.scheduler.cancel(Root(), AT, 0)
    world.scheduler.schedule(Root(), AT, None, 0, NEVER)

    assert tries(world, 10) == [5]
