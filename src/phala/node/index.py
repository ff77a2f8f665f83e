"""Where extrinsics and accounts are found in the chain: an LMDB environment beside the store.

It holds finalized blocks alone, so nothing in it is ever taken back, and it can always be made anew
from the store. Each write moves the mark with what it adds: a kill leaves whole blocks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import lmdb

from phala.errors import Unavailable
from phala.primitives.types import BlockNumber, Hash

FORMAT: Final = b"1"
INDEX_FOLDER: Final = "index"  # in the node's own
MAP_BYTES: Final = 1 << 38  # address space, not disk
TABLES: Final = ("meta", "extrinsics", "accounts")
OUTSIDE: Final = 0xFFFF_FFFF  # the place of what happened in a block outside its extrinsics
KNOWN, SUCCESS, SIGNED = 1, 2, 4  # flags of an extrinsic
SIGNER, NAMED = 1, 2  # how an account takes part
NEWEST: Final = (1 << 64) - 1  # keys hold how far below it a block is: newer ones come first
TAIL_BYTES: Final = 12
ERROR_BYTES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Place:
    """An extrinsic in the chain, and what became of it; nothing of that is known where the block's
    events were gone when it was indexed."""

    number: BlockNumber
    index: int
    known: bool
    success: bool
    signed: bool
    fee: int  # plancks
    tip: int
    error: bytes  # SCALE of a `DispatchError`, where it failed

    def encode(self) -> bytes:
        flags = KNOWN * self.known | SUCCESS * self.success | SIGNED * self.signed
        return b"".join(
            (
                self.number.to_bytes(8, "big"),
                self.index.to_bytes(4, "big"),
                bytes([flags]),
                self.fee.to_bytes(16, "big"),
                self.tip.to_bytes(16, "big"),
                self.error[:ERROR_BYTES_MAX],
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> "Place":
        number, index, flags = data[:8], data[8:12], data[12]
        return cls(
            BlockNumber(int.from_bytes(number, "big")),
            int.from_bytes(index, "big"),
            bool(flags & KNOWN),
            bool(flags & SUCCESS),
            bool(flags & SIGNED),
            int.from_bytes(data[13:29], "big"),
            int.from_bytes(data[29:45], "big"),
            data[45:],
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One part that an account takes in the chain; `index` is None outside extrinsics."""

    number: BlockNumber
    index: int | None
    signer: bool
    named: bool
    cursor: bytes  # where the next page begins


@dataclass(frozen=True, slots=True)
class Entry:
    """What one block adds."""

    number: BlockNumber
    hash: Hash
    extrinsics: tuple[tuple[Hash, Place], ...]
    accounts: dict[tuple[bytes, int], int]  # account, place in the block: how it takes part
    has_events: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """What the index holds: the blocks from `first` to `number`."""

    first: BlockNumber
    number: BlockNumber
    hash: Hash
    eventless: BlockNumber  # the last block whose events were gone; 0: of none


class Index:
    """One node's index, for one process that writes and others that read."""

    def __init__(self, folder: Path, *, reader: bool = False) -> None:
        """Raises `Unavailable`: it does not open, or is not there to be read."""
        try:
            if not reader:
                folder.mkdir(parents=True, exist_ok=True)
            # It can be made anew: what a power cut loses, the next start finds missing.
            self._env = lmdb.open(
                str(folder), map_size=MAP_BYTES, max_dbs=len(TABLES), readonly=reader,
                metasync=False,
            )  # fmt: skip
            self._tables = {
                name: self._env.open_db(name.encode(), create=not reader) for name in TABLES
            }
        except (OSError, lmdb.Error) as error:
            raise Unavailable(
                f"the index does not open: {error}", mend="wait for it, or remove its folder"
            ) from None

    def close(self) -> None:
        self._env.close()

    # ---- writing

    def begin(self, genesis: Hash, first: BlockNumber) -> None:
        """Forget everything: the next block is `first`."""
        with self._env.begin(write=True) as transaction:
            for table in self._tables.values():
                transaction.drop(table, delete=False)
            meta = self._tables["meta"]
            transaction.put(b"format", FORMAT, db=meta)
            transaction.put(b"genesis", genesis, db=meta)
            transaction.put(b"first", first.to_bytes(8, "big"), db=meta)

    def is_of(self, genesis: Hash) -> bool:
        with self._env.begin() as transaction:
            meta = self._tables["meta"]
            found = transaction.get(b"format", db=meta), transaction.get(b"genesis", db=meta)
        return found == (FORMAT, genesis)

    def write(self, entries: Iterable[Entry]) -> None:
        """Add blocks, one after the other from the mark on."""
        tables = self._tables
        with self._env.begin(write=True) as transaction:
            for each in entries:
                for name, place in each.extrinsics:
                    transaction.put(name, place.encode(), db=tables["extrinsics"])
                tail = (NEWEST - each.number).to_bytes(8, "big")
                for (account, index), how in sorted(each.accounts.items()):
                    key = account + tail + (OUTSIDE - index).to_bytes(4, "big")
                    transaction.put(key, bytes([how]), db=tables["accounts"])
                number = each.number.to_bytes(8, "big")
                transaction.put(b"mark", number + each.hash, db=tables["meta"])
                if not each.has_events:
                    transaction.put(b"eventless", number, db=tables["meta"])

    # ---- reading

    def mark(self) -> Mark | None:
        """None while it holds no block."""
        with self._env.begin() as transaction:
            found = {
                name: transaction.get(name, db=self._tables["meta"]) or b""
                for name in (b"first", b"mark", b"eventless")
            }
        mark = found[b"mark"]
        if not mark:
            return None
        return Mark(
            BlockNumber(int.from_bytes(found[b"first"], "big")),
            BlockNumber(int.from_bytes(mark[:8], "big")),
            Hash(mark[8:]),
            BlockNumber(int.from_bytes(found[b"eventless"], "big")),
        )

    def place(self, extrinsic: Hash) -> Place | None:
        with self._env.begin() as transaction:
            found = transaction.get(extrinsic, db=self._tables["extrinsics"])
        return None if found is None else Place.decode(found)

    def parts(self, account: bytes, after: bytes, limit: int) -> list[Part]:
        """The newest first, from after a cursor on; an empty one begins with the newest."""
        return list(self._parts(account, after, limit))

    def _parts(self, account: bytes, after: bytes, limit: int) -> Iterator[Part]:
        start = account + after
        with self._env.begin() as transaction, transaction.cursor(self._tables["accounts"]) as rows:
            found = rows.set_range(start)
            while found and limit and rows.key().startswith(account):
                key = rows.key()
                if key != start:
                    yield _part(key[len(account) :], rows.value()[0])
                    limit -= 1
                found = rows.next()

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of each table, how many entries it has, and how many bytes of pages."""
        found = {}
        with self._env.begin() as transaction:
            for name, table in self._tables.items():
                pages = transaction.stat(table)
                used = pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"]
                found[name] = pages["entries"], used * pages["psize"]
        return found


def _part(tail: bytes, how: int) -> Part:
    index = OUTSIDE - int.from_bytes(tail[8:12], "big")
    return Part(
        BlockNumber(NEWEST - int.from_bytes(tail[:8], "big")),
        None if index == OUTSIDE else index,
        bool(how & SIGNER),
        bool(how & NAMED),
        tail,
    )
