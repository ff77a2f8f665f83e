"""The node's index as its RPC reads it: another process writes it, and may be behind."""

import time
from pathlib import Path
from typing import Any, Final

from phala.errors import Unavailable
from phala.node.index import INDEX_FOLDER, TAIL_BYTES, Index, Part, Place
from phala.node.service import Node
from phala.primitives.types import AccountId, BlockNumber, Hash

RETRY_S: Final = 1.0  # between two tries to open what is not there


class Shelf:
    """Opens the index when it is first asked for and there."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._index: Index | None = None
        self._tried: float | None = None

    @property
    def index(self) -> Index | None:
        """None while there is none, or it is another chain's."""
        now = time.monotonic()
        if self._index is None and (self._tried is None or now > self._tried + RETRY_S):
            self._tried = now
            folder: Path = self._node.chain.store.folder.parent / INDEX_FOLDER
            try:
                self._index = Index(folder, reader=True) if folder.is_dir() else None
            except Unavailable:
                return None
        found = self._index
        return found if found is not None and found.is_of(self._node.chain.genesis) else None

    @property
    def indexed(self) -> BlockNumber:
        """The last block in the index; 0 while there is none."""
        mark = self.index.mark() if self.index else None
        return mark.number if mark else BlockNumber(0)

    def place(self, extrinsic: Hash) -> Place | None:
        """None where it is not in a block of this chain that the index has."""
        found = self.index.place(extrinsic) if self.index else None
        return found if found and found.number <= self._node.chain.head.number else None

    def parts(self, who: AccountId, cursor: bytes, limit: int) -> list[Part]:
        """Raises `ValueError`: no cursor of ours."""
        if cursor and len(cursor) != TAIL_BYTES:
            raise ValueError(cursor)
        return self.index.parts(who, cursor, limit) if self.index else []

    def knows(self, who: AccountId) -> bool:
        return bool(self.parts(who, b"", 1))

    def status(self) -> dict[str, Any]:
        """From where to where it holds blocks; the last one that it holds without events, where
        there is one; and how far back the node itself has states, which hold events."""
        chain, indexer = self._node.chain, self._node.indexer
        mark = self.index.mark() if self.index else None
        return {
            "first": mark.first if mark else None,
            "indexed": mark.number if mark else None,
            "eventless": mark.eventless or None if mark else None,
            "finalized": chain.finalized,
            "statesFrom": chain.oldest,
            "archive": chain.archive,
            "running": indexer is not None and indexer.alive,
            "restarts": 0 if indexer is None else indexer.restarts,
        }
