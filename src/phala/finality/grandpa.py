"""GRANDPA justifications: enough authorities, by weight, signed that a block is final.

    justification = round u64 | target hash 32 | target number u32
                  | Vec<precommit: hash 32, number u32, ed25519 signature 64, authority 32>
                  | Vec<Header> votes_ancestries
    signed bytes  = 0x01 | hash 32 | number u32 | round u64 | set id u64

Source: `finality-grandpa`, `sp_consensus_grandpa`; reference/substrate-compat.md §6.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, NewType

from phala.codec import U32, U64, Descriptor, FixedBytes, Malformed, Reader, Vector, struct_of
from phala.crypto.signatures import ed25519_verify
from phala.errors import Invalid
from phala.primitives.header import ENGINE_GRANDPA, HEADER, Consensus, Header
from phala.primitives.types import DESCRIPTORS, BlockNumber, Hash, scale

AuthorityId = NewType("AuthorityId", bytes)  # 32 bytes: an ed25519 public key
SetId = NewType("SetId", int)
Round = NewType("Round", int)

AUTHORITIES_MAX: Final = 10_000
PRECOMMITS_MAX: Final = AUTHORITIES_MAX
ANCESTRIES_MAX: Final = 1_024  # headers; Substrate sends those between target and votes

_KEY: Final[FixedBytes[bytes]] = FixedBytes(32)
_SIGNATURE: Final[FixedBytes[bytes]] = FixedBytes(64)


class BadJustification(Invalid):
    """A justification does not show that its block is final."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the justification fails: {why}",
            mend="fetch the justification of this very block, for the authority set of its parent",
        )


@dataclass(frozen=True, slots=True)
class Precommit:
    target_hash: Hash
    target_number: BlockNumber
    signature: Annotated[bytes, _SIGNATURE]
    authority: Annotated[bytes, _KEY]


PRECOMMITS: Final = Vector(struct_of(Precommit, DESCRIPTORS), items_max=PRECOMMITS_MAX)


@dataclass(frozen=True, slots=True)
class Justification:
    round: Annotated[int, U64]
    target_hash: Hash
    target_number: BlockNumber
    precommits: Annotated[tuple[Precommit, ...], PRECOMMITS]
    votes_ancestries: Annotated[tuple[Header, ...], Vector(HEADER, items_max=ANCESTRIES_MAX)] = ()


@dataclass(frozen=True, slots=True)
class Authority:
    """One entry of `Grandpa.Authorities`: a key and how much it weighs."""

    key: Annotated[bytes, _KEY]
    weight: Annotated[int, U64]


JUSTIFICATION: Final[Descriptor[Justification]] = scale(Justification)
AUTHORITIES: Final = Vector(scale(Authority), items_max=AUTHORITIES_MAX)


@dataclass(frozen=True, slots=True)
class AuthoritySet:
    """Who may finalize, while `id` is current."""

    id: SetId
    authorities: tuple[Authority, ...]

    def weights(self) -> Mapping[bytes, int]:
        return {authority.key: authority.weight for authority in self.authorities}


def threshold(total: int) -> int:
    """The least weight that is enough: all but the largest minority below a third."""
    return total - (total - 1) // 3


def signed_precommit(number: BlockNumber, block_hash: Hash, round_: int, set_id: SetId) -> bytes:
    """The 53 bytes that an authority signs."""
    return b"".join(
        (
            b"\1",
            block_hash,
            number.to_bytes(4, "little"),
            round_.to_bytes(8, "little"),
            set_id.to_bytes(8, "little"),
        )
    )


def decode_justification(data: bytes) -> Justification:
    """Raises `BadJustification` for bytes that are none."""
    try:
        return JUSTIFICATION.decode(data)
    except Malformed as error:
        raise BadJustification(error.what) from None


def verify_justification(found: Justification, authorities: AuthoritySet) -> None:
    """Any chain's justification, as GRANDPA allows it.

    1. each vote is by a member of the set, and no member votes twice;
    2. each vote is for the target or, by the headers given, for a descendant of it;
    3. every header given is used;
    4. each signature is of this round and set;
    5. the votes weigh enough.

    Raises:
        BadJustification: one of them does not hold.
    """
    weights = authorities.weights()
    parents = {header.hash(): header for header in found.votes_ancestries}
    used: set[bytes] = set()
    voters: set[bytes] = set()
    weight = 0
    for vote in found.precommits:
        if vote.authority not in weights:  # 1
            raise BadJustification(f"0x{vote.authority.hex()} is in no set {authorities.id}")
        if vote.authority in voters:
            raise BadJustification(f"0x{vote.authority.hex()} votes twice")
        voters.add(vote.authority)
        weight += weights[vote.authority]
        used |= _ancestry(vote, found, parents)  # 2
    if len(used) != len(found.votes_ancestries):  # 3
        raise BadJustification(
            f"{len(found.votes_ancestries) - len(used)} headers given serve no vote"
        )
    for vote in found.precommits:  # 4, after the cheap checks: their number is the sender's choice
        _verify_vote(vote, found.round, authorities.id)
    _ensure_weight(weight, weights)  # 5


