"""GRANDPA justifications, published and our own; the light client from a genesis hash on."""

from dataclasses import replace
from pathlib import Path

import pytest

from phala.codec import U32, Vector
from phala.crypto.signatures import Keypair, ed25519_from_seed, ed25519_sign
from phala.errors import Invalid
from phala.finality import (
    AUTHORITIES,
    AUTHORITIES_KEY,
    JUSTIFICATION,
    Authority,
    AuthoritySet,
    BadHeader,
    BadJustification,
    Justification,
    LightHead,
    NotAhead,
    Precommit,
    SetId,
    advance,
    decode_justification,
    encode_scheduled_change,
    read,
    scheduled_change,
    signed_precommit,
    start,
    verify_justification,
    verify_own,
)
from phala.finality.grandpa import threshold
from phala.primitives.header import ENGINE_GRANDPA, HEADER, Consensus, Header, Other
from phala.primitives.types import BlockNumber, Hash
from phala.trie import EMPTY_ROOT, BadProof, DictBase, Layout, Trie

GRANDPA = Path(__file__).parents[2] / "vectors" / "substrate" / "grandpa"


def published(name: str) -> bytes:
    return bytes.fromhex((GRANDPA / name).read_text().strip().removeprefix("0x"))


def set_of(found: Justification, id_: int, weight: int = 1) -> AuthoritySet:
    voters = tuple(Authority(vote.authority, weight) for vote in found.precommits)
    return AuthoritySet(SetId(id_), voters)


REAL = published("justification-302592.hex")


def test_a_published_justification_is_accepted_and_round_trips() -> None:
    found = decode_justification(REAL)

    verify_justification(found, set_of(found, 0))

    assert (found.round, found.target_number, len(found.precommits)) == (439559, 302592, 5)
    assert JUSTIFICATION.encode(found) == REAL


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_too_few_of_its_votes_are_refused(kept: int) -> None:
    found = decode_justification(REAL)

    with pytest.raises(BadJustification, match=f"the votes weigh {kept}, 4 are needed"):
        verify_justification(replace(found, precommits=found.precommits[:kept]), set_of(found, 0))


def test_four_of_five_are_enough() -> None:
    found = decode_justification(REAL)

    verify_justification(replace(found, precommits=found.precommits[1:]), set_of(found, 0))


def test_another_set_or_round_is_refused() -> None:
    found = decode_justification(REAL)

    with pytest.raises(BadJustification, match="did not sign round 439559 of set 1"):
        verify_justification(found, set_of(found, 1))
    with pytest.raises(BadJustification, match="did not sign round 439560"):
        verify_justification(replace(found, round=found.round + 1), set_of(found, 0))


def test_every_altered_byte_of_a_published_justification_is_refused() -> None:
    authorities = set_of(decode_justification(REAL), 0)

    for at in range(len(REAL)):
        altered = bytearray(REAL)
        altered[at] ^= 1 << at % 8
        with pytest.raises(BadJustification):
            verify_justification(decode_justification(bytes(altered)), authorities)
    for cut in range(len(REAL)):
        with pytest.raises(BadJustification):
            decode_justification(REAL[:cut])


def commit() -> Justification:
    """A published commit: a network message with set, round, target, and votes apart from names."""
    data = published("commit-5105457.hex")
    return commit_of(data)


def commit_of(data: bytes) -> Justification:
    votes = 7
    number_at = data.index((5105457).to_bytes(4, "little"))
    target, number = data[number_at - 32 : number_at], 5105457
    round_, set_id = data[number_at - 48 : number_at - 40], data[number_at - 40 : number_at - 32]
    assert int.from_bytes(set_id, "little") == 3490
    at = number_at + 4
    assert data[at] == votes << 2
    at += 1
    blocks = [data[at + 36 * n : at + 36 * (n + 1)] for n in range(votes)]
    at += 36 * votes
    assert data[at] == votes << 2
    at += 1
    signed = [data[at + 96 * n : at + 96 * (n + 1)] for n in range(votes)]
    assert at + 96 * votes == len(data)
    return Justification(
        int.from_bytes(round_, "little"),
        Hash(target),
        BlockNumber(number),
        tuple(
            Precommit(
                Hash(block[:32]),
                BlockNumber(int.from_bytes(block[32:], "little")),
                sign[:64],
                sign[64:],
            )
            for block, sign in zip(blocks, signed, strict=True)
        ),
    )


def test_a_published_commit_is_accepted() -> None:
    found = commit()

    verify_justification(found, set_of(found, 3490))

    with pytest.raises(BadJustification):
        verify_justification(found, set_of(found, 3489))


@pytest.mark.parametrize(
    ("total", "least"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (100, 67)]
)
def test_the_threshold_leaves_less_than_a_third_out(total: int, least: int) -> None:
    assert threshold(total) == least


