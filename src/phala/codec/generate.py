"""Encoders and decoders as Python source, made for one descriptor tree and run once.

A generated function knows the way of good values only. Whatever it meets besides, it drops, and the
descriptors themselves go over the same value: they raise the error, with its place. So the two
agree on errors by construction, and what a test compares is values.

Reading past the end is noticed late: slices come out short, and the place runs on. It is
checked where the data could do harm before: in loops, and before a record is made.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from phala.codec.compact import encode_compact
from phala.codec.reader import Reader

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]
DecodeFrom = Callable[[bytes, int], tuple[Any, int]]


class Odd(Exception):
    """What is met is no plain good value: the descriptors decide."""


ODD: Final = (Odd, IndexError, KeyError, OverflowError, UnicodeDecodeError)


class Emits(Protocol):
    """What is needed of a descriptor. Both `emit`s may leave to `write` and `read` what is rare."""

    def write(self, out: bytearray, value: Any, /) -> None: ...
    def read(self, reader: Reader, /) -> Any: ...
    def emit_write(self, source: "Source", value: str, /) -> None: ...
    def emit_read(self, source: "Source", /) -> str: ...


class Source:
    """Lines of a program, and the objects that it names.

    In its functions `data` is what is read, `at` the place, `end` its size; `out` is written to.
    """

    def __init__(self) -> None:
        self.objects: dict[str, object] = {
            "ODD": ODD,
            "Odd": Odd,
            "Reader": Reader,
            "compact_at": compact_at,
            "encode_compact": encode_compact,
            "number": int.from_bytes,
        }
        self._lines: list[str] = []
        self._tables: list[str] = []
        self._deep = 0
        self._names = 0

    def line(self, text: str) -> None:
        self._lines.append("    " * self._deep + text)

    @contextmanager
    def block(self, head: str) -> Generator[None]:
        self.line(head)
        self._deep += 1
        yield
        self._deep -= 1

    @contextmanager
    def function(self, arguments: str) -> Generator[str]:
        """A function beside the others, under the name that is handed out."""
        name = self.name("f")
        lines, deep = self._lines, self._deep
        self._lines, self._deep = [], 0
        with self.block(f"def {name}({arguments}):"):
            yield name
        self._lines, self._deep = self._lines + lines, deep

    def name(self, front: str = "v") -> str:
        """A name that nothing else has."""
        self._names += 1
        return f"{front}{self._names}"

    def constant(self, found: object) -> str:
        name = self.name("c")
        self.objects[name] = found
        return name

    def call_write(self, descriptor: Emits, value: str) -> None:
        self.line(f"{self.constant(descriptor.write)}(out, {value})")

    def call_read(self, descriptor: Emits) -> str:
        self.within()
        reader, value = self.name("r"), self.name()
        self.line(f"{reader} = Reader(data, at)")
        self.line(f"{value} = {self.constant(descriptor.read)}({reader})")
        self.line(f"at = {reader}.offset")
        return value

    def refuse(self, condition: str) -> None:
        """Leave what meets the condition to the descriptors."""
        with self.block(f"if {condition}:"):
            self.line("raise Odd")

    def within(self) -> None:
        """From here on all that was read is known to have been there."""
        self.refuse("at > end")

    def table(self, entries: Mapping[str, str]) -> str:
        """A dictionary beside the functions; its entries as source."""
        name = self.name("t")
        self._tables.append(f"{name} = {{{', '.join(f'{k}: {v}' for k, v in entries.items())}}}")
        return name

    def read_byte(self) -> str:
        byte = self.name()
        self.line(f"{byte} = data[at]")
        self.line("at += 1")
        return byte

    def read_size(self, size: int | str) -> str:
        value = self.name()
        self.line(f"{value} = data[at:at + {size}]")
        self.line(f"at += {size}")
        return value

    def read_compact(self, least_above: int) -> str:
        """A compact number below `least_above`."""
        value = self.name()
        self.line(f"{value} = data[at]")
        with self.block(f"if {value} & 3:"):
            self.line(f"{value}, at = compact_at(data, at)")
        with self.block("else:"):
            self.line(f"{value} >>= 2")
            self.line("at += 1")
        self.refuse(f"{value} >= {least_above}")
        return value

    def write_compact(self, value: str, least_above: int) -> None:
        number = self.name()
        self.line(f"{number} = {value}")
        with self.block(f"if 0 <= {number} < {min(64, least_above)}:"):
            self.line(f"out.append({number} << 2)")
        with self.block(f"elif 64 <= {number} < {least_above}:"):
            self.line(f"out += encode_compact({number})")
        with self.block("else:"):
            self.line("raise Odd")

    def text(self) -> str:
        return "\n".join((*self._lines, *self._tables, ""))


def compact_at(data: bytes, at: int) -> tuple[int, int]:
    """A compact number of more than one byte, and the place behind it."""
    first = data[at]
    mode = first & 3
    if mode == 3:
        end = at + 5 + (first >> 2)
        value = int.from_bytes(data[at + 1 : end], "little")
        least = 1 << max(30, 8 * (end - at - 2))
    else:
        end = at + (1, 2, 4)[mode]
        value = int.from_bytes(data[at:end], "little") >> 2
        least = (0, 1 << 6, 1 << 14)[mode]
    if value < least:
        raise Odd
    return value, end


@dataclass(frozen=True, slots=True)
class Made:
    """What is generated for one descriptor."""

    encode: Encode
    decode: Decode
    decode_from: DecodeFrom


# Texts that a build has compiled (`phala.node.compile`), and what makes functions of each.
COMPILED: Final[dict[str, Callable[[dict[str, Any]], Made]]] = {}


def generate(descriptor: Emits, *, encode: Encode, decode: Decode, decode_from: DecodeFrom) -> Made:
    """Functions that do what those given do, which are asked where a value is odd."""
    source = source_of(descriptor)
    space: dict[str, Any] = source.objects | {
        "slow_encode": encode,
        "slow_decode": decode,
        "slow_decode_from": decode_from,
    }
    text = source.text()
    if text in COMPILED:
        return COMPILED[text](space)
    exec(compile(text, "<codec>", "exec"), space)  # noqa: S102 - made above, of no input
    return Made(space["encode"], space["decode"], space["decode_from"])


def source_of(descriptor: Emits) -> Source:
    source = Source()
    with source.block("def encode(value):"):
        with source.block("try:"):
            source.line("out = bytearray()")
            descriptor.emit_write(source, "value")
            source.line("return bytes(out)")
        with source.block("except ODD:"):
            source.line("return slow_encode(value)")
    with source.block("def front(data, at, end):"):
        value = descriptor.emit_read(source)
        source.line(f"return {value}, at")
    with source.block("def decode_from(data, at):"):
        with source.block("try:"):
            source.line("value, behind = front(data, at, len(data))")
            with source.block("if behind <= len(data):"):
                source.line("return value, behind")
        with source.block("except ODD:"):
            source.line("pass")
        source.line("return slow_decode_from(data, at)")
    with source.block("def decode(data):"):
        with source.block("try:"):
            source.line("value, behind = front(data, 0, len(data))")
            with source.block("if behind == len(data):"):
                source.line("return value")
        with source.block("except ODD:"):
            source.line("pass")
        source.line("return slow_decode(data)")
    return source
