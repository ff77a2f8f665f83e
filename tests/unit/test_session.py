"""Session keys and who finalizes: proofs, sessions, sets that change, light clients that follow."""

from dataclasses import replace

import pytest
from coincurve import PrivateKey

from phala.codec import encode_compact
from phala.crypto.hashes import blake2_256
from phala.crypto.signatures import Keypair, ed25519_from_seed, ed25519_sign
from phala.errors import Invalid
from phala.finality import (
    JUSTIFICATION,
    BadJustification,
    Justification,
    LightHead,
    Precommit,
    advance,
    signed_precommit,
    start,
)
from phala.finality.light import AUTHORITIES_KEY
from phala.frame import BadOrigin, Block, Call, Root, Signed
from phala.pallets.authorities import (
    UNBONDING_MS,
    MembersSet,
    NoMembers,
    NoSessionKeys,
    NotSorted,
    NoWeight,
    PastSet,
    SetChanged,
    SetForgotten,
)
from phala.pallets.balances import InsufficientBalance
from phala.pallets.grandpa import NewAuthorities
from phala.pallets.session import (
    KEY_DEPOSIT,
    MEMBERS_MAX,
    SESSION_BLOCKS,
    SESSION_KEYS,
    DuplicatedKey,
    InvalidProof,
    NewQueued,
    NewSession,
    NoKeys,
    SessionKeys,
)
from phala.primitives.header import HEADER
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber, Hash, Moment
from phala.runtime import GenesisConfig, Runtime, Sealed
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import World
from phala.tee.simulated_key import SimulatedKey
from phala.testing.chain import MemoryChain
from phala.testing.pallets import call_of, refused
from phala.trie import State

ALICE, BOB, CAROL = (AccountId(letter * 32) for letter in (b"a", b"b", b"c"))
FIRST, SECOND, THIRD = (ed25519_from_seed(letter * 32) for letter in (b"1", b"2", b"3"))
BRIDGE = PrivateKey(b"k" * 32)
ONLY_FIRST = ((FIRST.public, 1),)


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(1))


@pytest.fixture
def world(block: Block) -> World:
    made = World(block, AttestVerifier())
    for who in (ALICE, BOB):
        made.balances.endow(who, Balance(100 * PHA))
    made.grandpa.authorities.put(ONLY_FIRST)
    made.timestamp.now.put(Moment(1_000))
    block.events.clear()
    block.phases.clear()
    return made


def keys_of(pair: Keypair) -> SessionKeys:
    return SessionKeys(pair.public)


def proof_of(pair: Keypair, who: AccountId) -> bytes:
    return ed25519_sign(pair, b"POP_" + who)


def set_keys(world: World, who: AccountId, pair: Keypair) -> None:
    world.session.set_keys(Signed(who), keys_of(pair), proof_of(pair, who))


def end_block(world: World) -> list[object]:
    """End a block and begin the next. Returns what happened since the last one."""
    world.authorities.on_finalize()
    happened = list(world.block.events)
    world.block.events.clear()
    world.block.phases.clear()
    world.block.logs.clear()
    world.block.number = BlockNumber(world.block.number + 1)
    world.authorities.on_initialize()
    return happened


