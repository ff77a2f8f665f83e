"""Several accounts act as one: each way to approve, each refusal, deposits that come back."""

from dataclasses import replace
from hashlib import blake2b

import pytest

from phala.frame import (
    WEIGHT,
    BadOrigin,
    Block,
    Call,
    DispatchError,
    InnerRefused,
    Root,
    Signed,
    Weight,
    dispatch_result,
)
from phala.pallets.balances import InsufficientBalance
from phala.pallets.multisig import (
    DEPOSIT_BASE,
    DEPOSIT_FACTOR,
    SIGNATORIES_MAX,
    AlreadyApproved,
    DepositPoked,
    MaxWeightTooLow,
    MinimumThreshold,
    MultisigApproval,
    MultisigCancelled,
    MultisigExecuted,
    NewMultisig,
    NoApprovalsNeeded,
    NotFound,
    NoTimepoint,
    NotOwner,
    SenderInSignatories,
    SignatoriesOutOfOrder,
    TimepointRecord,
    TooFewSignatories,
    TooManySignatories,
    UnexpectedTimepoint,
    WrongTimepoint,
    multi_account,
)
from phala.primitives.address import MultiAddress
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import World
from phala.testing.pallets import call_of, refused

ALICE, BOB, CAROL, DAVE = (AccountId(letter * 32) for letter in (b"a", b"b", b"c", b"d"))
TEN = Balance(10 * PHA)
TOGETHER = multi_account((ALICE, BOB, CAROL), 2)
WHEN = TimepointRecord(BlockNumber(1), 3)
ENOUGH = Weight(10**12, 0)
DEPOSIT = DEPOSIT_BASE + 2 * DEPOSIT_FACTOR


def pay(amount: int) -> Call:
    return call_of("Balances", "transfer_keep_alive", MultiAddress.of(DAVE), Balance(amount))


CALL = pay(PHA)
HASH = blake2b(CALL.encoded, digest_size=32).digest()


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(1), phase=3)


@pytest.fixture
def world(block: Block) -> World:
    made = World(block, AttestVerifier())
    for who in (ALICE, BOB, TOGETHER):
        made.balances.endow(who, TEN)
    return made


def reserved(world: World, who: AccountId) -> int:
    return world.system.account_of(who).data.reserved


def begin(world: World) -> None:
    world.multisig.approve_as_multi(Signed(ALICE), 2, (BOB, CAROL), None, HASH, ENOUGH)


def test_the_account_is_what_substrate_derives() -> None:
    preimage = b"modlpy/utilisuba" + b"\x0c" + ALICE + BOB + CAROL + b"\2\0"

    assert blake2b(preimage, digest_size=32).digest() == TOGETHER


def test_two_of_three_pay(world: World, block: Block) -> None:
    begin(world)
    assert block.events[-1:] == [NewMultisig(ALICE, TOGETHER, HASH)]
    assert reserved(world, ALICE) == DEPOSIT

    world.multisig.as_multi(Signed(BOB), 2, (ALICE, CAROL), WHEN, CALL, ENOUGH)

    assert world.balances.free(DAVE) == PHA
    assert world.balances.free(TOGETHER) == 9 * PHA
    assert reserved(world, ALICE) == 0
    assert world.multisig.multisigs.get(TOGETHER, HASH) is None
    done = dispatch_result(None)
    assert block.events[-1:] == [MultisigExecuted(BOB, WHEN, TOGETHER, HASH, done)]


def test_a_call_that_fails_ends_the_operation(world: World, block: Block) -> None:
    much = pay(2 * TEN)
    world.multisig.as_multi(Signed(ALICE), 2, (BOB, CAROL), None, much, ENOUGH)
    world.multisig.as_multi(Signed(BOB), 2, (ALICE, CAROL), WHEN, much, ENOUGH)

    (ended,) = (each for each in block.events if isinstance(each, MultisigExecuted))
    assert ended.result == dispatch_result(DispatchError(7, b"\0"))
    assert reserved(world, ALICE) == 0


def test_approvals_are_counted_once(world: World, block: Block) -> None:
    world.multisig.as_multi(Signed(ALICE), 3, (BOB, CAROL), None, CALL, ENOUGH)
    world.multisig.as_multi(Signed(BOB), 3, (ALICE, CAROL), WHEN, CALL, ENOUGH)

    multisig = multi_account((ALICE, BOB, CAROL), 3)
    assert block.events[-1:] == [MultisigApproval(BOB, WHEN, multisig, HASH)]
    with refused(AlreadyApproved, block):
        world.multisig.as_multi(Signed(BOB), 3, (ALICE, CAROL), WHEN, CALL, ENOUGH)
    assert world.balances.free(DAVE) == 0


def test_one_who_approved_by_hash_may_bring_the_call(world: World, block: Block) -> None:
    begin(world)
    world.multisig.approve_as_multi(Signed(BOB), 2, (ALICE, CAROL), WHEN, HASH, ENOUGH)
    with refused(NoApprovalsNeeded, block):
        world.multisig.approve_as_multi(Signed(CAROL), 2, (ALICE, BOB), WHEN, HASH, ENOUGH)

    world.multisig.as_multi(Signed(ALICE), 2, (BOB, CAROL), WHEN, CALL, ENOUGH)

    assert world.balances.free(DAVE) == PHA


