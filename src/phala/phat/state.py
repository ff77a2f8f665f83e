"""A contract's state: each annotated attribute is a field, kept by the host under its name."""

import typing
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from phala.phat.host import CURRENT
from phala.phat.values import Shape, from_json, shape_of, to_json

K = TypeVar("K")
V = TypeVar("V")

PAGE_ITEMS = 100  # of a map, fetched from the host at once

MISSING: Any = object()


class ReadOnly(Exception):
    """A query tried to change state."""

    def __init__(self, where: str) -> None:
        super().__init__(f"a query cannot change {where}: make the method a @command")


class Unset(Exception):
    """A field without a default was read before it was given a value."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} has no value yet: set it in __init__, or give it a default")


class Kept:
    """A value as loaded, with the bytes it came from, to see at the end whether it changed."""

    __slots__ = ("raw", "shape", "value")

    def __init__(self, shape: Shape, value: Any, raw: bytes | None) -> None:
        self.shape = shape
        self.value = value
        self.raw = raw

    def changed(self, where: str) -> bytes | None:
        """The bytes to write, or None where they are the same."""
        raw = to_json(self.shape.dump(self.value, where))
        return None if raw == self.raw else raw


class Field:
    """The attribute of a contract that reads its value when it is first needed."""

    def __init__(self, owner: type, name: str, default: Any) -> None:
        self.owner = owner
        self.name = name
        self.key = name.encode()
        self.default = default
        self._hint: Any = None
        self._shape: Shape | None = None  # None for a Map

    def resolve(self) -> Shape | None:
        if self._hint is None:
            self._hint = hints_of(self.owner)[self.name]
            if typing.get_origin(self._hint) is not Map:
                self._shape = shape_of(self._hint)
        return self._shape

    def __get__(self, contract: Any, owner: type | None = None) -> Any:
        if contract is None:
            return self
        kept = contract.__dict__
        if self.name not in kept:
            kept[self.name] = self._load()
        found = kept[self.name]
        return found.value if isinstance(found, Kept) else found

    def __set__(self, contract: Any, value: Any) -> None:
        if not CURRENT.writable:
            raise ReadOnly(self.name)
        found = contract.__dict__.get(self.name)
        if isinstance(found, Kept):
            kept = found
        else:
            shape = self.resolve()
            if shape is None:
                raise TypeError(f"{self.name} is a Map: change its items, it cannot be replaced")
            kept = Kept(shape, None, MISSING)
        if not kept.shape.mutable:
            value = kept.shape.load(kept.shape.dump(value, self.name), self.name)
        kept.value = value
        contract.__dict__[self.name] = kept

    def _load(self) -> Any:
        shape = self.resolve()
        if shape is None:
            return Map.bound(self.name, self._hint)
        raw = CURRENT.get().get(self.key)
        if raw is not None:
            return Kept(shape, shape.load(from_json(raw), self.name), raw)
        if self.default is MISSING:
            raise Unset(self.name)
        # A copy, for the default is the class's; unchanged, it is not written.
        raw = to_json(shape.dump(self.default, self.name))
        return Kept(shape, shape.load(from_json(raw), self.name), raw)


class Map(Generic[K, V]):
    """A large collection, each item under a key of its own: `votes: Map[str, int]`.

    A call pays for the items it touches, not for all. Keys are strings; items come in their order.
    """

    def __init__(self) -> None:
        raise TypeError("a Map needs no value: annotate it, as in `votes: Map[str, int]`")

    @classmethod
    def bound(cls, name: str, hint: Any) -> "Map[Any, Any]":
        parts = typing.get_args(hint)
        if len(parts) != 2 or parts[0] is not str:
            raise TypeError(f"{name}: a Map has keys of type str, as in Map[str, int]")
        self: Map[Any, Any] = object.__new__(cls)
        self._name = name
        self._prefix = name.encode() + b"/"  # in no field's name, so no two keys are one
        self._shape = shape_of(parts[1])
        self._kept = {}
        return self

    _name: str
    _prefix: bytes
    _shape: Shape
    _kept: dict[str, Kept | None]

    def __contains__(self, key: K) -> bool:
        return self._find(key) is not None

    def __getitem__(self, key: K) -> V:
        kept = self._find(key)
        if kept is None:
            raise KeyError(f"{self._name} has no {key!r}")
        return typing.cast("V", kept.value)

    def get(self, key: K, default: Any = None) -> V | Any:
        kept = self._find(key)
        return default if kept is None else kept.value

    def __setitem__(self, key: K, value: V) -> None:
        host_key = self._writable(key)
        where = self._where(key)
        raw = to_json(self._shape.dump(value, where))
        CURRENT.put(host_key, raw, where)
        self._kept[str(key)] = Kept(self._shape, value, raw)

    def __delitem__(self, key: K) -> None:
        host_key = self._writable(key)
        if self._find(key) is None:
            raise KeyError(f"{self._name} has no {key!r}")
        CURRENT.get().set(host_key, None)
        self._kept[str(key)] = None

    def pop(self, key: K, default: Any = MISSING) -> V | Any:
        kept = self._find(key)
        if kept is None and default is not MISSING:
            return default
        value = self[key]
        del self[key]
        return value

    def items(self, start: str = "", limit: int | None = None) -> Iterator[tuple[K, V]]:
        """Items in the order of their keys' UTF-8, from `start` on, at most `limit` of them."""
        self.save()
        at = self._prefix + start.encode()
        while limit is None or limit > 0:
            ask = PAGE_ITEMS if limit is None else min(limit, PAGE_ITEMS)
            page = CURRENT.get().scan(self._prefix, at, ask)
            for host_key, raw in page:
                key = host_key[len(self._prefix) :].decode()
                kept = self._kept.get(key)
                if kept is None or kept.raw != raw:
                    value = self._shape.load(from_json(raw), self._where(key))
                    kept = self._kept[key] = Kept(self._shape, value, raw)
                yield typing.cast("tuple[K, V]", (key, kept.value))
            if not page:  # a short page is not the last: pages have a limit in bytes too
                return
            at = page[-1][0] + b"\0"
            limit = None if limit is None else limit - len(page)

    def keys(self) -> Iterator[K]:
        return (key for key, _ in self.items())

    __iter__ = keys

    def values(self) -> Iterator[V]:
        return (value for _, value in self.items())

    def save(self) -> None:
        """Write the values that were changed in place."""
        for key, kept in self._kept.items():
            if kept is not None and self._shape.mutable:
                where = self._where(key)
                raw = kept.changed(where)
                if raw is not None:
                    CURRENT.put(self._writable(key), raw, where)
                    kept.raw = raw

    def _find(self, key: K) -> Kept | None:
        host_key = self._key(key)
        name = str(key)
        if name not in self._kept:
            raw = CURRENT.get().get(host_key)
            self._kept[name] = (
                None
                if raw is None
                else Kept(self._shape, self._shape.load(from_json(raw), self._where(key)), raw)
            )
        return self._kept[name]

    def _key(self, key: object) -> bytes:
        if type(key) is not str:
            raise TypeError(f"a key of {self._name} is a str, not {type(key).__name__}")
        return self._prefix + key.encode()

    def _writable(self, key: object) -> bytes:
        if not CURRENT.writable:
            raise ReadOnly(self._where(key))
        return self._key(key)

    def _where(self, key: object) -> str:
        return f"{self._name}[{key!r}]"


def fields_of(owner: type) -> Iterator[Field]:
    seen = set()
    for kind in owner.__mro__:
        for name, value in vars(kind).items():
            if name not in seen and isinstance(value, Field):
                yield value
            seen.add(name)


def save(contract: Any) -> None:
    """Write each field that changed. Raises `ReadOnly` for a query that changed one."""
    for name, found in contract.__dict__.items():
        if isinstance(found, Map):
            found.save()
        elif isinstance(found, Kept) and (CURRENT.writable or found.shape.mutable):
            raw = found.changed(name)
            if raw is None:
                continue
            if not CURRENT.writable:
                raise ReadOnly(name)
            CURRENT.put(name.encode(), raw, name)


_hints: dict[type, dict[str, Any]] = {}


def hints_of(owner: type) -> dict[str, Any]:
    if owner not in _hints:
        found = getattr(owner, "__annotations__", {})
        if len(owner.__mro__) > 3 or any(type(hint) is str for hint in found.values()):
            found = typing.get_type_hints(owner)
        _hints[owner] = found
    return _hints[owner]
