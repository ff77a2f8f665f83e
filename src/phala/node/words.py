"""What a runtime's bytes mean, by its metadata (version 14): values as JSON, accounts in events.

It reads what any release of the chain says of itself, so that old blocks are told as their own
runtime names them. Source: the `frame-metadata` crate, `v14`; the `scale-info` crate.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from phala.codec import Malformed, Reader
from phala.codec.compact import read_compact
from phala.primitives.address import encode_ss58
from phala.primitives.types import AccountId

DEPTH_MAX: Final = 64  # of a value; types may hold themselves
ITEMS_MAX: Final = 1 << 20
PRIMITIVE_BYTES: Final = (
    1,
    4,
    None,
    1,
    2,
    4,
    8,
    16,
    32,
    1,
    2,
    4,
    8,
    16,
    32,
)  # bool, char, str, u8…
FIRST_SIGNED: Final = 9
BOOL, CHAR, STR, U8 = 0, 1, 2, 3
NUMBER_BYTES_MAX: Final = 4  # larger ones are told as text: JSON's numbers are not exact
COMPOSITE, VARIANT, SEQUENCE, ARRAY, TUPLE, PRIMITIVE, COMPACT = range(7)
PLAIN: Final = 0
ACCOUNT: Final = "AccountId32"

Walk: TypeAlias = Callable[[bytes, int, list[bytes]], int]
"""From where a value begins to where it ends; the accounts in it are put into the list."""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    fields: tuple[tuple[str | None, int], ...]  # name, type
    docs: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A type: what `inner` holds follows from `form`."""

    path: tuple[str, ...]
    form: int
    fields: tuple[tuple[str | None, int], ...] = ()  # of a composite
    cases: dict[int, Case] | None = None  # of a variant
    inner: int = 0  # of a sequence, array or compact; a primitive's index
    count: int = 0  # of an array
    items: tuple[int, ...] = ()  # of a tuple

    @property
    def is_account(self) -> bool:
        return self.path[-1:] == (ACCOUNT,)


@dataclass(frozen=True, slots=True)
class PalletWords:
    name: str
    calls: int | None
    events: int | None
    errors: int | None


@dataclass(frozen=True, slots=True)
class EventAt:
    """Where one event lies in the bytes of `System.Events`."""

    extrinsic: int | None
    pallet: int
    index: int
    start: int  # of its fields
    end: int
    first_end: int  # of its first field
    accounts: tuple[bytes, ...]


