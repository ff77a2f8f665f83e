"""What a node keeps on disk: one LMDB environment, one write transaction a block.

The flat table holds the state as of block `folded`. Each later block keeps its changes (its
write-ahead blob) and what they replaced (its undo); the oldest blobs are folded into the flat table
in slices. So a kill at any instant leaves whole blocks, and nothing else.
"""

import fcntl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import lmdb

from phala.codec import Malformed
from phala.crypto.hashes import blake2_128
from phala.errors import Refused, Unavailable
from phala.node.blobs import Changes, decode_changes, decode_list, encode_changes, encode_list
from phala.primitives.header import HEADER, Header
from phala.primitives.types import BlockNumber, Hash

STORE_VERSION: Final = b"1"
MAP_BYTES: Final = 1 << 40  # address space, not disk; the file grows with what is written
MESSAGES_BYTES_MAX: Final = 6 * 1024 * 1024  # read at once; as hex they fit an RPC's answer
READERS_BLOCKS: Final = 64  # after so many, those of killed processes are forgotten
KEY_BYTES_MAX: Final = 511  # of LMDB; the pallets' longest key has 144
T = TypeVar("T")

TABLES: Final = (
    "meta", "flat", "headers", "bodies", "justifications", "changes", "undos", "hashes",
    "messages", "history", "gone",
)  # fmt: skip


class OtherChain(Refused):
    """The folder holds another chain than the spec."""


class OtherFormat(Refused):
    """The folder was written by another release, in a form that this one does not read."""


class InUse(Unavailable):
    """Another process writes to the folder."""


class Damaged(Unavailable):
    """What is on disk does not fit together."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block with all that is written with it."""

    header: Header
    body: tuple[bytes, ...]
    changes: Changes
    undo: Changes  # the same keys, what they held before
    messages: tuple[tuple[bytes, int, bytes], ...]  # topic, count, envelope

    @property
    def number(self) -> BlockNumber:
        return self.header.number


def _decoded(decode: Callable[[bytes], T], data: bytes | None, what: str) -> T:
    try:
        return decode(data or b"")
    except Malformed as error:
        raise Damaged(
            f"{what} in the store: {error.what}",
            mend="restore a snapshot, or import the chain again into an empty folder",
        ) from None


def _damaged(table: str, error: lmdb.Error) -> Damaged:
    return Damaged(
        f"the store's {table}: {error}",
        mend="restore a snapshot, or import the chain again into an empty folder",
    )