def verify_own(found: Justification, header: Header, authorities: AuthoritySet) -> None:
    """A justification of our own chains, which have one form only (DESIGN §3).

    1. the target is exactly this header;
    2. the round is the block's number + 1;
    3. every vote is for the target, and no headers are given;
    4. each vote is by a member of the set, none votes twice, the signatures are of this round and
       set, and the votes weigh enough.

    Raises:
        BadJustification: one of them does not hold.
    """
    if (found.target_number, found.target_hash) != (header.number, header.hash()):  # 1
        raise BadJustification(
            f"it is for block {found.target_number} 0x{found.target_hash.hex()}, "
            f"not for {header.number} 0x{header.hash().hex()}"
        )
    if found.round != header.number + 1:  # 2
        raise BadJustification(f"round {found.round} for block {header.number}")
    if found.votes_ancestries or any(  # 3
        vote.target_hash != found.target_hash for vote in found.precommits
    ):
        raise BadJustification("a vote is for another block")
    verify_justification(found, authorities)  # 4


def _ancestry(vote: Precommit, found: Justification, parents: Mapping[Hash, Header]) -> set[bytes]:
    """The headers from a vote's block down to, not with, the target."""
    passed: set[bytes] = set()
    at, number = vote.target_hash, vote.target_number
    while at != found.target_hash:
        header = parents.get(at)
        if header is None or header.number != number or at in passed:
            raise BadJustification(
                f"the vote for 0x{vote.target_hash.hex()} is not shown to build on the target"
            )
        passed.add(at)
        at, number = header.parent_hash, BlockNumber(number - 1)
    if number != found.target_number:
        raise BadJustification(f"a vote says the target is block {number}")
    return passed


def _verify_vote(vote: Precommit, round_: int, set_id: SetId) -> None:
    message = signed_precommit(vote.target_number, vote.target_hash, round_, set_id)
    try:
        ed25519_verify(vote.authority, message, vote.signature)
    except Invalid:
        raise BadJustification(
            f"0x{vote.authority.hex()} did not sign round {round_} of set {set_id}"
        ) from None


def _ensure_weight(weight: int, weights: Mapping[bytes, int]) -> None:
    need = threshold(sum(weights.values()))
    if not weights or weight < need:
        raise BadJustification(f"the votes weigh {weight}, {need} are needed")


SCHEDULED_CHANGE: Final = 1  # of `sp_consensus_grandpa::ConsensusLog`


def scheduled_change(header: Header) -> tuple[Authority, ...] | None:
    """The set that follows this block, where its digest schedules one at once.

    Raises:
        BadJustification: it schedules one later, or in a form that our chains never use.
    """
    logs = [
        item.data
        for item in header.digest
        if isinstance(item, Consensus) and item.engine == ENGINE_GRANDPA
    ]
    if not logs:
        return None
    if len(logs) > 1:
        raise BadJustification(
            f"block {header.number} schedules {len(logs)} changes of authorities"
        )
    try:
        reader = Reader(logs[0])
        (kind,) = reader.take(1)
        authorities = AUTHORITIES.read(reader)
        delay = U32.read(reader)
        reader.finish()
    except Malformed as error:
        raise BadJustification(
            f"block {header.number}'s change of authorities: {error.what}"
        ) from None
    if kind != SCHEDULED_CHANGE or delay or not authorities:
        raise BadJustification(
            f"block {header.number} has a change of kind {kind}, delay {delay}, "
            f"{len(authorities)} authorities"
        )
    return authorities


def encode_scheduled_change(authorities: tuple[Authority, ...]) -> Consensus:
    """The digest item of a block whose successors are finalized by other authorities."""
    data = bytes([SCHEDULED_CHANGE]) + AUTHORITIES.encode(authorities) + U32.encode(0)
    return Consensus(ENGINE_GRANDPA, data)
