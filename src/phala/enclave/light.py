"""The chain as far as the enclave has followed it, by `finality`'s light client."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import U64, Descriptor
from phala.finality.grandpa import AUTHORITIES, Authority, AuthoritySet, SetId
from phala.finality.light import LightHead, advance, decode_header, read, start
from phala.messages.host import FinalizedHeader
from phala.messages.types import scale
from phala.primitives.types import BlockNumber, Hash

__all__ = ["LightHead", "Passed", "decode", "encode", "follow", "read", "start"]


@dataclass(frozen=True, slots=True)
class Record:
    """A `LightHead` as it is kept."""

    genesis: Hash
    number: BlockNumber
    hash: Hash
    state_root: Hash
    set_id: Annotated[int, U64]
    authorities: Annotated[tuple[Authority, ...], AUTHORITIES]


RECORD: Final[Descriptor[Record]] = scale(Record)


@dataclass(frozen=True, slots=True)
class Passed:
    """Finalized blocks on the way to a head: those fed, and their parents."""

    head: LightHead
    hashes: tuple[tuple[BlockNumber, Hash], ...]


def follow(head: LightHead, headers: Sequence[FinalizedHeader]) -> Passed:
    """Raises `Invalid`, `Refused` as `finality.light.advance` does."""
    hashes: list[tuple[BlockNumber, Hash]] = []
    for each in headers:
        head = advance(head, each.header, each.justification)
        hashes.append((BlockNumber(head.number - 1), decode_header(each.header).parent_hash))
        hashes.append((head.number, head.hash))
    return Passed(head, tuple(hashes))


def encode(head: LightHead) -> bytes:
    authorities = head.authorities
    return RECORD.encode(
        Record(
            head.genesis,
            head.number,
            head.hash,
            head.state_root,
            authorities.id,
            authorities.authorities,
        )
    )


def decode(data: bytes) -> LightHead:
    found = RECORD.decode(data)
    authorities = AuthoritySet(SetId(found.set_id), found.authorities)
    return LightHead(found.genesis, found.number, found.hash, found.state_root, authorities)
