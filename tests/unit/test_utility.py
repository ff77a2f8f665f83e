"""Calls in calls: batches, derived accounts, what is not let in."""

from hashlib import blake2b

import pytest

from phala.codec import Malformed, encode_compact
from phala.codec.reader import DEPTH_MAX
from phala.frame import (
    BadOrigin,
    Block,
    Call,
    DispatchError,
    InnerRefused,
    Origin,
    Root,
    Signed,
    Unsigned,
    Weight,
    dispatch_result,
)
from phala.pallets.balances import Transfer
from phala.pallets.utility import (
    BATCH_MAX,
    BatchCompleted,
    BatchCompletedWithErrors,
    BatchInterrupted,
    DispatchedAs,
    IfElseFallbackCalled,
    IfElseMainSuccess,
    ItemCompleted,
    ItemFailed,
    TooManyCalls,
    derivative_account,
)
from phala.primitives.address import MultiAddress
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber, Moment
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import CALLS, World
from phala.testing.pallets import call_of, refused

ALICE, BOB = AccountId(b"a" * 32), AccountId(b"b" * 32)
TEN = Balance(10 * PHA)
NO_FUNDS = DispatchError(7, b"\0")
BAD_ORIGIN = DispatchError(2)
FILTERED = DispatchError(3, bytes([0, 5, 0, 0, 0]))


def pay(amount: int) -> Call:
    return call_of("Balances", "transfer_keep_alive", MultiAddress.of(BOB), Balance(amount))


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(1))


@pytest.fixture
def world(block: Block) -> World:
    made = World(block, AttestVerifier())
    made.balances.endow(ALICE, TEN)
    block.events.clear()
    block.phases.clear()
    return made


def happened(block: Block, *kinds: type[object]) -> list[object]:
    return [each for each in block.events if isinstance(each, kinds)]


BATCH_EVENTS = (
    BatchInterrupted,
    BatchCompleted,
    BatchCompletedWithErrors,
    ItemCompleted,
    ItemFailed,
)


def test_a_batch_runs_its_calls_in_order(world: World, block: Block) -> None:
    world.utility.batch(Signed(ALICE), (pay(PHA), pay(2 * PHA)))

    assert happened(block, Transfer, *BATCH_EVENTS) == [
        Transfer(ALICE, BOB, Balance(PHA)),
        ItemCompleted(),
        Transfer(ALICE, BOB, Balance(2 * PHA)),
        ItemCompleted(),
        BatchCompleted(),
    ]


def test_a_batch_stops_at_the_first_failure_and_keeps_what_was_done(
    world: World, block: Block
) -> None:
    world.utility.batch(Signed(ALICE), (pay(PHA), pay(2 * TEN), pay(PHA)))

    assert world.balances.free(BOB) == PHA
    assert happened(block, *BATCH_EVENTS) == [ItemCompleted(), BatchInterrupted(1, NO_FUNDS)]


def test_batch_all_is_whole_or_not_at_all(world: World, block: Block) -> None:
    with refused(InnerRefused, block):
        world.utility.batch_all(Signed(ALICE), (pay(PHA), pay(2 * TEN)))
    with pytest.raises(InnerRefused) as raised:
        world.utility.batch_all(Signed(ALICE), (pay(2 * TEN),))
    assert raised.value.error == NO_FUNDS

    world.utility.batch_all(Signed(ALICE), (pay(PHA), pay(PHA)))

    assert world.balances.free(BOB) == 2 * PHA
    assert block.events[-1:] == [BatchCompleted()]


def test_a_forced_batch_goes_on_after_a_failure(world: World, block: Block) -> None:
    world.utility.force_batch(Signed(ALICE), (pay(PHA), pay(2 * TEN), pay(PHA)))

    assert world.balances.free(BOB) == 2 * PHA
    assert happened(block, *BATCH_EVENTS) == [
        ItemCompleted(),
        ItemFailed(NO_FUNDS),
        ItemCompleted(),
        BatchCompletedWithErrors(),
    ]


