"""A block's header as Substrate has it; its hash names the block.

Source: `sp_runtime::generic::{Header, Digest, DigestItem}`.
"""

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from phala.codec import U32, Bytes, Compact, Descriptor, Enum, FixedBytes, Vector, struct_of
from phala.crypto.hashes import blake2_256
from phala.primitives.types import DESCRIPTORS, BlockNumber, Hash, scale

DIGEST_ITEMS_MAX: Final = 64
DIGEST_ITEM_BYTES_MAX: Final = 64 * 1024

ENGINE_GRANDPA: Final = b"FRNK"

_DATA: Final = Bytes(bytes_max=DIGEST_ITEM_BYTES_MAX)
_ENGINE: Final[FixedBytes[bytes]] = FixedBytes(4)


@dataclass(frozen=True, slots=True)
class Other:
    data: Annotated[bytes, _DATA]


@dataclass(frozen=True, slots=True)
class Consensus:
    engine: Annotated[bytes, _ENGINE]
    data: Annotated[bytes, _DATA]


@dataclass(frozen=True, slots=True)
class Seal:
    engine: Annotated[bytes, _ENGINE]
    data: Annotated[bytes, _DATA]


@dataclass(frozen=True, slots=True)
class PreRuntime:
    engine: Annotated[bytes, _ENGINE]
    data: Annotated[bytes, _DATA]


@dataclass(frozen=True, slots=True)
class RuntimeEnvironmentUpdated:
    """The code changed in this block."""


DigestItem: TypeAlias = Other | Consensus | Seal | PreRuntime | RuntimeEnvironmentUpdated

DIGEST_ITEM: Final = Enum(
    ("sp_runtime", "generic", "digest", "DigestItem"),
    tuple(
        (index, struct_of(kind, DESCRIPTORS))
        for index, kind in (
            (0, Other),
            (4, Consensus),
            (5, Seal),
            (6, PreRuntime),
            (8, RuntimeEnvironmentUpdated),
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Header:
    parent_hash: Hash
    number: Annotated[BlockNumber, Compact(U32)]
    state_root: Hash
    extrinsics_root: Hash
    digest: Annotated[tuple[DigestItem, ...], Vector(DIGEST_ITEM, items_max=DIGEST_ITEMS_MAX)] = ()

    def hash(self) -> Hash:
        return Hash(blake2_256(HEADER.encode(self)))


HEADER: Final[Descriptor[Header]] = scale(Header)
