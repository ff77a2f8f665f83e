"""Values of annotated types to JSON and back, with errors that name the place.

JSON carries `bytes` as hex behind 0x and a dataclass as an object of its fields. A `float` takes
whole numbers too; NaN and the infinities have no JSON, so they are refused.
"""

import json
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any


class WrongValue(Exception):
    """A value is not of its annotated type."""

    def __init__(self, where: str, expected: str, got: object) -> None:
        shown = got if isinstance(got, _Said) else f"{_name(type(got))} {short(got)}"
        super().__init__(f"{where}: expected {expected}, got {shown}")


class _Said(str):
    """Words for what was got, instead of a value."""

    __slots__ = ()


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _no_json(value: Any) -> Any:
    raise TypeError(f"{_name(type(value))} has no JSON: annotate the type of the result")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_scan = _DECODER.scan_once  # type: ignore[attr-defined] # typeshed leaves it out
# What JSONEncoder makes anew for every value, made once. No NaN, no space, no escapes of letters;
# a circle ends in RecursionError.
_encode = json.encoder.c_make_encoder(  # type: ignore[attr-defined] # typeshed leaves it out
    None, _no_json, json.encoder.encode_basestring, None, ":", ",", False, False, False  # noqa: FBT003
)  # fmt: skip


def to_json(value: Any) -> bytes:
    return "".join(_encode(value, 0)).encode()


def from_json(data: bytes) -> Any:
    text = data.decode()
    try:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except (ValueError, StopIteration):
        pass  # blanks in front, or no JSON at all
    return _DECODER.decode(text)


class Shape(ABC):
    """How values of one annotated type become JSON values and back, checked both ways."""

    name: str
    mutable = True  # whether a value can change without being assigned again

    @abstractmethod
    def load(self, found: Any, where: str) -> Any: ...

    @abstractmethod
    def dump(self, value: Any, where: str) -> Any: ...

    def all_plain(self, values: Any) -> bool:  # noqa: ARG002 - a shape that says so looks at them
        """Whether each value stands for itself both ways. Asked once for a whole list or table,
        for one by one they cost many times what reading them as JSON does."""
        return False

    def parse(self, text: str, where: str) -> Any:
        """The value that a person typed: JSON, or the text itself where text is expected."""
        try:
            found = _DECODER.decode(text)
        except ValueError:
            raise WrongValue(where, self.name, text) from None
        return self.load(found, where)


class Anything(Shape):
    name = "anything"

    def load(self, found: Any, where: str) -> Any:  # noqa: ARG002 - every shape is told the place
        return found

    def dump(self, value: Any, where: str) -> Any:  # noqa: ARG002
        return value

    def all_plain(self, values: Any) -> bool:  # noqa: ARG002
        return True


class Nothing(Shape):
    name = "None"
    mutable = False

    def load(self, found: Any, where: str) -> Any:
        if found is not None:
            raise WrongValue(where, self.name, found)

    def dump(self, value: Any, where: str) -> Any:
        return self.load(value, where)


class Scalar(Shape):
    """`int`, `bool`, `str`: the very type, so True is no number."""

    mutable = False

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.name = kind.__name__

    def load(self, found: Any, where: str) -> Any:
        if type(found) is not self.kind:
            raise WrongValue(where, self.name, found)
        return found

    def dump(self, value: Any, where: str) -> Any:
        return self.load(value, where)

    def all_plain(self, values: Any) -> bool:
        return {*map(type, values)} <= {self.kind}

    def parse(self, text: str, where: str) -> Any:
        return text if self.kind is str else super().parse(text, where)


class Real(Shape):
    name = "float"
    mutable = False

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def load(self, found: Any, where: str) -> Any:
        if type(found) is int:
            return self.kind(found)
        if type(found) is not self.kind:
            raise WrongValue(where, self.name, found)
        return found

    def dump(self, value: Any, where: str) -> Any:
        return self.load(value, where)

    def all_plain(self, values: Any) -> bool:
        return {*map(type, values)} <= {self.kind}


class Octets(Shape):
    name = "bytes as 0x…"
    mutable = False

    def load(self, found: Any, where: str) -> Any:
        if type(found) is not str or not found.startswith("0x"):
            raise WrongValue(where, self.name, found)
        try:
            return bytes.fromhex(found[2:])
        except ValueError:
            raise WrongValue(where, self.name, found) from None

    def dump(self, value: Any, where: str) -> Any:
        if not isinstance(value, bytes | bytearray):
            raise WrongValue(where, "bytes", value)
        return "0x" + value.hex()

    def parse(self, text: str, where: str) -> Any:
        return self.load(text, where)


class Items(Shape):
    """`list[T]`, `tuple[T, ...]`: a JSON array."""

    def __init__(self, kind: type, item: Shape) -> None:
        self.kind = kind
        self.item = item
        self.name = f"{kind.__name__}[{item.name}]"

    def load(self, found: Any, where: str) -> Any:
        if type(found) is not list:
            raise WrongValue(where, self.name, found)
        if self.item.all_plain(found):
            return found if self.kind is list else self.kind(found)
        item = self.item.load
        return self.kind([item(each, f"{where}[{at}]") for at, each in enumerate(found)])

    def dump(self, value: Any, where: str) -> Any:
        if not isinstance(value, self.kind):
            raise WrongValue(where, self.name, value)
        if self.item.all_plain(value):
            return value
        item = self.item.dump
        return [item(each, f"{where}[{at}]") for at, each in enumerate(value)]  # type: ignore[arg-type, var-annotated]


