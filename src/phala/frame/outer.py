"""The chain's own enums, over all its pallets: `RuntimeCall`, `RuntimeEvent`, `RuntimeError`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from phala.codec import Reader, Registry, Vector, docs_of, struct_of
from phala.codec.descriptor import Descriptor
from phala.codec.registry import (
    Field,
    Type,
    TypeDefComposite,
    TypeDefSequence,
    TypeDefVariant,
    Variant,
)
from phala.frame.block import PHASE_FINALIZATION, PHASE_INITIALIZATION, Phase
from phala.frame.described import Case, cases_type
from phala.frame.dispatch import parameters
from phala.frame.pallet import Pallet
from phala.primitives.types import BLOCK_NUMBER, HASH

CRATE: Final = "phala_runtime"


@dataclass(frozen=True, slots=True)
class TypeOnly(Descriptor[Any]):
    """A type that stands in the metadata for clients; nothing here encodes a value of it."""

    def write(self, _out: bytearray, _value: Any, /) -> None:
        raise AssertionError("this type is for the metadata")

    def read(self, _reader: Reader, /) -> Any:
        raise AssertionError("this type is for the metadata")


def pallet_path(pallet: type[Pallet], what: str) -> tuple[str, ...]:
    """As Substrate's own: clients make a type's name of it."""
    return (f"pallet_{pallet.__module__.rsplit('.', 1)[-1]}", "pallet", what)


@dataclass(frozen=True, slots=True)
class PalletCalls(TypeOnly):
    pallet: type[Pallet]

    def type_info(self, registry: Registry, /) -> Type:
        variants = tuple(
            Variant(
                method.__name__,
                tuple(member.field(registry) for member in parameters(self.pallet, method)),
                index,
                docs_of(method),
            )
            for index, method in self.pallet.calls.items()
        )
        return Type(TypeDefVariant(variants), pallet_path(self.pallet, "Call"))


@dataclass(frozen=True, slots=True)
class PalletEvents(TypeOnly):
    pallet: type[Pallet]

    def type_info(self, registry: Registry, /) -> Type:
        structs = [
            (index, struct_of(kind, self.pallet.words))
            for index, kind in self.pallet.events.items()
        ]
        variants = tuple(
            Variant(struct.kind.__name__, struct.fields(registry), index, struct.docs)
            for index, struct in structs
        )
        return Type(TypeDefVariant(variants), pallet_path(self.pallet, "Event"))


@dataclass(frozen=True, slots=True)
class PalletErrors(TypeOnly):
    pallet: type[Pallet]

    def type_info(self, _registry: Registry, /) -> Type:
        variants = tuple(
            Variant(error.__name__, (), index, docs_of(error))
            for index, error in self.pallet.errors.items()
        )
        return Type(TypeDefVariant(variants), pallet_path(self.pallet, "Error"))


@dataclass(frozen=True, slots=True)
class OuterType(TypeOnly):
    """One variant a pallet, in the order and under the numbers of the chain's table."""

    name: str
    inner: tuple[tuple[str, int, TypeOnly], ...]

    def type_info(self, registry: Registry, /) -> Type:
        variants = tuple(
            Variant(name, (Field(None, registry.id_of(inner), None),), index, ())
            for name, index, inner in self.inner
        )
        return Type(TypeDefVariant(variants), (CRATE, self.name))


def outer_call(pallets: Mapping[int, type[Pallet]]) -> OuterType:
    return OuterType(
        "RuntimeCall",
        tuple(
            (each.name, index, PalletCalls(each)) for index, each in pallets.items() if each.calls
        ),
    )


def outer_event(pallets: Mapping[int, type[Pallet]]) -> OuterType:
    return OuterType(
        "RuntimeEvent",
        tuple(
            (each.name, index, PalletEvents(each)) for index, each in pallets.items() if each.events
        ),
    )


def outer_error(pallets: Mapping[int, type[Pallet]]) -> OuterType:
    return OuterType(
        "RuntimeError",
        tuple(
            (each.name, index, PalletErrors(each)) for index, each in pallets.items() if each.errors
        ),
    )


class Events:
    """Events as `System.Events` keeps them: `Vec<EventRecord { phase, event, topics }>`."""

    def __init__(self, pallets: Mapping[int, type[Pallet]]) -> None:
        self._encoders: dict[type[object], tuple[bytes, Callable[[Any], bytes]]] = {
            kind: (bytes([number, index]), struct_of(kind, pallet.words).encode)
            for number, pallet in pallets.items()
            for index, kind in pallet.events.items()
        }

    def write_records(self, out: bytearray, phases: list[Phase], events: list[object]) -> None:
        """Each event of a block with its phase, in order."""
        encoders = self._encoders
        before, front = PHASE_FINALIZATION, b"\1"
        for phase, happened in zip(phases, events, strict=True):
            if phase != before:
                before = phase
                if phase >= 0:
                    front = b"\0" + phase.to_bytes(4, "little")
                else:
                    front = b"\1" if phase == PHASE_FINALIZATION else b"\2"
            number, encode = encoders[type(happened)]
            out += front
            out += number
            out += encode(happened)
            out.append(0)  # no topics


@dataclass(frozen=True, slots=True)
class PhaseType(TypeOnly):
    def type_info(self, registry: Registry, /) -> Type:
        cases = (
            Case("ApplyExtrinsic", 0, (BLOCK_NUMBER,)),
            Case("Finalization", -PHASE_FINALIZATION),
            Case("Initialization", -PHASE_INITIALIZATION),
        )
        return cases_type(("frame_system", "Phase"), cases, registry)


@dataclass(frozen=True, slots=True)
class RuntimeEventType(TypeOnly):
    """Stands for `RuntimeEvent` in a pallet's declaration: the chain's table is above pallets."""

    def type_info(self, _registry: Registry, /) -> Type:
        raise AssertionError("a ChainRegistry puts the chain's own events in this place")


@dataclass(frozen=True, slots=True)
class EventRecordType(TypeOnly):
    def type_info(self, registry: Registry, /) -> Type:
        fields = (
            Field("phase", registry.id_of(PhaseType()), "Phase"),
            Field("event", registry.id_of(RuntimeEventType()), "E"),
            Field("topics", registry.id_of(Vector(HASH, items_max=0)), "Vec<T>"),
        )
        params = (("E", registry.id_of(RuntimeEventType())), ("T", registry.id_of(HASH)))
        return Type(TypeDefComposite(fields), ("frame_system", "EventRecord"), params=params)


@dataclass(frozen=True, slots=True)
class EventRecords(TypeOnly):
    """`Vec<EventRecord>`. A value is its own SCALE bytes, as `Events` wrote them."""

    def write(self, out: bytearray, value: Any, /) -> None:
        out += value

    def type_info(self, registry: Registry, /) -> Type:
        return Type(TypeDefSequence(registry.id_of(EventRecordType())))
