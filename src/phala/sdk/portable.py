"""Values of any chain by the types that its metadata lists: SCALE to plain Python and back.

A value is `int`, `bool`, `str`, `bytes` (`[u8]` of both kinds), `list`, `dict` (named fields) or
None. A variant is its name, or `{name: fields}`; `Option` is the value or None; a newtype is what
it wraps. Source: the `scale-info` crate, `PortableRegistry`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

from phala.codec import (
    U8,
    U32,
    Compact,
    Descriptor,
    Enum,
    Malformed,
    Option,
    Reader,
    Text,
    Vector,
    descriptor_of,
    struct_of,
)
from phala.codec.compact import encode_compact, read_compact
from phala.errors import Invalid
from phala.primitives.address import decode_ss58

Value: TypeAlias = Any  # known by the metadata alone

TYPES_MAX: Final = 16_384
ITEMS_MAX: Final = 4_096  # variants, fields, docs of one entry
NAME_BYTES_MAX: Final = 1_024
DOC_BYTES_MAX: Final = 64 * 1024
DEPTH_MAX: Final = 64  # of a value; the types may be recursive
SEQUENCE_ITEMS_MAX: Final = 1 << 20
EMPTY_ITEMS_MAX: Final = 4_096  # items that take no bytes are bounded by nothing else

TYPE_ID: Final[Descriptor[int]] = Compact(U32)
NAME: Final = Text(bytes_max=NAME_BYTES_MAX)
DOCS: Final = Vector(Text(bytes_max=DOC_BYTES_MAX), items_max=ITEMS_MAX)

TypeRef = Annotated[int, TYPE_ID]
Name = Annotated[str, NAME]
Docs = Annotated[tuple[str, ...], DOCS]


@dataclass(frozen=True, slots=True)
class Parameter:
    name: Name
    type: Annotated[int | None, Option(TYPE_ID)]


@dataclass(frozen=True, slots=True)
class Field:
    name: Annotated[str | None, Option(NAME)]
    type: TypeRef
    type_name: Annotated[str | None, Option(NAME)]
    docs: Docs


FIELDS: Final[Descriptor[tuple[Field, ...]]] = Vector(descriptor_of(Field, {}), ITEMS_MAX)


@dataclass(frozen=True, slots=True)
class Case:
    """A variant of an enum."""

    name: Name
    fields: Annotated[tuple[Field, ...], FIELDS]
    index: Annotated[int, U8]
    docs: Docs


@dataclass(frozen=True, slots=True)
class Composite:
    fields: Annotated[tuple[Field, ...], FIELDS]


@dataclass(frozen=True, slots=True)
class Variant:
    cases: Annotated[tuple[Case, ...], Vector(descriptor_of(Case, {}), 256)]


@dataclass(frozen=True, slots=True)
class Sequence:
    item: TypeRef


@dataclass(frozen=True, slots=True)
class Array:
    size: Annotated[int, U32]
    item: TypeRef


@dataclass(frozen=True, slots=True)
class Tuple:
    items: Annotated[tuple[int, ...], Vector(TYPE_ID, ITEMS_MAX)]


@dataclass(frozen=True, slots=True)
class Primitive:
    index: Annotated[int, U8]


@dataclass(frozen=True, slots=True)
class Compacted:
    inner: TypeRef


@dataclass(frozen=True, slots=True)
class Bits:
    store: TypeRef
    order: TypeRef


Definition: TypeAlias = (
    Composite | Variant | Sequence | Array | Tuple | Primitive | Compacted | Bits
)
DEFINITION: Final = Enum(
    ("scale_info", "TypeDef"),
    tuple(
        (index, struct_of(kind, {}))
        for index, kind in enumerate(
            (Composite, Variant, Sequence, Array, Tuple, Primitive, Compacted, Bits)
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Entry:
    id: TypeRef
    path: Annotated[tuple[str, ...], Vector(NAME, ITEMS_MAX)]
    parameters: Annotated[tuple[Parameter, ...], Vector(descriptor_of(Parameter, {}), ITEMS_MAX)]
    definition: Annotated[Definition, DEFINITION]
    docs: Docs


ENTRIES: Final[Descriptor[tuple[Entry, ...]]] = Vector(descriptor_of(Entry, {}), TYPES_MAX)

# Primitive's index -> bytes; the numbers from 3 on are unsigned, then signed.
UNSIGNED: Final = {3: 1, 4: 2, 5: 4, 6: 8, 7: 16, 8: 32}
SIGNED: Final = {9: 1, 10: 2, 11: 4, 12: 8, 13: 16, 14: 32}
BOOL, CHAR, STR, BYTE = 0, 1, 2, 3


class Types:
    """The types of one metadata. Nothing here trusts that they refer to each other sensibly."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.id: entry for entry in entries}

    def __getitem__(self, type_id: int) -> Entry:
        try:
            return self._entries[type_id]
        except KeyError:
            raise Invalid(
                f"the metadata has no type {type_id}", mend="ask a node whose metadata is whole"
            ) from None

    def decode(self, type_id: int, data: bytes) -> Value:
        """The value that `data` is, all of it. Raises `Malformed`."""
        reader = Reader(data)
        value = self.read(reader, type_id)
        reader.finish()
        return value

    def encode(self, type_id: int, value: Value) -> bytes:
        """Raises `Invalid`, with the place inside the value."""
        out = bytearray()
        self._write(out, type_id, value, ())
        return bytes(out)

    # ---- reading

    def read(self, reader: Reader, type_id: int, depth: int = 0) -> Value:
        """Take one value of the type from the front."""
        if depth > DEPTH_MAX:
            raise Malformed(f"a value nests deeper than {DEPTH_MAX}", offset=reader.offset)
        entry = self[type_id]
        match entry.definition:
            case Primitive(index):
                return _read_primitive(reader, index)
            case Compacted(inner):
                if self[inner].definition == Tuple(()):  # `Compact<()>` takes no bytes
                    return None
                return read_compact(reader)
            case Composite(fields):
                return self._read_fields(reader, fields, depth)
            case Variant(cases):
                return self._read_variant(reader, entry, cases, depth)
            case Sequence(item):
                return self._read_items(reader, item, read_compact(reader), depth)
            case Array(size, item):
                return self._read_items(reader, item, size, depth)
            case Tuple(items):
                return [self.read(reader, item, depth + 1) for item in items] or None
            case Bits():
                count = _bounded(reader, read_compact(reader), SEQUENCE_ITEMS_MAX)
                data = reader.take((count + 7) // 8)
                return [bool(data[at // 8] >> at % 8 & 1) for at in range(count)]

    def _read_fields(self, reader: Reader, fields: tuple[Field, ...], depth: int) -> Value:
        if fields and fields[0].name is not None:
            return {field.name: self.read(reader, field.type, depth + 1) for field in fields}
        values = [self.read(reader, field.type, depth + 1) for field in fields]
        return _bare(values)

    def _read_variant(
        self, reader: Reader, entry: Entry, cases: tuple[Case, ...], depth: int
    ) -> Value:
        (index,) = reader.take(1)
        case = next((case for case in cases if case.index == index), None)
        if case is None:
            name = "::".join(entry.path)
            raise Malformed(f"{name} has no variant {index}", offset=reader.offset - 1)
        if entry.path == ("Option",):
            return self._read_fields(reader, case.fields, depth)
        if not case.fields:
            return case.name
        return {case.name: self._read_fields(reader, case.fields, depth)}

    def _read_items(self, reader: Reader, item: int, count: int, depth: int) -> Value:
        if self[item].definition == Primitive(BYTE):
            return reader.take(count)
        _bounded(reader, count, SEQUENCE_ITEMS_MAX)
        values: list[Value] = []
        start = reader.offset
        for done in range(count):
            if done == EMPTY_ITEMS_MAX and reader.offset == start:
                raise Malformed(f"{count} items of no bytes", offset=start)
            values.append(self.read(reader, item, depth + 1))
        return values

    # ---- writing

    def _write(self, out: bytearray, type_id: int, value: Value, at: tuple[str, ...]) -> None:
        if len(at) > DEPTH_MAX:
            raise _misfit(at[:4], value, f"a value nested at most {DEPTH_MAX} deep")
        entry = self[type_id]
        match entry.definition:
            case Primitive(index):
                _write_primitive(out, index, value, at)
            case Compacted(inner):
                if self[inner].definition == Tuple(()):
                    self._write(out, inner, value, at)
                elif not isinstance(value, int) or isinstance(value, bool):
                    raise _misfit(at, value, "an integer")
                else:
                    out += encode_compact(value)
            case Composite(fields):
                self._write_fields(out, fields, _address(entry, value), at)
            case Variant(cases):
                self._write_variant(out, entry, cases, value, at)
            case Sequence(item):
                items = self._items(item, value, at)
                out += encode_compact(len(items))
                self._write_items(out, item, items, at)
            case Array(size, item):
                items = self._items(item, value, at)
                if len(items) != size:
                    raise _misfit(at, value, f"{size} items")
                self._write_items(out, item, items, at)
            case Tuple(kinds):
                values = _listed(value, len(kinds), at)
                for place, (kind, each) in enumerate(zip(kinds, values, strict=True)):
                    self._write(out, kind, each, (*at, str(place)))
            case Bits():
                raise _misfit(at, value, "anything but a bit sequence: these are only read")

    def _write_fields(
        self, out: bytearray, fields: tuple[Field, ...], value: Value, at: tuple[str, ...]
    ) -> None:
        if fields and fields[0].name is not None:
            names = [field.name for field in fields]
            if not isinstance(value, Mapping) or sorted(value) != sorted(map(str, names)):
                raise _misfit(at, value, f"the fields {', '.join(map(str, names))}")
            values = [value[name] for name in names]
        else:
            values = _listed(value, len(fields), at)
        for place, (field, each) in enumerate(zip(fields, values, strict=True)):
            self._write(out, field.type, each, (*at, field.name or str(place)))

    def _write_variant(
        self,
        out: bytearray,
        entry: Entry,
        cases: tuple[Case, ...],
        value: Value,
        at: tuple[str, ...],
    ) -> None:
        name, fields = _named(entry, value, at)
        case = next((case for case in cases if case.name == name), None)
        if case is None:
            raise _misfit(at, value, f"one of {', '.join(case.name for case in cases)}")
        out.append(case.index)
        self._write_fields(out, case.fields, fields, (*at, name))

    def _items(self, item: int, value: Value, at: tuple[str, ...]) -> bytes | list[Value]:
        if self[item].definition == Primitive(BYTE):
            return _as_bytes(value, at)
        if not isinstance(value, list | tuple):
            raise _misfit(at, value, "a list")
        return list(value)

    def _write_items(
        self, out: bytearray, item: int, items: bytes | list[Value], at: tuple[str, ...]
    ) -> None:
        if isinstance(items, bytes):
            out += items
            return
        for place, each in enumerate(items):
            self._write(out, item, each, (*at, str(place)))


def _bare(values: list[Value]) -> Value:
    """Fields without names: none is None, one is itself."""
    return values if len(values) > 1 else values[0] if values else None


def _listed(value: Value, count: int, at: tuple[str, ...]) -> list[Value]:
    if count == 0 and value is None:
        return []
    if count == 1 and not (isinstance(value, tuple) and len(value) == 1):
        return [value]
    if not isinstance(value, list | tuple) or len(value) != count:
        raise _misfit(at, value, f"a list of {count}")
    return list(value)


def _named(entry: Entry, value: Value, at: tuple[str, ...]) -> tuple[str, Value]:
    if entry.path == ("Option",):
        return ("None", None) if value is None else ("Some", value)
    if entry.path[-1:] == ("MultiAddress",) and isinstance(value, bytes):
        return "Id", value
    if entry.path[-1:] == ("MultiAddress",) and isinstance(value, str):
        return "Id", decode_ss58(value)
    if isinstance(value, str):
        return value, None
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, fields),) = value.items()
        return str(name), fields
    raise _misfit(at, value, "a variant's name, or {name: fields}")


def _address(entry: Entry, value: Value) -> Value:
    """An account may be given by its address."""
    if entry.path[-1:] == ("AccountId32",) and isinstance(value, str) and value[:2] != "0x":
        return decode_ss58(value)
    return value


def _as_bytes(value: Value, at: tuple[str, ...]) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            raise _misfit(at, value, "hex digits after 0x") from None
    raise _misfit(at, value, "bytes, or hex that starts with 0x")


def _misfit(at: tuple[str, ...], value: Value, wanted: str) -> Invalid:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    place = ".".join(at) or "the value"
    return Invalid(f"{place} is {shown}", mend=f"pass {wanted}")


def _bounded(reader: Reader, count: int, count_max: int) -> int:
    if count > count_max:
        raise Malformed(f"{count} items, at most {count_max} are read", offset=reader.offset)
    return count


def _read_primitive(reader: Reader, index: int) -> Value:
    start = reader.offset
    if index == BOOL:
        (byte,) = reader.take(1)
        if byte > 1:
            raise Malformed(f"{byte} is not a bool", offset=start)
        return byte == 1
    if index == STR:
        try:
            return reader.take(read_compact(reader)).decode()
        except UnicodeDecodeError:
            raise Malformed("the text is not UTF-8", offset=start) from None
    if index == CHAR:
        code = int.from_bytes(reader.take(4), "little")
        if code > 0x10FFFF:
            raise Malformed(f"{code} is not a character", offset=start)
        return chr(code)
    if index in UNSIGNED:
        return int.from_bytes(reader.take(UNSIGNED[index]), "little")
    if index in SIGNED:
        return int.from_bytes(reader.take(SIGNED[index]), "little", signed=True)
    raise Malformed(f"there is no primitive type {index}", offset=start)


def _write_primitive(out: bytearray, index: int, value: Value, at: tuple[str, ...]) -> None:
    if index == BOOL and isinstance(value, bool):
        out.append(value)
    elif index == STR and isinstance(value, str):
        data = value.encode()
        out += encode_compact(len(data)) + data
    elif index in UNSIGNED | SIGNED and isinstance(value, int) and not isinstance(value, bool):
        size = (UNSIGNED | SIGNED)[index]
        try:
            out += value.to_bytes(size, "little", signed=index in SIGNED)
        except OverflowError:
            raise _misfit(at, value, f"an integer of {8 * size} bits") from None
    else:
        kinds = {BOOL: "true or false", STR: "text"}
        raise _misfit(at, value, kinds.get(index, "an integer"))