class Row(Shape):
    """`tuple[A, B]`: a JSON array of just these."""

    def __init__(self, parts: list[Shape]) -> None:
        self.parts = parts
        self.name = f"tuple[{', '.join(part.name for part in parts)}]"

    def load(self, found: Any, where: str) -> Any:
        if type(found) is not list or len(found) != len(self.parts):
            raise WrongValue(where, self.name, found)
        return tuple(
            part.load(each, f"{where}[{at}]")
            for at, (part, each) in enumerate(zip(self.parts, found, strict=True))
        )

    def dump(self, value: Any, where: str) -> Any:
        if not isinstance(value, tuple) or len(value) != len(self.parts):
            raise WrongValue(where, self.name, value)
        return [
            part.dump(each, f"{where}[{at}]")
            for at, (part, each) in enumerate(zip(self.parts, value, strict=True))
        ]


class Table(Shape):
    """`dict[str, T]`: a JSON object."""

    def __init__(self, item: Shape) -> None:
        self.item = item
        self.name = f"dict[str, {item.name}]"

    def load(self, found: Any, where: str) -> Any:
        return self._each(found, where, self.item.load)

    def dump(self, value: Any, where: str) -> Any:
        return self._each(value, where, self.item.dump)

    def _each(self, found: Any, where: str, through: Any) -> Any:
        if not isinstance(found, dict):
            raise WrongValue(where, self.name, found)
        for key in found:
            if type(key) is not str:
                raise WrongValue(f"{where}: a key", "str", key)
        if self.item.all_plain(found.values()):
            return found
        return {key: through(each, f"{where}[{key!r}]") for key, each in found.items()}


class Maybe(Shape):
    """`T | None`."""

    def __init__(self, some: Shape) -> None:
        self.some = some
        self.name = f"{some.name} or None"
        self.mutable = some.mutable

    def load(self, found: Any, where: str) -> Any:
        return None if found is None else self.some.load(found, where)

    def dump(self, value: Any, where: str) -> Any:
        return None if value is None else self.some.dump(value, where)

    def parse(self, text: str, where: str) -> Any:
        return None if text in {"null", "None"} else self.some.parse(text, where)


class Record(Shape):
    """A dataclass: a JSON object of its fields; one with a default may be left out."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.name = kind.__name__
        self.members: dict[str, Shape] = {}
        self.needed: list[str] = []

    def fill(self) -> None:
        hints = typing.get_type_hints(self.kind)
        for field in fields(self.kind):
            self.members[field.name] = shape_of(hints[field.name])
            if field.default is MISSING and field.default_factory is MISSING:
                self.needed.append(field.name)

    def load(self, found: Any, where: str) -> Any:
        if not isinstance(found, dict):
            raise WrongValue(where, self.name, found)
        for name in found:
            if name not in self.members:
                raise WrongValue(where, self.name, _Said(f"an unknown field {name!r}"))
        for name in self.needed:
            if name not in found:
                raise WrongValue(where, self.name, _Said(f"no field {name!r}"))
        return self.kind(
            **{
                name: self.members[name].load(each, f"{where}.{name}")
                for name, each in found.items()
            }
        )

    def dump(self, value: Any, where: str) -> Any:
        if type(value) is not self.kind:
            raise WrongValue(where, self.name, value)
        return {
            name: shape.dump(getattr(value, name), f"{where}.{name}")
            for name, shape in self.members.items()
        }


_SCALARS: Mapping[Any, Shape] = {kind: Scalar(kind) for kind in (int, bool, str)}
_records: dict[type, Record] = {}


@cache
def shape_of(annotation: Any) -> Shape:
    """The shape that an annotation stands for.

    Raises:
        TypeError: there is none. A mistake in the contract, met when the method is called.
    """
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    origin = typing.get_origin(annotation) or annotation
    parts = typing.get_args(annotation)
    match origin:
        case _ if annotation is Any or annotation is object:
            return Anything()
        case None | types.NoneType:
            return Nothing()
        case types.UnionType | typing.Union:
            some = [part for part in parts if part is not types.NoneType]
            if len(some) == 1 and len(parts) == 2:
                return Maybe(shape_of(some[0]))
        case _ if origin is list:
            return Items(list, shape_of(parts[0] if parts else Any))
        case _ if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
            return Items(tuple, shape_of(parts[0]))
        case _ if origin is tuple and parts:
            return Row([shape_of(part) for part in parts])
        case _ if origin is dict and (not parts or parts[0] is str):
            return Table(shape_of(parts[1] if parts else Any))
        case _ if origin is bytes:
            return Octets()
        case type(__name__="float"):
            return Real(origin)
        case type() if is_dataclass(origin):
            return _record_of(origin)
        case _:
            pass
    raise TypeError(
        f"{_name(annotation)} is no type of a contract's values: use int, float, bool, str, bytes, "
        "list[...], dict[str, ...], tuple[...], a dataclass, or one of these | None"
    )


def _record_of(kind: type) -> Record:
    # A dataclass may hold itself in a list, so it is known before its fields are.
    if kind not in _records:
        _records[kind] = Record(kind)
        _records[kind].fill()
    return _records[kind]


def _name(annotation: Any) -> str:
    return str(getattr(annotation, "__name__", annotation))