# ---- chains of our own

KEYS = tuple(ed25519_from_seed(bytes([n]) * 32) for n in range(4))
NEXT = tuple(ed25519_from_seed(bytes([n]) * 32) for n in range(10, 12))


def authorities(keys: tuple[Keypair, ...] = KEYS, id_: int = 0) -> AuthoritySet:
    return AuthoritySet(SetId(id_), tuple(Authority(key.public, 1) for key in keys))


def header(number: int, *digest: Consensus | Other, root: Hash = EMPTY_ROOT) -> Header:
    return Header(Hash(bytes(32)), BlockNumber(number), root, EMPTY_ROOT, digest)


def vote(key: Keypair, block: Header, round_: int, set_id: int = 0) -> Precommit:
    message = signed_precommit(block.number, block.hash(), round_, SetId(set_id))
    return Precommit(block.hash(), block.number, ed25519_sign(key, message), key.public)


def justify(
    block: Header, keys: tuple[Keypair, ...] = KEYS, set_id: int = 0, round_: int | None = None
) -> Justification:
    at = block.number + 1 if round_ is None else round_
    votes = tuple(vote(key, block, at, set_id) for key in keys)
    return Justification(at, block.hash(), block.number, votes)


def test_our_own_form_is_accepted() -> None:
    block = header(7)

    verify_own(justify(block), block, authorities())
    verify_own(justify(block, KEYS[1:]), block, authorities())


def test_every_altered_byte_of_our_own_is_refused() -> None:
    block = header(7)
    data = JUSTIFICATION.encode(justify(block, KEYS[:3]))

    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 1 << at % 8
        with pytest.raises(BadJustification):
            verify_own(decode_justification(bytes(altered)), block, authorities())


def test_another_form_is_refused() -> None:
    block, child = header(7), replace(header(8), parent_hash=header(7).hash())
    good = justify(block)
    descending = Justification(
        8, block.hash(), block.number, tuple(vote(key, child, 8) for key in KEYS), (child,)
    )
    verify_justification(descending, authorities())  # GRANDPA allows it

    for found, why in (
        (justify(header(6)), "it is for block 6"),
        (justify(header(7, Other(b"fork"))), "it is for block 7"),
        (justify(block, round_=9), "round 9 for block 7"),
        (descending, "a vote is for another block"),
        (replace(good, votes_ancestries=(child,)), "a vote is for another block"),
        (justify(block, KEYS[:2]), "the votes weigh 2, 3 are needed"),
        (justify(block, (*KEYS[:2], KEYS[0])), "votes twice"),
        (justify(block, NEXT), "is in no set 0"),
        (justify(block, set_id=1), "did not sign"),
    ):
        with pytest.raises(BadJustification, match=why):
            verify_own(found, block, authorities())


def test_no_set_at_all_justifies_nothing() -> None:
    block = header(7)

    with pytest.raises(BadJustification):
        verify_own(justify(block, ()), block, authorities(()))


def test_votes_are_for_descendants_that_are_shown() -> None:
    target = header(7)
    child = replace(header(8), parent_hash=target.hash())
    grandchild = replace(header(9), parent_hash=child.hash())
    votes = (
        vote(KEYS[0], target, 3),
        vote(KEYS[1], child, 3),
        vote(KEYS[2], grandchild, 3),
    )
    good = Justification(3, target.hash(), target.number, votes, (grandchild, child))
    verify_justification(good, authorities())

    unused = replace(header(8), parent_hash=Hash(b"\1" * 32))
    orphan = vote(KEYS[2], unused, 3)
    lying = replace(vote(KEYS[0], target, 3), target_number=BlockNumber(8))
    for found, why in (
        (replace(good, votes_ancestries=(child,)), "is not shown to build on the target"),
        (replace(good, votes_ancestries=(child, grandchild, unused)), "1 headers given serve no"),
        (replace(good, votes_ancestries=(child, grandchild, child)), "1 headers given serve no"),
        (replace(good, precommits=(*votes[:2], orphan), votes_ancestries=(child,)), "not shown"),
        (replace(good, precommits=(lying, *votes[1:])), "a vote says the target is block 8"),
        (replace(good, target_number=BlockNumber(6)), "a vote says the target is block 7"),
    ):
        with pytest.raises(BadJustification, match=why):
            verify_justification(found, authorities())


def test_a_heavy_authority_outweighs_many() -> None:
    block = header(7)
    heavy = AuthoritySet(
        SetId(0), (Authority(KEYS[0].public, 7), *authorities(KEYS[1:]).authorities)
    )

    verify_own(justify(block, KEYS[:1]), block, heavy)
    with pytest.raises(BadJustification, match="the votes weigh 3, 7 are needed"):
        verify_own(justify(block, KEYS[1:]), block, heavy)


# ---- digests