def test_a_forced_batch_without_failure_says_so(world: World, block: Block) -> None:
    world.utility.force_batch(Signed(ALICE), (pay(PHA),))

    assert block.events[-1:] == [BatchCompleted()]


def test_the_chain_itself_may_batch(world: World, block: Block) -> None:
    world.utility.force_batch(Root(), (pay(PHA),))

    assert happened(block, ItemFailed) == [ItemFailed(BAD_ORIGIN)]


@pytest.mark.parametrize("name", ["batch", "batch_all", "force_batch"])
def test_nobody_batches_nothing(world: World, block: Block, name: str) -> None:
    with refused(BadOrigin, block):
        getattr(world.utility, name)(Unsigned(), ())


@pytest.mark.parametrize("name", ["batch", "batch_all", "force_batch"])
def test_a_batch_has_a_limit(world: World, block: Block, name: str) -> None:
    with refused(TooManyCalls, block):
        getattr(world.utility, name)(Signed(ALICE), (pay(0),) * (BATCH_MAX + 1))


def test_what_is_the_authors_or_bare_is_no_part_of_a_batch(world: World, block: Block) -> None:
    world.utility.force_batch(Signed(ALICE), (call_of("Timestamp", "set", Moment(1)),))

    assert happened(block, ItemFailed) == [ItemFailed(FILTERED)]
    assert world.timestamp.now.get() == 0


def test_a_derived_account_acts_for_the_signer(world: World, block: Block) -> None:
    derived = derivative_account(ALICE, 7)
    world.balances.endow(derived, TEN)

    world.utility.as_derivative(Signed(ALICE), 7, pay(PHA))

    assert world.balances.free(derived) == 9 * PHA
    assert world.balances.free(ALICE) == TEN
    with refused(InnerRefused, block):
        world.utility.as_derivative(Signed(ALICE), 8, pay(PHA))
    with refused(BadOrigin, block):
        world.utility.as_derivative(Root(), 7, pay(PHA))


def test_the_chain_itself_acts_as_anybody(world: World, block: Block) -> None:
    world.utility.dispatch_as(Root(), Signed(ALICE), pay(PHA))
    assert block.events[-1:] == [DispatchedAs(dispatch_result(None))]
    world.utility.dispatch_as(Root(), Root(), pay(PHA))
    assert block.events[-1:] == [DispatchedAs(dispatch_result(BAD_ORIGIN))]
    with refused(BadOrigin, block):
        world.utility.dispatch_as(Signed(BOB), Signed(ALICE), pay(PHA))
    assert world.balances.free(BOB) == PHA


@pytest.mark.parametrize("origin", [Root(), Signed(ALICE), Unsigned()])
def test_who_asks_travels_as_substrate_writes_it(origin: Origin) -> None:
    encoded = call_of("Utility", "dispatch_as", origin, pay(PHA)).encoded

    front = {Root: "0000", Signed: "0001" + ALICE.hex(), Unsigned: "0002"}[type(origin)]
    assert encoded.hex().startswith("0803" + front + "0503")
    assert CALLS.decode(encoded).arguments[0] == origin


@pytest.mark.parametrize("front", ["0100", "0003"])
def test_nobody_else_asks(front: str) -> None:
    with pytest.raises(Malformed):
        CALLS.decode(bytes.fromhex("0803" + front) + pay(PHA).encoded)


def test_a_derived_account_is_substrates() -> None:
    # Source: pallet-utility's tests: `derivative_account_id(1, 0)` hashes this very preimage.
    preimage = b"modlpy/utilisuba" + ALICE + b"\0\1"
    assert derivative_account(ALICE, 256) == blake2b(preimage, digest_size=32).digest()