def _number(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _message_key(topic: bytes, count: int) -> bytes:
    return blake2_128(topic) + _number(count)


def is_in_use(folder: Path) -> bool:
    """Whether a process writes to the folder."""
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Store:
    """One node's disk, for one thread."""

    def __init__(self, folder: Path, *, reader: bool = False) -> None:
        """Open or create; a `reader` opens what another process writes.

        Raises:
            InUse: another process writes to the folder.
            Unavailable: the folder cannot be read or written.
        """
        self._lock: BinaryIO | None = None
        try:
            if not reader:
                folder.mkdir(parents=True, exist_ok=True)
                self._lock = (folder / "lock").open("ab")
                # LMDB lets a second process write; two authors would finalize two chains.
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._env = lmdb.open(
                str(folder), map_size=MAP_BYTES, max_dbs=len(TABLES), readonly=reader
            )
        except BlockingIOError:
            self._unlock()
            raise InUse(
                f"another node uses {folder}", mend="stop it, or give another folder"
            ) from None
        except (OSError, lmdb.Error) as error:
            self._unlock()
            raise Unavailable(
                f"the store in {folder} does not open: {error}",
                mend="check the folder's rights and the disk's space",
            ) from None
        try:
            self._tables = {
                name: self._env.open_db(name.encode(), create=not reader) for name in TABLES
            }
        except lmdb.Error:
            self._env.close()
            self._unlock()
            raise Unavailable(
                f"{folder} holds no node's store", mend="give the folder of a node that ran"
            ) from None
        self._env.reader_check()  # a killed node's readers would keep every old page alive
        self._reader = self._env.begin()  # of the last block written

    def renew(self) -> None:
        """See what was written since: for readers."""
        self._reader.abort()
        self._reader = self._env.begin()

    @property
    def folder(self) -> Path:
        return Path(self._env.path())

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def close(self) -> None:
        self._reader.abort()
        self._env.close()
        self._unlock()

    @contextmanager
    def _writing(self) -> Iterator[lmdb.Transaction]:
        try:
            with self._env.begin(write=True) as transaction:
                yield transaction
            self.renew()
        except lmdb.Error as error:
            raise Unavailable(
                f"the store does not write: {error}", mend="free disk space, then start again"
            ) from None

    def _get(self, table: str, key: bytes) -> bytes | None:
        try:
            found: bytes | None = self._reader.get(key, db=self._tables[table])
        except lmdb.Error as error:
            raise _damaged(table, error) from None
        return found

    @contextmanager
    def _cursor(self, table: str) -> Iterator[Any]:
        try:
            with self._reader.cursor(self._tables[table]) as cursor:
                yield cursor
        except lmdb.Error as error:
            raise _damaged(table, error) from None

    # ---- genesis and heads

    @property
    def genesis_hash(self) -> Hash | None:
        """Which chain the store holds; None: none as yet.

        Raises:
            OtherFormat: it is of a release that kept it otherwise.
        """
        found = self._get("meta", b"genesis")
        if found is None:
            return None
        version = self._get("meta", b"version")
        if version != STORE_VERSION:
            raise OtherFormat(
                f"the store has format {version!r}, this release reads {STORE_VERSION!r}",
                mend="import the chain again into an empty folder",
            )
        return Hash(found)

    @property
    def spec_digest(self) -> bytes | None:
        """Of the spec that the chain was begun by; None where nobody kept it."""
        return self._get("meta", b"spec")

    @property
    def authorities_proof(self) -> tuple[bytes, ...]:
        """Nodes that show the first authorities under the genesis header's state root."""
        return decode_list(self._get("meta", b"authorities") or b"")

    def create(
        self,
        header: Header,
        state: Iterable[tuple[bytes, bytes]],
        *,
        authorities_proof: tuple[bytes, ...] = (),
        spec_digest: bytes = b"",
    ) -> None:
        """Write genesis, the state's items sorted by key, or find it written.

        Raises:
            OtherChain: another one is.
        """
        present = self.genesis_hash
        if present == header.hash():
            return
        if present is not None:
            raise OtherChain(
                f"the store holds the chain 0x{present.hex()}, "
                f"the spec is of 0x{header.hash().hex()}",
                mend="give the folder of that chain, or an empty one",
            )
        with self._writing() as transaction:
            for key, value in state:
                transaction.put(key, value, db=self._tables["flat"], append=True)
            self._put_header(transaction, header, ())
            meta = self._tables["meta"]
            transaction.put(b"genesis", header.hash(), db=meta)
            transaction.put(b"version", STORE_VERSION, db=meta)
            transaction.put(b"authorities", encode_list(authorities_proof), db=meta)
            if spec_digest:
                transaction.put(b"spec", spec_digest, db=meta)
            for name in (b"folded", b"finalized", b"oldest"):
                transaction.put(name, _number(0), db=meta)

    def begin_at(
        self,
        trail: Iterable[tuple[Header, bytes]],
        block: Header,
        body: tuple[bytes, ...],
        justification: bytes,
        entries: Iterable[tuple[str, bytes, bytes]],
    ) -> None:
        """Turn a store that has only genesis into one that has a later block and its state.

        Args:
            trail: the blocks before it that changed the authorities, each with its justification.
            entries: of the tables `flat` (the whole state after it) and `messages`.
        """
        tables, at = self._tables, _number(block.number)
        with self._writing() as transaction:
            transaction.drop(tables["flat"], delete=False)
            for table, key, value in entries:
                transaction.put(key, value, db=tables[table])
            for header, data in trail:
                self._put_header(transaction, header, ())
                transaction.put(_number(header.number), data, db=tables["justifications"])
            self._put_header(transaction, block, body)
            transaction.put(at, justification, db=tables["justifications"])
            for name in (b"folded", b"finalized", b"oldest", b"base"):
                transaction.put(name, at, db=tables["meta"])

    def _put_header(
        self, transaction: lmdb.Transaction, header: Header, body: tuple[bytes, ...]
    ) -> None:
        at, tables = _number(header.number), self._tables
        transaction.put(at, HEADER.encode(header), db=tables["headers"])
        transaction.put(at, encode_list(body), db=tables["bodies"])
        transaction.put(header.hash(), at, db=tables["hashes"])

    @property
    def folded(self) -> BlockNumber:
        return BlockNumber(int.from_bytes(self._get("meta", b"folded") or b"", "big"))

    @property
    def finalized(self) -> BlockNumber:
        return BlockNumber(int.from_bytes(self._get("meta", b"finalized") or b"", "big"))

    @property
    def oldest(self) -> BlockNumber:
        """The first block whose state, and that of each after it, can be read."""
        return BlockNumber(int.from_bytes(self._get("meta", b"oldest") or b"", "big"))

    @property
    def base(self) -> BlockNumber:
        """The first block above genesis from which all are kept: of a restored snapshot, its."""
        return BlockNumber(int.from_bytes(self._get("meta", b"base") or b"", "big"))

    def head(self) -> Header:
        with self._cursor("headers") as cursor:
            assert cursor.last(), "the store has no genesis"
            return _decoded(HEADER.decode, cursor.value(), "the head")

    # ---- blocks

    def commit(
        self, block: StoredBlock, *, folding: Sequence[BlockNumber] = (), keep: bool = False
    ) -> None:
        """Write one block, whole; when this returns it survives a power cut.

        Args:
            folding: the next blocks after `folded`, whose blobs go into the flat table.
            keep: an archive: what those replaced goes into the history; else their undo is
                dropped, and no state below can be read any more.
        """
        at, tables = _number(block.number), self._tables
        with self._writing() as transaction:
            self._put_header(transaction, block.header, block.body)
            transaction.put(at, encode_changes(block.changes), db=tables["changes"])
            transaction.put(at, encode_changes(block.undo), db=tables["undos"])
            for topic, count, envelope in block.messages:
                transaction.put(_message_key(topic, count), envelope, db=tables["messages"])
            for number in folding:
                self._fold(transaction, number, keep=keep)
        if block.number % READERS_BLOCKS == 0:
            self._env.reader_check()  # a killed export would keep every old page alive

    def revert(self, number: BlockNumber, counts: Mapping[bytes, int]) -> None:
        """Forget every block above `number`, all in one step: none of them is finalized.

        Args:
            counts: of each topic that those blocks wrote to, how many messages it had before.

        Raises:
            Refused: one of them is finalized.
        """
        if number < self.finalized:
            raise Refused(
                f"block {self.finalized} is finalized, so the chain does not go back to {number}",
                mend="what is final stays; begin another chain instead: another spec, and an "
                "empty folder",
            )
        tables = self._tables
        with self._writing() as transaction:
            for above in range(number + 1, self.head().number + 1):
                at = _number(above)
                header = self.header(BlockNumber(above))
                assert header is not None
                transaction.delete(header.hash(), db=tables["hashes"])
                for name in ("headers", "bodies", "changes", "undos", "justifications"):
                    transaction.delete(at, db=tables[name])
            for topic, count in counts.items():
                key = _message_key(topic, count)
                while transaction.delete(key, db=tables["messages"]):
                    count += 1  # noqa: PLW2901 - the next of the topic
                    key = _message_key(topic, count)

    def finalize(self, number: BlockNumber, justification: bytes) -> None:
        with self._writing() as transaction:
            at = _number(number)
            transaction.put(at, justification, db=self._tables["justifications"])
            transaction.put(b"finalized", at, db=self._tables["meta"])

    def _fold(self, transaction: lmdb.Transaction, number: BlockNumber, *, keep: bool) -> None:
        at, tables = _number(number), self._tables
        for key, value in self.changes(number):
            if value is None:
                transaction.delete(key, db=tables["flat"])
                if keep:
                    transaction.put(key, b"", db=tables["gone"])
            else:
                transaction.put(key, value, db=tables["flat"])
        if keep:
            for key, value in self.undo(number):
                entry = b"\0" if value is None else b"\1" + value
                transaction.put(blake2_128(key) + at, entry, db=tables["history"])
        else:
            transaction.put(b"oldest", at, db=tables["meta"])
        transaction.delete(at, db=tables["changes"])
        transaction.delete(at, db=tables["undos"])
        transaction.put(b"folded", at, db=tables["meta"])

    def header(self, number: BlockNumber) -> Header | None:
        data = self._get("headers", _number(number))
        return None if data is None else _decoded(HEADER.decode, data, f"header {number}")

    def body(self, number: BlockNumber) -> tuple[bytes, ...]:
        return _decoded(decode_list, self._get("bodies", _number(number)), f"body {number}")

    def justification(self, number: BlockNumber) -> bytes | None:
        return self._get("justifications", _number(number))

    def number_of(self, block_hash: Hash) -> BlockNumber | None:
        data = self._get("hashes", block_hash)
        return None if data is None else BlockNumber(int.from_bytes(data, "big"))

    def changes(self, number: BlockNumber) -> Changes:
        found = self._get("changes", _number(number))
        return _decoded(decode_changes, found, f"changes of block {number}")

    def undo(self, number: BlockNumber) -> Changes:
        found = self._get("undos", _number(number))
        return _decoded(decode_changes, found, f"undo of block {number}")

    def messages(
        self, topic: bytes, start: int, limit: int, *, bytes_max: int = MESSAGES_BYTES_MAX
    ) -> tuple[bytes, ...]:
        """Envelopes of a topic from a count on, without a gap: at most `limit`, and of so many
        bytes together, but one in any case."""
        out: list[bytes] = []
        left_bytes = bytes_max
        with self._cursor("messages") as cursor:
            found = cursor.set_range(_message_key(topic, start))
            while found and len(out) < limit:
                if cursor.key() != _message_key(topic, start + len(out)):
                    break
                envelope = cursor.value()
                left_bytes -= len(envelope)
                if out and left_bytes < 0:
                    break
                out.append(envelope)
                found = cursor.next()
        return tuple(out)

    # ---- whole tables

    def entries(self, table: str, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All that a table holds, in the order of its keys, from a key on."""
        with self._cursor(table) as cursor:
            if not start or cursor.set_range(start):
                yield from cursor

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of each table, how many entries it has, and how many bytes of pages."""
        found = {}
        for name, table in self._tables.items():
            pages = self._reader.stat(table)
            used = pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"]
            found[name] = pages["entries"], used * pages["psize"]
        return found

    # ---- the flat table

    def flat(self, key: bytes) -> bytes | None:
        return self._get("flat", key) if 0 < len(key) <= KEY_BYTES_MAX else None

    def flat_items(
        self, start: bytes = b"", end: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """In order, from a key on, up to another without it."""
        with self._cursor("flat") as cursor:
            if start and not cursor.set_range(start):
                return
            if end is None:
                yield from cursor
                return
            for item in cursor:
                if item[0] >= end:
                    return
                yield item

    def flat_keys(self, prefix: bytes, start: bytes = b"") -> Iterator[bytes]:
        """Keys that start with `prefix`, in order, from `start` on."""
        return self._keys("flat", prefix, start)

    def gone_keys(self, prefix: bytes, start: bytes = b"") -> Iterator[bytes]:
        """Keys that a folded block of an archive deleted, once at least."""
        return self._keys("gone", prefix, start)

    def _keys(self, table: str, prefix: bytes, start: bytes) -> Iterator[bytes]:
        first = max(prefix, start[:KEY_BYTES_MAX])
        if len(prefix) > KEY_BYTES_MAX:
            return
        with self._cursor(table) as cursor:
            found = cursor.set_range(first) if first else cursor.first()
            while found and cursor.key().startswith(prefix):
                yield cursor.key()
                found = cursor.next()

    def before(self, key: bytes, after: BlockNumber) -> tuple[bool, bytes | None]:
        """Whether a folded block above `after` changed the key, and what it held before the first
        that did."""
        front = blake2_128(key)
        with self._cursor("history") as cursor:
            if cursor.set_range(front + _number(after + 1)) and cursor.key().startswith(front):
                entry: bytes = cursor.value()
                return True, entry[1:] if entry[0] else None
        return False, None
