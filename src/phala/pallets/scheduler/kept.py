"""Calls as an agenda keeps them: short ones whole, long ones by their hash."""

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias, assert_never

from phala.codec import (
    U8,
    U32,
    Bytes,
    Descriptor,
    FixedBytes,
    Malformed,
    Option,
    Reader,
    Registry,
    Tuple,
)
from phala.codec.registry import Field, Type, TypeDefVariant, Variant
from phala.frame import Described, Origin
from phala.frame.caller import ORIGIN_CALLER
from phala.primitives.types import BLOCK_NUMBER, HASH, BlockNumber, Hash, scale

INLINE_MAX: Final = 128  # bytes
NAME: Final[FixedBytes[bytes]] = FixedBytes(32)


@dataclass(frozen=True, slots=True)
class Inline:
    data: bytes


@dataclass(frozen=True, slots=True)
class Lookup:
    hash: Hash
    len: int


Bounded: TypeAlias = Inline | Lookup
INLINE: Final = Bytes(bytes_max=INLINE_MAX)


@dataclass(frozen=True, slots=True)
class BoundedType(Descriptor[Bounded]):
    """`Legacy`, the variant 0, is in the metadata alone: no state here has one."""

    def write(self, out: bytearray, value: Bounded, /) -> None:
        match value:
            case Inline(data):
                out.append(1)
                INLINE.write(out, data)
            case Lookup(hash_, size):
                out.append(2)
                HASH.write(out, hash_)
                U32.write(out, size)
            case _:
                assert_never(value)

    def read(self, reader: Reader, /) -> Bounded:
        (kind,) = reader.take(1)
        if kind == 1:
            return Inline(INLINE.read(reader))
        if kind == 2:
            return Lookup(HASH.read(reader), U32.read(reader))
        raise Malformed(f"a kept call has no variant {kind}", offset=reader.offset - 1)

    def type_info(self, registry: Registry, /) -> Type:
        hash_ = Field("hash", registry.id_of(HASH), "H::Output")
        variants = (
            Variant("Legacy", (hash_,), 0, ()),
            Variant("Inline", (Field(None, registry.id_of(INLINE), "BoundedInline"),), 1, ()),
            Variant("Lookup", (hash_, Field("len", registry.id_of(U32), "u32")), 2, ()),
        )
        path = ("frame_support", "traits", "preimages", "Bounded")
        return Type(TypeDefVariant(variants), path)


BOUNDED: Final = BoundedType()


PERIOD: Final = Tuple((BLOCK_NUMBER, U32))  # every so many blocks, so many times more


@dataclass(frozen=True, slots=True)
class ScheduledRecord:
    maybe_id: Annotated[bytes | None, Option(NAME)]
    priority: Annotated[int, U8]  # lower first
    call: Annotated[Bounded, BOUNDED]
    maybe_periodic: Annotated[tuple[int, int] | None, Option(PERIOD)]
    origin: Annotated[Origin, ORIGIN_CALLER]


SCHEDULED: Final[Described[ScheduledRecord]] = Described(
    ("pallet_scheduler", "Scheduled"), scale(ScheduledRecord)
)


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """How a task is tried again where it fails."""

    total_retries: Annotated[int, U8]
    remaining: Annotated[int, U8]
    period: BlockNumber  # blocks between


RETRY: Final[Described[RetryConfig]] = Described(
    ("pallet_scheduler", "RetryConfig"), scale(RetryConfig)
)
