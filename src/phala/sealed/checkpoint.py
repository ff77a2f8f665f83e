"""The enclave's steps on disk: `enclave.checkpoint` says what the bytes mean, this where they lie.

    snapshot-GENERATION           everything at some step, put in place by rename
    journal-GENERATION-SEGMENT    the steps since, each written and synced before it counts
    erasing                       files older than the newest snapshot may hold an erased key

After a step that erases a secret key everything is written anew, and no file before that is left.
A segment is never continued after a restart: a new one begins where the last whole record ends.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from phala.crypto.secret import Secret
from phala.enclave.checkpoint import (
    KIND_JOURNAL,
    SALT_BYTES,
    FrameReader,
    FrameWriter,
    Start,
    Torn,
    decode_changes,
    encode_changes,
    erases,
    first_link,
    read_snapshot,
    snapshot,
)
from phala.enclave.ports import Changes, Entropy
from phala.enclave.store import Store
from phala.errors import Unavailable
from phala.primitives.types import Hash

JOURNAL_BYTES_MIN: Final = 4 << 20  # below, no snapshot is worth its write
SNAPSHOTS_KEPT: Final = 2  # where the newest is broken, the one before and its journal serve
ERASING: Final = "erasing"

_SNAPSHOT: Final = re.compile(r"snapshot-(\d{8})")
_JOURNAL: Final = re.compile(r"journal-(\d{8})-(\d{6})")


class Checkpoint:
    """Keeps one enclave's steps. One thread writes."""

    def __init__(self, folder: Path, key: Secret, genesis: Hash, entropy: Entropy) -> None:
        self._folder = folder
        self._key = key
        self._entropy = entropy
        self._link = first_link(genesis)
        self._generation = 0
        self._segment = 0
        self._snapshot_bytes = 0
        self._journal_bytes = 0
        self._writer: FrameWriter | None = None
        self._file: int = -1
        self._end = 0  # of the last whole record in the file
        self._store = Store()
        self._erasing = (folder / ERASING).exists()

    def load(self) -> Store:
        """What was kept: the newest whole snapshot and every step after it that is whole."""
        store = Store()
        for generation, path in reversed(self._snapshots()):
            with contextlib.suppress(Torn, OSError):
                data = path.read_bytes()
                start, parts = read_snapshot(self._key, data)
                for part in parts:
                    store.load(part)
                self._link, self._generation = start.link, generation
                self._snapshot_bytes = len(data)
                break
        for generation, segment, path in self._journals():
            if generation >= self._generation:
                self._replay(path, store)
                self._generation, self._segment = generation, segment + 1
        store.rebuild()
        self._store = store
        return store

    def _replay(self, path: Path, store: Store) -> None:
        """A segment that continues the last whole step; any other belongs to a past put aside."""
        try:
            data = path.read_bytes()
            reader = FrameReader(self._key, KIND_JOURNAL, data)
        except (Torn, OSError):
            return
        if reader.start.link != self._link:
            return
        for frame in reader.rest():
            changes = decode_changes(frame)
            self._erasing = self._erasing or erases(store.data, changes)
            store.load(changes)
        self._link = reader.link
        self._journal_bytes += len(data)

    def append(self, changes: Changes) -> None:
        """Keep a step that the loaded store does not have yet.

        Raises:
            Unavailable: the disk does not take it; then it is as if never written.
        """
        try:
            writer = self._writer or self._begin()
            record = writer.frame(encode_changes(changes))
            _write(self._file, record)
            os.fdatasync(self._file)
        except OSError as error:
            self._abandon()
            raise Unavailable(
                f"the checkpoint cannot be written: {error.strerror}",
                mend="make room on the disk, or mend it; the step is tried again",
            ) from None
        self._erasing = self._erasing or erases(self._store.data, changes)
        self._link = writer.link
        self._end += len(record)
        self._journal_bytes += len(record)

    def _begin(self) -> FrameWriter:
        writer = FrameWriter(
            self._key,
            KIND_JOURNAL,
            self._entropy.random_bytes(SALT_BYTES),
            Start(self._generation, self._link),
        )
        name = f"journal-{self._generation:08}-{self._segment:06}"
        self._segment += 1
        path = self._folder / name
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._end = 0
        _write(self._file, writer.first)
        os.fdatasync(self._file)
        sync_folder(self._folder)
        self._link = writer.link
        self._end = len(writer.first)
        self._writer = writer
        return writer

    def _abandon(self) -> None:
        """Cut off what is half written; the next record begins another segment."""
        self._writer = None
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1

    def compact_if_due(self, store: Store) -> bool:
        """A snapshot when the journal has outgrown the last one: cost follows what changes.

        Also where a key was erased: then as many as are kept, so that none of before is.
        """
        if self._erasing:
            self._erase(store)
            return True
        if self._journal_bytes < max(JOURNAL_BYTES_MIN, self._snapshot_bytes):
            return False
        self.compact(store)
        return True

    def _erase(self, store: Store) -> None:
        mark = self._folder / ERASING
        try:
            mark.touch(0o600)  # a kill between the snapshots and the end: do it again
            for _ in range(SNAPSHOTS_KEPT):
                self.compact(store)
            sync_folder(self._folder)
            mark.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(
                f"files with an erased key cannot be removed: {error.strerror}",
                mend="make room on the disk, or mend it; it is tried again with the next step",
            ) from None
        self._erasing = False

    def compact(self, store: Store) -> None:
        """Write a snapshot of `store`, which is the state after the last step, and start anew.

        Raises:
            Unavailable: the disk does not take it. The journal goes on.
        """
        generation = self._generation + 1
        parts = snapshot(
            self._key,
            self._entropy.random_bytes(SALT_BYTES),
            Start(generation, self._link),
            store.items(),
        )
        try:
            size_bytes = write_whole(self._folder / f"snapshot-{generation:08}", parts)
        except OSError as error:
            raise Unavailable(
                f"the snapshot cannot be written: {error.strerror}", mend="make room on the disk"
            ) from None
        self._writer = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._generation, self._segment = generation, 0
        self._snapshot_bytes, self._journal_bytes = size_bytes, 0
        self._forget_old()

    def _forget_old(self) -> None:
        kept = [generation for generation, _ in self._snapshots()][-SNAPSHOTS_KEPT:]
        if len(kept) < SNAPSHOTS_KEPT:
            return
        for generation, path in self._snapshots():
            if generation < kept[0]:
                path.unlink(missing_ok=True)
        for generation, _, path in self._journals():
            if generation < kept[0]:
                path.unlink(missing_ok=True)
        for path in self._folder.glob("snapshot-*.new"):  # of a kill while one was written
            path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._writer = None

    def _snapshots(self) -> list[tuple[int, Path]]:
        found = ((_SNAPSHOT.fullmatch(path.name), path) for path in self._paths())
        return sorted((int(match[1]), path) for match, path in found if match)

    def _journals(self) -> list[tuple[int, int, Path]]:
        found = ((_JOURNAL.fullmatch(path.name), path) for path in self._paths())
        return sorted((int(match[1]), int(match[2]), path) for match, path in found if match)

    def _paths(self) -> list[Path]:
        return list(self._folder.iterdir())


def write_whole(path: Path, parts: Iterator[bytes]) -> int:
    """All of it under its name, or nothing. Returns the size in bytes."""
    half = path.with_name(f"{path.name}.new")
    size_bytes = 0
    with half.open("wb") as file:
        half.chmod(0o600)
        for part in parts:
            size_bytes += file.write(part)
        file.flush()
        os.fsync(file.fileno())
    half.rename(path)
    sync_folder(path.parent)
    return size_bytes


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
