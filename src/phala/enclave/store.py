"""What an enclave remembers: one table of keys and values, changed step by step.

A step writes into an overlay. Its changes are one record of the journal, and count when that is
kept; whatever else the enclave holds in memory can be made again from the table.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

from phala.codec import Descriptor
from phala.enclave.ports import Changes
from phala.messages.types import ContractId
from phala.trie.encoding import Layout
from phala.trie.merkle import Trie

T = TypeVar("T")

ITEM_BYTES: Final = 128  # about what a key and a value take beside their bytes


class Readable(Protocol):
    def get(self, key: bytes, /) -> bytes | None: ...


class Writable(Readable, Protocol):
    def put(self, key: bytes, value: bytes, /) -> None: ...

    def delete(self, key: bytes, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Table(Generic[T]):
    """Values of one type, under one byte that no other table has and keys of one length."""

    mark: bytes
    value: Descriptor[T]

    def get(self, state: Readable, key: bytes = b"") -> T | None:
        found = state.get(self.mark + key)
        return None if found is None else self.value.decode(found)

    def put(self, state: Writable, value: T, key: bytes = b"") -> None:
        state.put(self.mark + key, self.value.encode(value))

    def delete(self, state: Writable, key: bytes = b"") -> None:
        state.delete(self.mark + key)

    def items(self, data: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, T]]:
        """Sorted by key. Looks at everything: for the start alone."""
        for key in sorted(each for each in data if each.startswith(self.mark)):
            yield key[len(self.mark) :], self.value.decode(data[key])


STATE_MARK = b"S"  # contracts' own keys and values lie apart: there may be many


def state_key(contract: bytes, key: bytes) -> bytes:
    return STATE_MARK + contract + key


class ContractState:
    """One contract's keys and values, in order, with the trie over them."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.size_bytes = 0  # of keys and values, with what their places in memory take
        self._keys: list[bytes] = []
        self.trie = Trie.empty(Layout.V1)

    def get(self, key: bytes, /) -> bytes | None:
        return self.values.get(key)

    def keys(self, prefix: bytes, /) -> Iterator[bytes]:
        at = bisect_left(self._keys, prefix)
        while at < len(self._keys) and self._keys[at].startswith(prefix):
            yield self._keys[at]
            at += 1

    def proposed(self, changes: Changes) -> Trie:
        """The trie after changes. The state stays as it is."""
        return self.trie.update(sorted(changes.items()), self)

    def size_after(self, changes: Changes) -> int:
        """`size_bytes` after changes. The state stays as it is."""
        return self.size_bytes + sum(self._growth(*change) for change in changes.items())

    def _growth(self, key: bytes, value: bytes | None) -> int:
        old = self.values.get(key)
        before = 0 if old is None else ITEM_BYTES + len(key) + len(old)
        return (0 if value is None else ITEM_BYTES + len(key) + len(value)) - before

    def apply(self, changes: Changes, trie: Trie | None = None) -> None:
        """`trie` is what `proposed` gave for these changes; without it, `rebuild` must follow."""
        self.size_bytes = self.size_after(changes)
        for key, value in changes.items():
            known = key in self.values
            if value is not None:
                self.values[key] = value
                if not known:
                    insort(self._keys, key)
            elif known:
                del self.values[key]
                del self._keys[bisect_left(self._keys, key)]
        if trie is not None:
            self.trie = trie

    def rebuild(self) -> None:
        self.trie = Trie.build([(key, self.values[key]) for key in self._keys], Layout.V1)


@dataclass(slots=True)
class Store:
    """The table as committed."""

    data: dict[bytes, bytes] = field(default_factory=dict)
    states: dict[ContractId, ContractState] = field(default_factory=dict)

    def state_of(self, contract: ContractId) -> ContractState:
        return self.states.get(contract) or ContractState()

    def load(self, changes: Changes) -> None:
        """A record of the journal or of a snapshot, at the start. `rebuild` after the last."""
        states: dict[ContractId, dict[bytes, bytes | None]] = {}
        own: dict[bytes, bytes | None] = {}
        for key, value in changes.items():
            if key[:1] == STATE_MARK:
                states.setdefault(ContractId(key[1:33]), {})[key[33:]] = value
            else:
                own[key] = value
        self.apply(own)
        for contract, part in states.items():
            self.states.setdefault(contract, ContractState()).apply(part)

    def rebuild(self) -> None:
        for state in self.states.values():
            state.rebuild()

    def write(self, contract: ContractId, changes: Changes, trie: Trie) -> None:
        self.states.setdefault(contract, ContractState()).apply(changes, trie)

    def apply(self, changes: Changes) -> None:
        """To the enclave's own part of the table."""
        for key, value in changes.items():
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Everything, for a snapshot."""
        yield from self.data.items()
        for contract, state in self.states.items():
            for key, value in state.values.items():
                yield state_key(contract, key), value