class Words:
    """The types and pallets of one runtime version."""

    def __init__(self, metadata: bytes) -> None:
        """Raises `Malformed`."""
        reader = Reader(metadata)
        if reader.take(5) != b"meta\x0e":
            raise Malformed("no metadata of version 14", offset=0)
        self.kinds = {_compact(reader): _kind(reader) for _ in range(_compact(reader))}
        self.pallets = dict(_pallet(reader) for _ in range(_compact(reader)))
        self._walks: dict[int, Walk] = {}
        self._events: dict[bytes, tuple[Walk, Walk]] = {}  # the first field, the others

    # ---- values as JSON

    def read(self, reader: Reader, kind: int, depth: int = 0) -> Any:
        """The next value. Numbers above 32 bits are text. Raises `Malformed`."""
        if depth > DEPTH_MAX:
            raise Malformed(f"a value nests deeper than {DEPTH_MAX}", offset=reader.offset)
        found = self._kind(kind, reader)
        match found.form:
            case _ if found.is_account:
                return encode_ss58(AccountId(reader.take(32)))
            case 0:
                return self._fields(reader, found.fields, depth)
            case 1:
                return self._variant(reader, found, depth)
            case 2 | 3:
                count = found.count if found.form == ARRAY else _compact(reader)
                return self._items(reader, found.inner, count, depth)
            case 4:
                return [self.read(reader, each, depth + 1) for each in found.items]
            case 5:
                return _primitive(reader, found.inner)
            case _:
                value = read_compact(reader)
                return value if self._width(found.inner) <= NUMBER_BYTES_MAX else str(value)

    def _kind(self, kind: int, reader: Reader) -> Kind:
        found = self.kinds.get(kind)
        if found is None:
            raise Malformed(f"no type {kind}", offset=reader.offset)
        return found

    def _width(self, kind: int) -> int:
        """Bytes of the number that a compact one stands for; a newtype's is its inner one's."""
        found = self.kinds[kind]
        while found.form == COMPOSITE and len(found.fields) == 1:
            found = self.kinds[found.fields[0][1]]
        return PRIMITIVE_BYTES[found.inner] or 0 if found.form == PRIMITIVE else 0

    def _fields(
        self, reader: Reader, fields: tuple[tuple[str | None, int], ...], depth: int
    ) -> Any:
        if len(fields) == 1 and fields[0][0] is None:
            return self.read(reader, fields[0][1], depth + 1)
        if fields and fields[0][0] is None:
            return [self.read(reader, kind, depth + 1) for _, kind in fields]
        return {str(name): self.read(reader, kind, depth + 1) for name, kind in fields}

    def _variant(self, reader: Reader, found: Kind, depth: int) -> Any:
        (index,) = reader.take(1)
        case = (found.cases or {}).get(index)
        if case is None:
            raise Malformed(f"no variant {index}", offset=reader.offset - 1)
        if found.path == ("Option",):
            return self._fields(reader, case.fields, depth) if case.fields else None
        if not case.fields:
            return case.name
        return {case.name: self._fields(reader, case.fields, depth)}

    def _items(self, reader: Reader, inner: int, count: int, depth: int) -> Any:
        item = self._kind(inner, reader)
        if item.form == PRIMITIVE and item.inner == U8:
            return "0x" + reader.take(count).hex()
        if count > ITEMS_MAX:
            raise Malformed(f"{count} items", offset=reader.offset)
        return [self.read(reader, inner, depth + 1) for _ in range(count)]

    # ---- calls and events

    def call(self, data: bytes) -> dict[str, Any]:
        """A call by its names. Raises `Malformed`."""
        reader = Reader(data)
        pallet = self._pallet(reader)
        if pallet.calls is None:
            raise Malformed(f"{pallet.name} has no calls", offset=0)
        name, args = _named(self.read(reader, pallet.calls))
        reader.finish()
        return {"pallet": pallet.name, "name": name, "args": args}

    def event(self, data: bytes, at: EventAt) -> dict[str, Any]:
        pallet = self.pallets[at.pallet]
        assert pallet.events is not None
        reader = Reader(bytes([at.index]) + data[at.start : at.end])
        name, fields = _named(self.read(reader, pallet.events))
        return {"pallet": pallet.name, "name": name, "fields": fields}

    def event_name(self, at: EventAt) -> tuple[str, str]:
        """Its pallet's, and its own."""
        pallet = self.pallets[at.pallet]
        assert pallet.events is not None
        return pallet.name, (self.kinds[pallet.events].cases or {})[at.index].name

    def error(self, data: bytes) -> dict[str, Any]:
        """A `DispatchError` by its name: of a pallet, with its docs, where it is one's."""
        if data[:1] == b"\3" and len(data) == 6:  # Module { index, error }
            pallet = self.pallets.get(data[1])
            kind = self.kinds.get(pallet.errors) if pallet and pallet.errors is not None else None
            case = (kind.cases or {}).get(data[2]) if kind else None
            if pallet and case:
                return {"pallet": pallet.name, "name": case.name, "docs": case.docs}
        names = {0: "Other", 1: "CannotLookup", 2: "BadOrigin", 4: "ConsumerRemaining",
                 5: "NoProviders", 6: "TooManyConsumers", 7: "Token", 8: "Arithmetic"}  # fmt: skip
        name = names.get(data[0] if data else -1, "Unknown")
        return {"pallet": None, "name": name, "docs": "", "raw": "0x" + data.hex()}

    def _pallet(self, reader: Reader) -> PalletWords:
        (index,) = reader.take(1)
        found = self.pallets.get(index)
        if found is None:
            raise Malformed(f"no pallet {index}", offset=reader.offset - 1)
        return found

    def events(self, data: bytes) -> Iterator[EventAt]:
        """The events of a block, as `System.Events` holds them. Raises `Malformed`."""
        count, at = _compact_at(data, 0)
        for _ in range(count):
            phase = data[at : at + 1]
            extrinsic = None
            at += 1
            if phase == b"\0":
                extrinsic = int.from_bytes(data[at : at + 4], "little")
                at += 4
            elif phase not in (b"\1", b"\2"):
                raise Malformed("no phase of an event", offset=at - 1)
            name = data[at : at + 2]
            first, rest = self._event_walks(name, at)
            accounts: list[bytes] = []
            first_end = first(data, at + 2, accounts)
            end = rest(data, first_end, accounts)
            yield EventAt(
                extrinsic, name[0], name[1], at + 2, end, first_end, tuple(dict.fromkeys(accounts))
            )
            topics, at = _compact_at(data, end)
            at += 32 * topics

    def _event_walks(self, name: bytes, at: int) -> tuple[Walk, Walk]:
        known = self._events.get(name)
        if known is None:
            pallet = self.pallets.get(name[0]) if len(name) == 2 else None
            kind = self.kinds[pallet.events] if pallet and pallet.events is not None else None
            case = (kind.cases or {}).get(name[1]) if kind else None
            if case is None:
                raise Malformed(f"no event 0x{name.hex()}", offset=at)
            walks = [self._walk(each) for _, each in case.fields]
            known = self._events[name] = _chain(walks[:1]), _chain(walks[1:])
        return known

    # ---- walking over values

    def _walk(self, kind: int) -> Walk:
        known = self._walks.get(kind)
        if known is None:
            # What holds itself is walked through this, when its own walk is there.
            def later(data: bytes, at: int, out: list[bytes]) -> int:
                return self._walks[kind](data, at, out)

            self._walks[kind] = later
            known = self._walks[kind] = self._new_walk(self.kinds[kind])
        return known

    def _new_walk(self, found: Kind) -> Walk:
        if found.is_account:
            return _account
        match found.form:
            case 0:
                return _chain([self._walk(each) for _, each in found.fields])
            case 1:
                cases = {
                    index: _chain([self._walk(each) for _, each in case.fields])
                    for index, case in (found.cases or {}).items()
                }
                return lambda data, at, out: _case(cases, data, at)(data, at + 1, out)
            case 2 | 3:
                return self._items_walk(found)
            case 4:
                return _chain([self._walk(each) for each in found.items])
            case 5:
                size = PRIMITIVE_BYTES[found.inner]
                return _text if size is None else _skip(size)
            case _:
                return lambda data, at, _out: _compact_at(data, at)[1]

    def _items_walk(self, found: Kind) -> Walk:
        item, size = self._walk(found.inner), getattr(self._walk(found.inner), "size", None)
        count = found.count if found.form == ARRAY else None
        if size is not None and count is not None:
            return _skip(size * count)

        def walk(data: bytes, at: int, out: list[bytes]) -> int:
            left = count
            if left is None:
                left, at = _compact_at(data, at)
            if size is not None:
                return _within(data, at + size * left)
            for _ in range(left):
                at = item(data, at, out)
            return at

        return walk


