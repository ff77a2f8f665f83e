"""Descriptors of numbers, bytes and text. Every length that a sender chooses has a limit.

Source: SCALE specification; the `parity-scale-codec` crate where the two differ.
"""

from dataclasses import dataclass
from typing import Final, TypeVar, cast

from phala.codec.compact import encode_compact, read_compact
from phala.codec.descriptor import Descriptor
from phala.codec.generate import Source
from phala.codec.reader import Malformed, Reader
from phala.codec.registry import (
    Registry,
    Type,
    TypeDefArray,
    TypeDefCompact,
    TypeDefPrimitive,
    TypeDefSequence,
)
from phala.errors import Invalid

T = TypeVar("T")
N = TypeVar("N", bound=int)
B = TypeVar("B", bound=bytes)


class OutOfRange(Invalid):
    """A value does not fit its type."""

    def __init__(self, found: object, bounds: str) -> None:
        super().__init__(f"{found} is not {bounds}", mend="pass a value within these bounds")


@dataclass(frozen=True, slots=True)
class UInt(Descriptor[N]):
    """An unsigned integer of `bits` bits, little-endian."""

    bits: int

    def write(self, out: bytearray, value: N, /) -> None:
        try:
            out += value.to_bytes(self.bits // 8, "little")
        except OverflowError:
            raise OutOfRange(value, f"a u{self.bits}") from None

    def read(self, reader: Reader, /) -> N:
        return cast("N", int.from_bytes(reader.take(self.bits // 8), "little"))

    def emit_write(self, source: Source, value: str, /) -> None:
        source.line(f"out += {value}.to_bytes({self.bits // 8}, 'little')")

    def emit_read(self, source: Source, /) -> str:
        if self.bits == 8:
            return source.read_byte()
        return f"number({source.read_size(self.bits // 8)}, 'little')"

    def type_info(self, _registry: Registry, /) -> Type:
        return Type(TypeDefPrimitive(f"u{self.bits}"))


@dataclass(frozen=True, slots=True)
class Compact(Descriptor[N]):
    """The same numbers as `inner`, small ones in fewer bytes."""

    inner: UInt[N]

    def write(self, out: bytearray, value: N, /) -> None:
        if not 0 <= value < 1 << self.inner.bits:
            raise OutOfRange(value, f"a u{self.inner.bits}")
        out += encode_compact(value)

    def read(self, reader: Reader, /) -> N:
        start = reader.offset
        value = read_compact(reader)
        if value >> self.inner.bits:
            raise Malformed(f"{value} is not a u{self.inner.bits}", offset=start)
        return cast("N", value)

    def emit_write(self, source: Source, value: str, /) -> None:
        source.write_compact(value, 1 << self.inner.bits)

    def emit_read(self, source: Source, /) -> str:
        return source.read_compact(1 << self.inner.bits)

    def type_info(self, registry: Registry, /) -> Type:
        return Type(TypeDefCompact(registry.id_of(self.inner)))


@dataclass(frozen=True, slots=True)
class Bool(Descriptor[bool]):
    """One byte, 0 or 1."""

    def write(self, out: bytearray, value: bool, /) -> None:  # noqa: FBT001 - the value itself
        out.append(value)

    def read(self, reader: Reader, /) -> bool:
        (byte,) = reader.take(1)
        if byte > 1:
            raise Malformed(f"{byte} is not a bool", offset=reader.offset - 1)
        return byte == 1

    def emit_write(self, source: Source, value: str, /) -> None:
        source.line(f"out.append({value})")

    def emit_read(self, source: Source, /) -> str:
        byte = source.read_byte()
        source.refuse(f"{byte} > 1")
        return f"({byte} == 1)"

    def type_info(self, _registry: Registry, /) -> Type:
        return Type(TypeDefPrimitive("bool"))


@dataclass(frozen=True, slots=True)
class Bytes(Descriptor[bytes]):
    """`Vec<u8>` of at most `bytes_max`."""

    bytes_max: int

    def write(self, out: bytearray, value: bytes, /) -> None:
        out += encode_count(len(value), self.bytes_max)
        out += value

    def read(self, reader: Reader, /) -> bytes:
        return reader.take(read_count(reader, self.bytes_max))

    def emit_write(self, source: Source, value: str, /) -> None:
        source.write_compact(f"len({value})", self.bytes_max + 1)
        source.line(f"out += {value}")

    def emit_read(self, source: Source, /) -> str:
        return source.read_size(source.read_compact(self.bytes_max + 1))

    def type_info(self, registry: Registry, /) -> Type:
        return Type(TypeDefSequence(registry.id_of(U8)))


@dataclass(frozen=True, slots=True)
class Text(Descriptor[str]):
    """UTF-8 of at most `bytes_max`."""

    bytes_max: int

    def write(self, out: bytearray, value: str, /) -> None:
        Bytes(self.bytes_max).write(out, value.encode())

    def read(self, reader: Reader, /) -> str:
        data = Bytes(self.bytes_max).read(reader)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            offset = reader.offset - len(data) + error.start
            raise Malformed("the text is not UTF-8", offset=offset) from None

    def emit_write(self, source: Source, value: str, /) -> None:
        data = source.name()
        source.line(f"{data} = {value}.encode()")
        Bytes(self.bytes_max).emit_write(source, data)

    def emit_read(self, source: Source, /) -> str:
        text = source.name()
        source.line(f"{text} = {Bytes(self.bytes_max).emit_read(source)}.decode()")
        return text

    def type_info(self, _registry: Registry, /) -> Type:
        return Type(TypeDefPrimitive("str"))


@dataclass(frozen=True, slots=True)
class FixedBytes(Descriptor[B]):
    """`[u8; size]`: no length on the wire."""

    size: int

    def write(self, out: bytearray, value: B, /) -> None:
        if len(value) != self.size:
            raise OutOfRange(f"a value of {len(value)} bytes", f"one of {self.size}")
        out += value

    def read(self, reader: Reader, /) -> B:
        return cast("B", reader.take(self.size))

    def emit_write(self, source: Source, value: str, /) -> None:
        source.refuse(f"len({value}) != {self.size}")
        source.line(f"out += {value}")

    def emit_read(self, source: Source, /) -> str:
        return source.read_size(self.size)

    def type_info(self, registry: Registry, /) -> Type:
        return Type(TypeDefArray(self.size, registry.id_of(U8)))


U8: Final[UInt[int]] = UInt(8)
U16: Final[UInt[int]] = UInt(16)
U32: Final[UInt[int]] = UInt(32)
U64: Final[UInt[int]] = UInt(64)
U128: Final[UInt[int]] = UInt(128)
BOOL: Final = Bool()


def encode_count(count: int, count_max: int) -> bytes:
    if count > count_max:
        raise OutOfRange(f"a length of {count}", f"at most {count_max}")
    return encode_compact(count)


def read_count(reader: Reader, count_max: int) -> int:
    start = reader.offset
    count = read_compact(reader)
    if count > count_max:  # before anything of that size is made
        raise Malformed(f"a length of {count}, at most {count_max} is allowed", offset=start)
    return count
