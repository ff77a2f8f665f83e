"""How much of a block a call may take, and whether it is paid."""

import enum
from dataclasses import dataclass, field
from typing import Annotated, Final

from phala.codec import U64, Compact, Descriptor, Reader, Registry
from phala.codec.generate import Source
from phala.codec.registry import Field, Type, TypeDefComposite
from phala.frame.described import Choice, Described
from phala.primitives.types import scale

MICROSECOND: Final = 1_000_000  # of ref_time, which counts picoseconds


@dataclass(frozen=True, slots=True)
class Weight:
    """Picoseconds on the reference machine, and bytes of storage proof."""

    ref_time: Annotated[int, Compact(U64)]
    proof_size: Annotated[int, Compact(U64)]


class DispatchClass(enum.IntEnum):
    NORMAL = 0
    OPERATIONAL = 1
    MANDATORY = 2  # inherents


class Pays(enum.IntEnum):
    YES = 0
    NO = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """What a call took on the reference machine: at least, and for each of what it counts."""

    ref_time: int
    each: int = 0
    proof_size: int = 0
    proof_each: int = 0


WEIGHT: Final[Descriptor[Weight]] = Described(("sp_weights", "weight_v2", "Weight"), scale(Weight))
DISPATCH_CLASS: Final = Choice(
    ("frame_support", "dispatch", "DispatchClass"), ("Normal", "Operational", "Mandatory")
)
PAYS: Final = Choice(("frame_support", "dispatch", "Pays"), ("Yes", "No"))


@dataclass(frozen=True, slots=True)
class DispatchInfo:
    """What is known of a call before it runs."""

    weight: Weight
    dispatch_class: DispatchClass = DispatchClass.NORMAL
    pays_fee: Pays = Pays.YES
    encoded: bytes = field(init=False, compare=False)  # written into two events of each extrinsic

    def __post_init__(self) -> None:
        encoded = WEIGHT.encode(self.weight) + bytes([self.dispatch_class, self.pays_fee])
        object.__setattr__(self, "encoded", encoded)


@dataclass(frozen=True, slots=True)
class DispatchInfoDescriptor(Descriptor[DispatchInfo]):
    def write(self, out: bytearray, value: DispatchInfo, /) -> None:
        out += value.encoded

    def emit_write(self, source: Source, value: str, /) -> None:
        source.line(f"out += {value}.encoded")

    def read(self, reader: Reader, /) -> DispatchInfo:
        return DispatchInfo(
            WEIGHT.read(reader),
            DispatchClass(DISPATCH_CLASS.read(reader)),
            Pays(PAYS.read(reader)),
        )

    def type_info(self, registry: Registry, /) -> Type:
        fields = (
            Field("weight", registry.id_of(WEIGHT), "Weight"),
            Field("class", registry.id_of(DISPATCH_CLASS), "DispatchClass"),
            Field("pays_fee", registry.id_of(PAYS), "Pays"),
        )
        return Type(TypeDefComposite(fields), ("frame_support", "dispatch", "DispatchInfo"))


DISPATCH_INFO: Final = DispatchInfoDescriptor()