class _Skip:
    """A walk over so many bytes that hold no account."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, data: bytes, at: int, _out: list[bytes]) -> int:
        return _within(data, at + self.size)


_skip = _Skip


def _chain(walks: list[Walk]) -> Walk:
    """One after the other."""
    merged: list[Walk] = []
    for each in walks:
        size = getattr(each, "size", None)
        last = getattr(merged[-1], "size", None) if merged else None
        if size is not None and last is not None:
            merged[-1] = _skip(last + size)
        else:
            merged.append(each)
    if not merged:
        return _skip(0)
    if len(merged) == 1:
        return merged[0]

    def walk(data: bytes, at: int, out: list[bytes]) -> int:
        for each in merged:
            at = each(data, at, out)
        return at

    return walk


def _within(data: bytes, at: int) -> int:
    if at > len(data):
        raise Malformed("the bytes end inside a value", offset=len(data))
    return at


def _account(data: bytes, at: int, out: list[bytes]) -> int:
    end = _within(data, at + 32)
    out.append(data[at:end])
    return end


def _text(data: bytes, at: int, _out: list[bytes]) -> int:
    size, at = _compact_at(data, at)
    return _within(data, at + size)


def _case(cases: dict[int, Walk], data: bytes, at: int) -> Walk:
    _within(data, at + 1)
    found = cases.get(data[at])
    if found is None:
        raise Malformed(f"no variant {data[at]}", offset=at)
    return found


def _compact_at(data: bytes, at: int) -> tuple[int, int]:
    if at < len(data) and data[at] & 3 == 0:
        return data[at] >> 2, at + 1
    reader = Reader(data)
    reader.offset = at
    return read_compact(reader), reader.offset


# ---- reading metadata


def _compact(reader: Reader) -> int:
    found = read_compact(reader)
    if found > ITEMS_MAX:
        raise Malformed(f"{found} items", offset=reader.offset)
    return found


def _string(reader: Reader) -> str:
    return reader.take(_compact(reader)).decode("utf-8", "replace")


def _strings(reader: Reader) -> tuple[str, ...]:
    return tuple(_string(reader) for _ in range(_compact(reader)))


def _optional(reader: Reader, read: Callable[[Reader], Any]) -> Any:
    return read(reader) if reader.take(1)[0] else None


def _field(reader: Reader) -> tuple[str | None, int]:
    name = _optional(reader, _string)
    kind = _compact(reader)
    _optional(reader, _string)  # the type's name
    _strings(reader)  # docs
    return name, kind


def _field_list(reader: Reader) -> tuple[tuple[str | None, int], ...]:
    return tuple(_field(reader) for _ in range(_compact(reader)))


def _case_of(reader: Reader) -> tuple[int, Case]:
    name, fields = _string(reader), _field_list(reader)
    (index,) = reader.take(1)
    return index, Case(name, fields, " ".join(_strings(reader)).strip())


def _kind(reader: Reader) -> Kind:
    path = _strings(reader)
    for _ in range(_compact(reader)):
        _string(reader)
        _optional(reader, _compact)
    (form,) = reader.take(1)
    match form:
        case 0:
            found = Kind(path, form, fields=_field_list(reader))
        case 1:
            found = Kind(path, form, cases=dict(_case_of(reader) for _ in range(_compact(reader))))
        case 2 | 6:
            found = Kind(path, form, inner=_compact(reader))
        case 3:
            count = int.from_bytes(reader.take(4), "little")
            found = Kind(path, form, count=count, inner=_compact(reader))
        case 4:
            found = Kind(path, form, items=tuple(_compact(reader) for _ in range(_compact(reader))))
        case 5:
            found = Kind(path, form, inner=reader.take(1)[0])
        case _:
            raise Malformed(f"types of form {form} are not read", offset=reader.offset)
    _strings(reader)  # docs
    return found


def _storage(reader: Reader) -> None:
    _string(reader)
    for _ in range(_compact(reader)):
        _string(reader)
        reader.take(1)
        if reader.take(1)[0] != PLAIN:
            reader.take(_compact(reader))  # hashers
            _compact(reader)
        _compact(reader)
        reader.take(_compact(reader))
        _strings(reader)


def _constant(reader: Reader) -> None:
    _string(reader)
    _compact(reader)
    reader.take(_compact(reader))
    _strings(reader)


def _pallet(reader: Reader) -> tuple[int, PalletWords]:
    name = _string(reader)
    _optional(reader, _storage)
    calls = _optional(reader, _compact)
    events = _optional(reader, _compact)
    for _ in range(_compact(reader)):
        _constant(reader)
    errors = _optional(reader, _compact)
    (index,) = reader.take(1)
    return index, PalletWords(name, calls, events, errors)


def _primitive(reader: Reader, index: int) -> Any:
    if index == STR:
        return _string(reader)
    size = PRIMITIVE_BYTES[index]
    assert size is not None
    data = reader.take(size)
    if index == BOOL:
        return data != b"\0"
    if index == CHAR:
        return chr(min(int.from_bytes(data, "little"), 0x10FFFF))
    value = int.from_bytes(data, "little", signed=index >= FIRST_SIGNED)
    return value if size <= NUMBER_BYTES_MAX else str(value)


def _named(value: Any) -> tuple[str, Any]:
    """A variant's name, and its fields."""
    if isinstance(value, str):
        return value, {}
    ((name, fields),) = value.items()
    return name, fields
