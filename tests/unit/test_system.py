"""What the chain itself may do to its state, and nobody else."""

import pytest

from phala.frame import BadOrigin, Block, DispatchClass, Root, Signed
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import World
from phala.testing.pallets import call_of, refused

ALICE = AccountId(b"a" * 32)


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(1))


@pytest.fixture
def world(block: Block) -> World:
    made = World(block, AttestVerifier())
    made.balances.endow(ALICE, Balance(10 * PHA))
    return made


def test_the_chain_itself_writes_and_deletes_keys(world: World, block: Block) -> None:
    items = tuple((b"mend:" + bytes([n]), b"value") for n in range(5))

    world.system.set_storage(Root(), items)
    assert list(block.state.keys(b"mend:")) == [key for key, _ in items]
    world.system.kill_storage(Root(), (items[0][0], b"not there"))
    world.system.kill_prefix(Root(), b"mend:", 2)

    assert list(block.state.keys(b"mend:")) == [key for key, _ in items[3:]]


def test_what_was_read_before_a_write_is_read_anew(world: World) -> None:
    key = world.system.account.storage_key(ALICE)
    other = AccountId(b"b" * 32)
    world.balances.endow(other, Balance(PHA))
    data = world.block.state.get(world.system.account.storage_key(other))
    assert data is not None
    assert world.balances.free(ALICE) == 10 * PHA

    world.system.set_storage(Root(), ((key, data),))

    assert world.balances.free(ALICE) == PHA


def test_nobody_else_does(world: World, block: Block) -> None:
    with refused(BadOrigin, block):
        world.system.set_storage(Signed(ALICE), ((b"k", b"v"),))
    with refused(BadOrigin, block):
        world.system.kill_storage(Signed(ALICE), (b"k",))
    with refused(BadOrigin, block):
        world.system.kill_prefix(Signed(ALICE), b"", 1)


def test_they_weigh_by_what_they_touch() -> None:
    one, two = (
        call_of("System", "set_storage", ((b"k", b"v"),) * count).info.weight for count in (1, 2)
    )
    few, many = (
        call_of("System", "kill_prefix", b"k", count).info.weight.ref_time for count in (1, 10**6)
    )

    assert one.ref_time < two.ref_time
    assert few * 1000 < many
    assert call_of("System", "kill_storage", ()).info.dispatch_class is DispatchClass.OPERATIONAL
