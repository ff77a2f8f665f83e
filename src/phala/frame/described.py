"""Types under the names that Substrate's clients look for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from phala.codec import Descriptor, Malformed, Reader, Registry
from phala.codec.generate import Source
from phala.codec.registry import Field, Type, TypeDefVariant, Variant

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Described(Descriptor[T]):
    """`inner`, in the metadata under another path, with generic parameters that it may have."""

    path: tuple[str, ...]
    inner: Descriptor[T]
    params: tuple[tuple[str, Descriptor[Any]], ...] = ()

    def write(self, out: bytearray, value: T, /) -> None:
        self.inner.write(out, value)

    def read(self, reader: Reader, /) -> T:
        return self.inner.read(reader)

    def emit_write(self, source: Source, value: str, /) -> None:
        self.inner.emit_write(source, value)

    def emit_read(self, source: Source, /) -> str:
        return self.inner.emit_read(source)

    def type_info(self, registry: Registry, /) -> Type:
        params = tuple((name, registry.id_of(each)) for name, each in self.params)
        return replace(self.inner.type_info(registry), path=self.path, docs=(), params=params)


@dataclass(frozen=True, slots=True)
class Case:
    """A variant of an enum whose fields carry no names."""

    name: str
    index: int
    fields: tuple[Descriptor[Any], ...] = ()
    docs: tuple[str, ...] = ()


def cases_type(path: tuple[str, ...], cases: Sequence[Case], registry: Registry) -> Type:
    return Type(
        TypeDefVariant(
            tuple(
                Variant(
                    case.name,
                    tuple(Field(None, registry.id_of(each), None) for each in case.fields),
                    case.index,
                    case.docs,
                )
                for case in cases
            )
        ),
        path,
    )


@dataclass(frozen=True, slots=True)
class Choice(Descriptor[int]):
    """An enum of plain names; a value is its index."""

    path: tuple[str, ...]
    names: tuple[str, ...]

    def write(self, out: bytearray, value: int, /) -> None:
        assert 0 <= value < len(self.names)
        out.append(value)

    def read(self, reader: Reader, /) -> int:
        (value,) = reader.take(1)
        if value >= len(self.names):
            raise Malformed(f"{self.path[-1]} has no variant {value}", offset=reader.offset - 1)
        return value

    def type_info(self, registry: Registry, /) -> Type:
        return cases_type(
            self.path, [Case(name, index) for index, name in enumerate(self.names)], registry
        )