def test_a_batch_weighs_what_its_calls_weigh() -> None:
    one, batched = pay(PHA), call_of("Utility", "batch", (pay(PHA), pay(PHA)))
    nested = call_of("Utility", "as_derivative", 0, batched)

    empty, remarks = (
        call_of("Utility", "batch", (call_of("System", "remark", b""),) * count).info.weight
        for count in (0, 2)
    )
    remark = call_of("System", "remark", b"").info.weight.ref_time
    each = (remarks.ref_time - empty.ref_time) // 2 - remark
    assert each > 0
    weight = empty.ref_time + 2 * (one.info.weight.ref_time + each)
    assert batched.info.weight.ref_time == weight
    around = call_of("Utility", "as_derivative", 0, call_of("System", "remark", b""))
    assert nested.info.weight.ref_time == around.info.weight.ref_time - remark + weight


def test_calls_nest_to_a_depth_and_no_deeper() -> None:
    front = bytes([8, 1, 0, 0])
    inner = pay(PHA).encoded

    assert CALLS.decode(front * DEPTH_MAX + inner).arguments[1].pallet == 8
    with pytest.raises(Malformed, match="one inside the other"):
        CALLS.decode(front * (DEPTH_MAX + 1) + inner)


def test_the_deepest_call_runs(world: World) -> None:
    deepest = bytes([8, 0, 4]) * DEPTH_MAX + pay(PHA).encoded

    assert world.dispatch(CALLS.decode(deepest), Signed(ALICE)) is None
    assert world.balances.free(BOB) == PHA


@pytest.mark.parametrize("inner", ["", "05", "0063", "050300"])
def test_what_is_no_call_inside_is_malformed(inner: str) -> None:
    with pytest.raises(Malformed):
        CALLS.decode(bytes([8, 0]) + encode_compact(1) + bytes.fromhex(inner))


def test_a_call_inside_is_kept_as_it_came() -> None:
    inner = pay(PHA)

    (found,) = call_of("Utility", "batch", (inner,)).arguments[0]
    assert (found.encoded, found.info) == (inner.encoded, inner.info)


def test_the_second_call_runs_where_the_first_fails(world: World, block: Block) -> None:
    world.utility.if_else(Signed(ALICE), pay(PHA), pay(2 * PHA))
    assert block.events[-1:] == [IfElseMainSuccess()]
    assert world.balances.free(BOB) == PHA

    world.utility.if_else(Signed(ALICE), pay(TEN), pay(2 * PHA))

    assert block.events[-1:] == [IfElseFallbackCalled(NO_FUNDS)]
    assert world.balances.free(BOB) == 3 * PHA
    with refused(InnerRefused, block):
        world.utility.if_else(Signed(ALICE), pay(TEN), pay(2 * TEN))
    with refused(BadOrigin, block):
        world.utility.if_else(Unsigned(), pay(PHA), pay(PHA))
    call = call_of("Utility", "if_else", pay(1), pay(2))
    assert call.info.weight.ref_time > 2 * pay(1).info.weight.ref_time


def test_the_chain_itself_names_a_weight(world: World, block: Block) -> None:
    forced = call_of(
        "Balances", "force_transfer", MultiAddress.of(ALICE), MultiAddress.of(BOB), Balance(PHA)
    )
    weight = Weight(7 * 10**11, 0)
    assert call_of("Utility", "with_weight", forced, weight).info.weight.ref_time >= 7 * 10**11

    world.utility.with_weight(Root(), forced, weight)

    assert world.balances.free(BOB) == PHA
    with refused(BadOrigin, block):
        world.utility.with_weight(Signed(ALICE), forced, weight)
    with refused(InnerRefused, block):
        world.utility.with_weight(Root(), pay(PHA), weight)


def test_acting_as_anybody_may_fail_with_the_call(world: World, block: Block) -> None:
    world.utility.dispatch_as_fallible(Root(), Signed(ALICE), pay(PHA))
    assert block.events[-1:] == [DispatchedAs(dispatch_result(None))]

    with refused(InnerRefused, block):
        world.utility.dispatch_as_fallible(Root(), Signed(BOB), pay(TEN))
    with refused(BadOrigin, block):
        world.utility.dispatch_as_fallible(Signed(ALICE), Signed(BOB), pay(1))