def next_session(world: World) -> list[object]:
    """The block that a session begins with."""
    world.block.number = BlockNumber(world.block.number // SESSION_BLOCKS * SESSION_BLOCKS)
    world.block.number = BlockNumber(world.block.number + SESSION_BLOCKS)
    assert world.session.on_initialize() > 0
    return end_block(world)


# ---- keys


def test_keys_are_set_with_each_ones_proof_and_removed(world: World, block: Block) -> None:
    keys = SessionKeys(FIRST.public, BRIDGE.public_key.format(compressed=True))
    bridge = BRIDGE.sign_recoverable(blake2_256(b"POP_" + ALICE), hasher=None)

    world.session.set_keys(Signed(ALICE), keys, proof_of(FIRST, ALICE) + bridge)

    assert world.session.next_keys.get(ALICE) == keys
    assert world.session.key_owner.get((b"gran", FIRST.public)) == ALICE
    assert world.session.key_owner.get((b"brdg", keys.bridge)) == ALICE
    assert world.system.account_of(ALICE).data.reserved == KEY_DEPOSIT
    set_keys(world, ALICE, SECOND)
    assert world.session.key_owner.get((b"gran", FIRST.public)) is None
    assert world.system.account_of(ALICE).data.reserved == KEY_DEPOSIT
    world.session.purge_keys(Signed(ALICE))
    assert world.session.key_owner.get((b"gran", SECOND.public)) is None
    assert world.system.account_of(ALICE).data.reserved == 0
    with refused(NoKeys, block):
        world.session.purge_keys(Signed(ALICE))


def test_keys_without_proof_are_refused(world: World, block: Block) -> None:
    good = proof_of(FIRST, ALICE)
    whole = SessionKeys(FIRST.public, BRIDGE.public_key.format(compressed=True))
    other = PrivateKey(b"o" * 32).sign_recoverable(blake2_256(b"POP_" + ALICE), hasher=None)
    for keys, proof in (
        (keys_of(FIRST), b""),
        (keys_of(FIRST), proof_of(FIRST, BOB)),
        (keys_of(FIRST), proof_of(SECOND, ALICE)),
        (keys_of(FIRST), good + b"\0"),
        (whole, good),
        (whole, good + other),
        (whole, good + bytes(65)),
    ):
        with refused(InvalidProof, block):
            world.session.set_keys(Signed(ALICE), keys, proof)
    with refused(BadOrigin, block):
        world.session.set_keys(Root(), keys_of(FIRST), good)
    with refused(InsufficientBalance, block):
        set_keys(world, CAROL, THIRD)


def test_a_key_is_one_accounts(world: World, block: Block) -> None:
    set_keys(world, ALICE, FIRST)

    with refused(DuplicatedKey, block):
        set_keys(world, BOB, FIRST)
    set_keys(world, ALICE, FIRST)


# ---- sessions


def test_members_finalize_from_the_session_after_next_on(world: World, block: Block) -> None:
    set_keys(world, ALICE, SECOND)
    set_keys(world, BOB, THIRD)
    world.authorities.set_members(Root(), ((ALICE, 5), (BOB, 7)))
    assert block.events[-1:] == [MembersSet(2)]
    end_block(world)

    assert next_session(world) == [NewSession(1), NewQueued()]
    assert world.grandpa.authorities.get() == ONLY_FIRST
    new = ((SECOND.public, 5), (THIRD.public, 7))
    assert next_session(world) == [NewSession(2), NewAuthorities(new), SetChanged(1, new)]

    assert world.session.validators.get() == (ALICE, BOB)
    assert world.grandpa.present() == (1, new)
    assert next_session(world) == [NewSession(3)]
    past = world.authorities.past_sets.get(0)
    assert past == PastSet(ONLY_FIRST, Moment(1_000))


def test_other_keys_of_the_same_members_change_the_set(world: World) -> None:
    set_keys(world, ALICE, SECOND)
    world.authorities.set_members(Root(), ((ALICE, 1),))
    next_session(world)
    next_session(world)
    set_keys(world, ALICE, THIRD)

    next_session(world)
    assert world.grandpa.present() == (1, ((SECOND.public, 1),))
    next_session(world)

    assert world.grandpa.present() == (2, ((THIRD.public, 1),))


def test_weights_alone_change_the_set(world: World) -> None:
    set_keys(world, ALICE, SECOND)
    world.authorities.set_members(Root(), ((ALICE, 1),))
    next_session(world)
    next_session(world)
    world.authorities.set_members(Root(), ((ALICE, 2),))
    next_session(world)

    next_session(world)

    assert world.grandpa.present() == (2, ((SECOND.public, 2),))


def test_somebody_always_finalizes(world: World) -> None:
    set_keys(world, ALICE, SECOND)
    world.authorities.set_members(Root(), ((ALICE, 1),))
    next_session(world)
    next_session(world)
    world.session.purge_keys(Signed(ALICE))

    for _ in range(3):
        next_session(world)

    assert world.grandpa.present() == (1, ((SECOND.public, 1),))
    assert world.session.queued_keys.get() == ((ALICE, keys_of(SECOND)),)


def test_a_chain_without_members_keeps_its_authorities(world: World) -> None:
    for index in range(3):
        assert next_session(world) == [NewSession(index + 1)]

    assert world.grandpa.present() == (0, ONLY_FIRST)


# ---- sets


def test_governance_names_sets_that_can_finalize(world: World, block: Block) -> None:
    force = world.authorities.force_authorities
    with refused(BadOrigin, block):
        force(Signed(ALICE), ONLY_FIRST)
    with refused(BadOrigin, block):
        world.authorities.set_members(Signed(ALICE), ((ALICE, 1),))
    with refused(NoMembers, block):
        force(Root(), ())
    with refused(NotSorted, block):
        force(Root(), ((b"b" * 32, 1), (b"a" * 32, 1)))
    with refused(NotSorted, block):
        force(Root(), ((b"a" * 32, 1), (b"a" * 32, 1)))
    with refused(NoWeight, block):
        force(Root(), ((b"a" * 32, 0),))
    with refused(NoWeight, block):
        force(Root(), ((b"a" * 32, 2**63), (b"b" * 32, 2**63)))
    with refused(NoSessionKeys, block):
        world.authorities.set_members(Root(), ((ALICE, 1),))
    with pytest.raises(Invalid):
        call_of("Authorities", "force_authorities", ((b"a" * 32, 1),) * (MEMBERS_MAX + 1))


def test_the_latest_of_a_blocks_changes_holds_and_is_told_once(world: World, block: Block) -> None:
    two = ((SECOND.public, 1),)
    world.authorities.force_authorities(Root(), ((THIRD.public, 1),))
    world.authorities.force_authorities(Root(), two)
    world.authorities.on_finalize()

    assert world.grandpa.present() == (1, two)
    assert len(block.logs) == 1
    assert block.events[-2:] == [NewAuthorities(two), SetChanged(1, two)]
    end_block(world)
    world.authorities.force_authorities(Root(), two)
    world.authorities.on_finalize()
    assert block.logs == []


def test_a_replaced_set_is_kept_until_unbonding_ends(world: World) -> None:
    for pair in (SECOND, THIRD):
        world.authorities.force_authorities(Root(), ((pair.public, 1),))
        end_block(world)
    world.timestamp.now.put(Moment(1_000 + UNBONDING_MS))
    assert SetForgotten(0) not in end_block(world)

    world.timestamp.now.put(Moment(1_001 + UNBONDING_MS))
    end_block(world)
    happened = [*end_block(world), *end_block(world)]

    assert happened == [SetForgotten(0), SetForgotten(1)]
    assert world.authorities.past_sets.get(0) is None
    assert world.authorities.oldest_set.get() == 2


# ---- the light client


CONFIG = GenesisConfig.dev(
    authority=FIRST.public,
    simulated_root=SimulatedKey(b"\1" * 32, b"\2" * 32).public_root,
    measurement=b"m" * 48,
    runtime_id=Hash(b"r" * 32),
)


def justified(sealed: Sealed, set_id: int, *by: Keypair) -> bytes:
    number, hash_ = sealed.header.number, sealed.hash
    message = signed_precommit(number, hash_, number + 1, set_id)  # type: ignore[arg-type]
    votes = tuple(Precommit(hash_, number, ed25519_sign(pair, message), pair.public) for pair in by)
    return JUSTIFICATION.encode(Justification(number + 1, hash_, number, votes))


def scheduled_next(chain: MemoryChain, call: Call) -> None:
    """Have the chain itself make a call in its next block, as governance does."""
    number = BlockNumber(chain.header.number + 1)
    block = Block(BlockNumber(chain.header.number), chain.state())
    World(block, AttestVerifier()).scheduler.add(None, number, None, 0, call)
    for key, value in block.state.changes():
        assert value is not None
        chain.pairs[key] = value
    chain.trie = chain.trie.build(sorted(chain.pairs.items()), chain.trie.layout)
    chain.header = replace(chain.header, state_root=chain.trie.root)


def test_a_light_client_follows_a_chain_whose_authorities_change() -> None:
    chain = MemoryChain(CONFIG)
    both = tuple(sorted(((SECOND.public, 1), (THIRD.public, 2))))
    heavier = tuple(sorted(((SECOND.public, 9), (THIRD.public, 2))))
    scheduled_next(chain, call_of("Authorities", "force_authorities", both))
    genesis = chain.header.hash()
    proof = chain.trie.prove([AUTHORITIES_KEY], State(chain.state()))
    head = start(genesis, HEADER.encode(chain.header), proof)

    def finalized(head: LightHead, set_id: int, *by: Keypair) -> LightHead:
        sealed = chain.blocks[-1]
        return advance(head, HEADER.encode(sealed.header), justified(sealed, set_id, *by))

    chain.block()
    with pytest.raises(BadJustification):
        finalized(head, 1, SECOND, THIRD)
    head = finalized(head, 0, FIRST)
    assert (head.authorities.id, head.authorities.weights()) == (1, dict(both))
    chain.block()
    with pytest.raises(BadJustification):
        finalized(head, 0, FIRST)
    with pytest.raises(BadJustification, match="weigh 2, 3 are needed"):
        finalized(head, 1, THIRD)
    scheduled_next(chain, call_of("Authorities", "force_authorities", heavier))
    chain.block()
    head = finalized(head, 1, SECOND, THIRD)
    assert head.authorities.weights() == dict(heavier)
    chain.block()
    with pytest.raises(BadJustification):
        finalized(head, 2, THIRD)

    head = finalized(head, 2, SECOND)

    assert head.number == chain.header.number
    current = Runtime().call(chain.state(), Hash(bytes(32)), "GrandpaApi_current_set_id", b"")
    assert current == (2).to_bytes(8, "little")


# ---- runtime APIs


def test_session_keys_are_read_and_made_of_a_seed() -> None:
    def ask(method: str, data: bytes) -> bytes:
        return Runtime().call(State(), Hash(bytes(32)), f"SessionKeys_{method}", data)

    encoded = SESSION_KEYS.encode(keys_of(FIRST))
    framed = encode_compact(len(encoded)) + encoded
    assert ask("generate_session_keys", b"\x01" + encode_compact(32) + b"1" * 32) == framed
    found = b"\x01" + encode_compact(1) + encode_compact(32) + FIRST.public + b"gran"
    assert ask("decode_session_keys", framed) == found
    assert ask("decode_session_keys", encode_compact(3) + b"abc") == b"\0"
    with pytest.raises(Invalid, match="keeps no keys"):
        ask("generate_session_keys", b"\0")
    with pytest.raises(Invalid):
        ask("generate_session_keys", b"\x01" + encode_compact(3) + b"abc")
