"""Upgrades: which manifest may stand under `:code`, who puts it there, and what follows."""

from dataclasses import replace

import pytest

from phala.crypto.hashes import blake2_256
from phala.errors import Invalid
from phala.frame import BadOrigin, Block, Root, Signed, Unsigned
from phala.frame.manifest import CODE_KEY, Manifest
from phala.pallets.system import (
    CodeUpdated,
    FailedToExtractRuntimeVersion,
    InvalidSpecName,
    LastRuntimeUpgradeInfo,
    NothingAuthorized,
    SpecVersionNeedsToIncrease,
    Unauthorized,
    UpgradeAuthorized,
)
from phala.primitives.header import RuntimeEnvironmentUpdated
from phala.primitives.types import AccountId, BlockNumber, Hash
from phala.runtime import Runtime
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import World
from phala.testing.pallets import refused

ALICE = AccountId(b"a" * 32)
OLD = Runtime().manifest
NEW = replace(OLD, spec_version=OLD.spec_version + 1, sources=Hash(b"s" * 32))


@pytest.fixture
def block() -> Block:
    made = Block(BlockNumber(1))
    made.state.put(CODE_KEY, OLD.encode())
    return made


@pytest.fixture
def world(block: Block) -> World:
    return World(block, AttestVerifier())


def test_a_manifest_is_read_as_it_was_written() -> None:
    for manifest in (OLD, NEW):
        assert Manifest.decode(manifest.encode()) == manifest


@pytest.mark.parametrize(
    "alter",
    [
        lambda text: text[:-1],
        lambda text: text + b"\n",
        lambda text: text.replace(b"spec 2", b"spec 02"),
        lambda text: text.replace(b"spec 2", b"spec 4294967296"),
        lambda text: text.replace(b"spec 2", b"spec -2"),
        lambda text: text.replace(b"manifest 1", b"manifest 2"),
        lambda text: text.replace(b"release ", b"release A"),
        lambda text: text.replace(b"name phala", b"name Phala"),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text + bytes(600),
        lambda text: b"\xff" + text,
        lambda _: b"",
    ],
)
def test_what_is_no_manifest_is_refused(world: World, block: Block, alter: object) -> None:
    assert callable(alter)
    text = alter(replace(NEW, spec_version=2).encode())

    with pytest.raises(Invalid, match="no runtime manifest"):
        Manifest.decode(text)
    for call in (world.system.set_code, world.system.set_code_without_checks):
        with refused(FailedToExtractRuntimeVersion, block):
            call(Root(), text)


def test_root_sets_the_code_and_headers_say_so(world: World, block: Block) -> None:
    world.system.set_code(Root(), NEW.encode())

    assert block.state.get(CODE_KEY) == NEW.encode()
    assert block.events == [CodeUpdated()]
    assert block.logs == [RuntimeEnvironmentUpdated()]


def test_nobody_else_does(world: World, block: Block) -> None:
    for origin in (Signed(ALICE), Unsigned()):
        for call in (world.system.set_code, world.system.set_code_without_checks):
            with refused(BadOrigin, block):
                call(origin, NEW.encode())
        for authorize in (
            world.system.authorize_upgrade,
            world.system.authorize_upgrade_without_checks,
        ):
            with refused(BadOrigin, block):
                authorize(origin, Hash(bytes(32)))


def test_the_version_rises_and_the_name_stays(world: World, block: Block) -> None:
    with refused(SpecVersionNeedsToIncrease, block):
        world.system.set_code(Root(), OLD.encode())
    other = replace(NEW, name="other").encode()
    with refused(InvalidSpecName, block):
        world.system.set_code(Root(), other)

    world.system.set_code_without_checks(Root(), NEW.encode())
    world.system.set_code_without_checks(Root(), OLD.encode())  # the way back

    assert block.state.get(CODE_KEY) == OLD.encode()


def test_what_is_authorized_by_its_hash_anybody_applies_once(world: World, block: Block) -> None:
    text, system = NEW.encode(), world.system
    with refused(NothingAuthorized, block):
        system.apply_authorized_upgrade(Signed(ALICE), text)
    system.authorize_upgrade(Root(), Hash(blake2_256(text)))
    with refused(Unauthorized, block):
        system.apply_authorized_upgrade(Signed(ALICE), OLD.encode())

    system.apply_authorized_upgrade(Signed(ALICE), text)

    assert block.events == [
        UpgradeAuthorized(Hash(blake2_256(text)), check_version=True),
        CodeUpdated(),
    ]
    with refused(NothingAuthorized, block):
        system.apply_authorized_upgrade(Signed(ALICE), text)


def test_an_authorized_upgrade_is_checked_when_it_is_applied(world: World, block: Block) -> None:
    text, system = OLD.encode(), world.system
    system.authorize_upgrade(Root(), Hash(blake2_256(text)))
    with refused(SpecVersionNeedsToIncrease, block):
        system.apply_authorized_upgrade(Signed(ALICE), text)

    system.authorize_upgrade_without_checks(Root(), Hash(blake2_256(text)))
    system.apply_authorized_upgrade(Signed(ALICE), text)

    assert block.events[-1] == CodeUpdated()


def test_a_release_notes_its_first_block_and_no_other(world: World, block: Block) -> None:
    last = world.system.last_runtime_upgrade
    last.put(LastRuntimeUpgradeInfo(0, "phala"))

    world.upgrade()
    assert last.get() == LastRuntimeUpgradeInfo(OLD.spec_version, "phala")
    before = block.state.digest()
    world.upgrade()

    assert block.state.digest() == before
