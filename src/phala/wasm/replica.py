"""Contracts' states as last handed in, and what brings an engine child's replica up to date."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

from phala.wasm.frames import LOAD_BYTES, Item

CHANGES_KEPT: Final = 64  # of a contract, to bring a replica up to date without sending it whole


class Committed:
    """A contract's state as last handed in."""

    def __init__(self, items: Mapping[bytes, bytes], version: int, at: object = None) -> None:
        self.at = at
        self.items = dict(items)
        self.version = version
        self.size_bytes = sum(len(key) + len(value) for key, value in items.items())
        self.recent: deque[Mapping[bytes, bytes | None]] = deque(maxlen=CHANGES_KEPT)

    def apply(self, changes: Mapping[bytes, bytes | None], at: object = None) -> None:
        self.at = at
        for key, value in changes.items():
            old = self.items.pop(key, None)
            self.size_bytes -= 0 if old is None else len(key) + len(old)
            if value is not None:
                self.items[key] = value
                self.size_bytes += len(key) + len(value)
        self.version += 1
        self.recent.append(dict(changes))

    def since(self, version: int | None) -> Iterator[Mapping[bytes, Any]]:
        """The changes after `version`, oldest first; everything where they are forgotten."""
        behind = self.version - version if version is not None else None
        if behind is None or not 0 <= behind <= len(self.recent):
            yield self.items
        elif behind:
            yield from list(self.recent)[-behind:]


def parts(changes: Mapping[bytes, bytes | None]) -> Iterator[tuple[Item, ...]]:
    """In frames of about `LOAD_BYTES`; at least one, which may be empty."""
    part: list[Item] = []
    size_bytes = 0
    for key, value in changes.items():
        part.append(Item(key, value))
        size_bytes += len(key) + len(value or b"")
        if size_bytes > LOAD_BYTES:
            yield tuple(part)
            part, size_bytes = [], 0
    yield tuple(part)