def test_a_scheduled_change_round_trips() -> None:
    following = authorities(NEXT).authorities
    item = encode_scheduled_change(following)

    assert item.engine == ENGINE_GRANDPA
    assert scheduled_change(header(7, Other(b"x"), item)) == following
    assert scheduled_change(header(7, Consensus(b"BABE", b"\1"))) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1",
        b"\1" + AUTHORITIES.encode(authorities().authorities) + U32.encode(1),  # later
        b"\1" + AUTHORITIES.encode(()) + U32.encode(0),
        b"\2" + AUTHORITIES.encode(authorities().authorities) + U32.encode(0),  # forced
        b"\1" + AUTHORITIES.encode(authorities().authorities) + U32.encode(0) + b"\0",
    ],
)
def test_a_change_in_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(BadJustification, match="block 7"):
        scheduled_change(header(7, Consensus(ENGINE_GRANDPA, data)))


def test_two_changes_in_a_block_are_refused() -> None:
    item = encode_scheduled_change(authorities().authorities)

    with pytest.raises(BadJustification, match="2 changes"):
        scheduled_change(header(7, item, item))


# ---- the light client

STATE = {
    AUTHORITIES_KEY: AUTHORITIES.encode(authorities().authorities),
    b"answer": b"42",
    b"long": b"v" * 100,
}
TRIE = Trie.build(sorted(STATE.items()), Layout.V1)
GENESIS = header(0, root=TRIE.root)


def started() -> LightHead:
    proof = TRIE.prove([AUTHORITIES_KEY], DictBase(STATE))
    return start(GENESIS.hash(), HEADER.encode(GENESIS), proof)


def step(
    head: LightHead, block: Header, keys: tuple[Keypair, ...] = KEYS, id_: int = 0
) -> LightHead:
    return advance(head, HEADER.encode(block), JUSTIFICATION.encode(justify(block, keys, id_)))


def test_it_starts_from_a_hash_and_reads_the_authorities() -> None:
    head = started()

    assert head.authorities == authorities()
    assert (head.number, head.hash, head.genesis) == (0, GENESIS.hash(), GENESIS.hash())


def test_another_genesis_or_proof_is_refused() -> None:
    proof = TRIE.prove([AUTHORITIES_KEY], DictBase(STATE))

    with pytest.raises(BadHeader, match="genesis is"):
        start(Hash(bytes(32)), HEADER.encode(GENESIS), proof)
    later = header(1, root=TRIE.root)
    with pytest.raises(BadHeader):
        start(later.hash(), HEADER.encode(later), proof)
    with pytest.raises(BadHeader, match="no header"):
        start(GENESIS.hash(), b"\0", proof)
    with pytest.raises(BadProof):
        start(GENESIS.hash(), HEADER.encode(GENESIS), proof[:-1])
    bare = header(0)
    with pytest.raises(Invalid):
        start(bare.hash(), HEADER.encode(bare), ())


def test_it_advances_over_gaps_and_reads_by_proof() -> None:
    block = header(9, root=TRIE.root)
    head = step(started(), block)

    assert (head.number, head.hash) == (9, block.hash())
    keys = [b"answer", b"long", b"nothing"]
    found = read(head, TRIE.prove(keys, DictBase(STATE)), keys)
    assert found == {b"answer": b"42", b"long": b"v" * 100, b"nothing": None}


@pytest.mark.parametrize("number", [0, 8, 9])
def test_what_is_not_above_is_refused(number: int) -> None:
    head = step(started(), header(9))

    with pytest.raises(NotAhead):
        step(head, header(number))


def test_a_change_holds_from_the_next_block_under_the_next_set() -> None:
    change = header(3, encode_scheduled_change(authorities(NEXT).authorities))

    with pytest.raises(BadJustification):
        step(started(), change, NEXT)
    head = step(started(), change)

    assert head.authorities == authorities(NEXT, 1)
    for keys, id_ in ((KEYS, 0), (KEYS, 1), (NEXT, 0)):
        with pytest.raises(BadJustification):
            step(head, header(4), keys, id_)
    assert step(head, header(4), NEXT, 1).number == 4


def test_a_change_cannot_be_left_out() -> None:
    with pytest.raises(BadJustification):
        step(started(), header(4), NEXT, 1)


def test_a_header_that_was_not_signed_is_refused() -> None:
    block = header(9)
    other = replace(block, state_root=TRIE.root)
    signed = JUSTIFICATION.encode(justify(block))

    with pytest.raises(BadJustification, match="not for 9"):
        advance(started(), HEADER.encode(other), signed)
    with pytest.raises(BadHeader):
        advance(started(), HEADER.encode(block) + b"\0", signed)


def test_a_list_of_authorities_is_bounded() -> None:
    assert isinstance(AUTHORITIES, Vector)
    assert AUTHORITIES.items_max == 10_000