def test_who_began_may_cancel(world: World, block: Block) -> None:
    begin(world)
    with refused(NotOwner, block):
        world.multisig.cancel_as_multi(Signed(BOB), 2, (ALICE, CAROL), WHEN, HASH)
    with refused(NotFound, block):
        world.multisig.cancel_as_multi(Signed(ALICE), 2, (BOB, CAROL), WHEN, bytes(32))
    with refused(WrongTimepoint, block):
        other = TimepointRecord(BlockNumber(1), 4)
        world.multisig.cancel_as_multi(Signed(ALICE), 2, (BOB, CAROL), other, HASH)

    world.multisig.cancel_as_multi(Signed(ALICE), 2, (BOB, CAROL), WHEN, HASH)

    assert reserved(world, ALICE) == 0
    assert block.events[-1:] == [MultisigCancelled(ALICE, WHEN, TOGETHER, HASH)]


def test_the_time_is_named_once_it_began(world: World, block: Block) -> None:
    with refused(UnexpectedTimepoint, block):
        world.multisig.as_multi(Signed(ALICE), 2, (BOB, CAROL), WHEN, CALL, ENOUGH)
    begin(world)
    with refused(NoTimepoint, block):
        world.multisig.as_multi(Signed(BOB), 2, (ALICE, CAROL), None, CALL, ENOUGH)
    with refused(WrongTimepoint, block):
        other = TimepointRecord(BlockNumber(2), 3)
        world.multisig.as_multi(Signed(BOB), 2, (ALICE, CAROL), other, CALL, ENOUGH)


def test_a_call_heavier_than_allowed_is_refused(world: World, block: Block) -> None:
    begin(world)
    with refused(MaxWeightTooLow, block):
        world.multisig.as_multi(Signed(BOB), 2, (ALICE, CAROL), WHEN, CALL, Weight(1, 0))


def test_signatories_are_sorted_others_and_some(world: World, block: Block) -> None:
    def approve(others: tuple[AccountId, ...], threshold: int = 2) -> None:
        world.multisig.approve_as_multi(Signed(ALICE), threshold, others, None, HASH, ENOUGH)

    with refused(MinimumThreshold, block):
        approve((BOB,), 1)
    with refused(TooFewSignatories, block):
        approve(())
    with refused(SignatoriesOutOfOrder, block):
        approve((CAROL, BOB))
    with refused(SignatoriesOutOfOrder, block):
        approve((BOB, BOB))
    with refused(SenderInSignatories, block):
        approve((ALICE, BOB))
    with refused(TooManySignatories, block):
        approve(tuple(AccountId(bytes([n]) * 32) for n in range(SIGNATORIES_MAX)))


def test_the_deposit_must_be_there(world: World, block: Block) -> None:
    with refused(InsufficientBalance, block):
        world.multisig.approve_as_multi(Signed(CAROL), 2, (ALICE, BOB)[:2], None, HASH, ENOUGH)


def test_any_one_of_several_may_act(world: World, block: Block) -> None:
    account = multi_account((ALICE, BOB), 1)
    world.balances.endow(account, TEN)

    world.multisig.as_multi_threshold_1(Signed(BOB), (ALICE,), CALL)

    assert world.balances.free(account) == 9 * PHA
    with refused(InnerRefused, block):
        world.multisig.as_multi_threshold_1(Signed(BOB), (ALICE,), pay(2 * TEN))
    with refused(TooFewSignatories, block):
        world.multisig.as_multi_threshold_1(Signed(BOB), (), CALL)
    with refused(BadOrigin, block):
        world.multisig.as_multi_threshold_1(Root(), (ALICE,), CALL)


def test_the_call_weighs_on_each_who_brings_it() -> None:
    light = call_of("Multisig", "as_multi_threshold_1", (ALICE,), CALL)
    last = call_of("Multisig", "as_multi", 2, (ALICE,), None, CALL, ENOUGH)

    inner = call_of("System", "remark", b"")
    for whole, outer in (
        (light, call_of("Multisig", "as_multi_threshold_1", (ALICE,), inner)),
        (last, call_of("Multisig", "as_multi", 2, (ALICE,), None, inner, ENOUGH)),
    ):
        own = outer.info.weight.ref_time - inner.info.weight.ref_time
        assert own > 0
        assert whole.info.weight.ref_time == own + CALL.info.weight.ref_time
    assert WEIGHT.encode(ENOUGH) == last.encoded[-len(WEIGHT.encode(ENOUGH)) :]


@pytest.mark.parametrize("kept", [DEPOSIT - 1, DEPOSIT, DEPOSIT + PHA])
def test_a_deposit_follows_the_present_rates(world: World, block: Block, kept: int) -> None:
    begin(world)
    operation = world.multisig.multisigs.get(TOGETHER, HASH)
    assert operation is not None
    world.multisig.multisigs.put(TOGETHER, HASH, replace(operation, deposit=Balance(kept)))
    if kept > DEPOSIT:
        world.balances.reserve(ALICE, Balance(kept - DEPOSIT))
    else:
        world.balances.unreserve(ALICE, Balance(DEPOSIT - kept))

    world.multisig.poke_deposit(Signed(ALICE), 2, (BOB, CAROL), HASH)

    assert reserved(world, ALICE) == DEPOSIT
    poked = DepositPoked(ALICE, HASH, Balance(kept), Balance(DEPOSIT))
    assert (block.events[-1] == poked) == (kept != DEPOSIT)
    with refused(NotOwner, block):
        world.multisig.poke_deposit(Signed(BOB), 2, (ALICE, CAROL), HASH)
    with refused(NotFound, block):
        world.multisig.poke_deposit(Signed(ALICE), 2, (BOB, CAROL), bytes(32))
