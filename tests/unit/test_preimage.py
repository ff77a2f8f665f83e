"""Calls kept under their hashes: noted for a deposit, requested, cleared."""

from hashlib import blake2b

import pytest

from phala.frame import BadOrigin, Block, FundsUnavailable, Root, Signed
from phala.pallets.balances import HOLD_PREIMAGE
from phala.pallets.preimage import DEPOSIT_BASE, DEPOSIT_BYTE, HASHES_MAX
from phala.pallets.preimage.errors import (
    AlreadyNoted,
    NotAuthorized,
    NotNoted,
    NotRequested,
    TooFew,
    TooMany,
)
from phala.pallets.preimage.events import Cleared, Noted
from phala.pallets.preimage.events import Requested as PreimageRequested
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber, Hash
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import World
from phala.testing.pallets import call_of, refused

ALICE, BOB, POOR = (AccountId(letter * 32) for letter in (b"a", b"b", b"p"))
DATA = b"a long call" * 10
HASH = Hash(blake2b(DATA, digest_size=32).digest())
DEPOSIT = DEPOSIT_BASE + len(DATA) * DEPOSIT_BYTE


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(1))


@pytest.fixture
def world(block: Block) -> World:
    made = World(block, AttestVerifier())
    for who in (ALICE, BOB):
        made.balances.endow(who, Balance(10 * PHA))
    return made


def held(world: World) -> int:
    return world.balances.held(HOLD_PREIMAGE, ALICE)


def test_bytes_are_kept_for_a_deposit(world: World, block: Block) -> None:
    world.preimage.note_preimage(Signed(ALICE), DATA)

    assert block.events[-1:] == [Noted(HASH)]
    assert world.preimage.preimage_of(HASH) == DATA
    assert held(world) == DEPOSIT
    for by in (Signed(ALICE), Signed(BOB)):
        with refused(AlreadyNoted, block):
            world.preimage.note_preimage(by, DATA)
    with refused(NotAuthorized, block):
        world.preimage.unnote_preimage(Signed(BOB), HASH)

    world.preimage.unnote_preimage(Signed(ALICE), HASH)

    assert block.events[-1:] == [Cleared(HASH)]
    assert world.preimage.preimage_of(HASH) is None
    assert held(world) == 0
    with refused(NotNoted, block):
        world.preimage.unnote_preimage(Signed(ALICE), HASH)


def test_the_deposit_must_be_there(world: World, block: Block) -> None:
    with refused(FundsUnavailable, block):
        world.preimage.note_preimage(Signed(POOR), DATA)


def test_what_is_asked_for_stays(world: World, block: Block) -> None:
    world.preimage.note_preimage(Signed(ALICE), DATA)
    world.preimage.request_preimage(Root(), HASH)
    assert block.events[-1:] == [PreimageRequested(HASH)]
    world.preimage.unnote_preimage(Signed(ALICE), HASH)

    assert held(world) == 0
    assert world.preimage.preimage_of(HASH) == DATA
    with refused(NotAuthorized, block):
        world.preimage.unnote_preimage(Signed(ALICE), HASH)

    world.preimage.unrequest_preimage(Root(), HASH)
    assert world.preimage.preimage_of(HASH) is None
    assert block.events[-1:] == [Cleared(HASH)]


def test_what_is_asked_for_no_more_is_its_notters_again(world: World, block: Block) -> None:
    world.preimage.note_preimage(Signed(ALICE), DATA)
    world.preimage.request_preimage(Root(), HASH)
    world.preimage.request_preimage(Root(), HASH)
    world.preimage.unrequest_preimage(Root(), HASH)
    world.preimage.unrequest_preimage(Root(), HASH)

    assert world.preimage.preimage_of(HASH) == DATA
    with refused(NotRequested, block):
        world.preimage.unrequest_preimage(Root(), HASH)
    world.preimage.unnote_preimage(Signed(ALICE), HASH)
    assert held(world) == 0


def test_what_is_asked_for_first_is_noted_for_nothing(world: World) -> None:
    world.preimage.request_preimage(Root(), HASH)
    assert world.preimage.preimage_of(HASH) is None

    world.preimage.note_preimage(Signed(ALICE), DATA)

    assert world.preimage.preimage_of(HASH) == DATA
    assert held(world) == 0


def test_a_request_of_what_never_came_ends(world: World, block: Block) -> None:
    world.preimage.request_preimage(Root(), HASH)
    world.preimage.unrequest_preimage(Root(), HASH)

    with refused(NotRequested, block):
        world.preimage.unrequest_preimage(Root(), HASH)


def test_the_chain_itself_notes_and_ends(world: World, block: Block) -> None:
    world.preimage.note_preimage(Root(), DATA)
    world.preimage.unnote_preimage(Root(), HASH)

    assert block.events[-1:] == [Cleared(HASH)]


def test_only_the_chain_asks(world: World, block: Block) -> None:
    with refused(BadOrigin, block):
        world.preimage.request_preimage(Signed(ALICE), HASH)
    with refused(BadOrigin, block):
        world.preimage.unrequest_preimage(Signed(ALICE), HASH)


def test_nothing_is_to_be_updated(world: World, block: Block) -> None:
    world.preimage.ensure_updated(Signed(ALICE), (HASH,))
    with refused(TooFew, block):
        world.preimage.ensure_updated(Signed(ALICE), ())
    with refused(TooMany, block):
        world.preimage.ensure_updated(Signed(ALICE), (HASH,) * (HASHES_MAX + 1))


def test_longer_bytes_weigh_more() -> None:
    one, two, three = (
        call_of("Preimage", "note_preimage", bytes(size)).info.weight.ref_time
        for size in (1_000, 2_000, 3_000)
    )

    assert three - two == two - one > 0
