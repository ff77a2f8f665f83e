"""The indexer's process: follows what is final in the store, and enters it into the index.

It is apart from the front and the builder, and yields to both: of a flood of transactions it takes
a tenth of a core, until what it has not entered might be pruned. Where it comes so late that a
block's events are gone, it enters the block without them, and the index says so.
"""

import logging
import os
import select
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from phala.codec import Malformed
from phala.crypto.hashes import blake2_256
from phala.errors import PhalaError, Unavailable
from phala.node.engines.opening import runtimes_of, store_of
from phala.node.index import INDEX_FOLDER, NAMED, OUTSIDE, SIGNER, Entry, Index, Mark, Place
from phala.node.runtimes.table import Runtimes
from phala.node.store import Store
from phala.node.words import EventAt, Words
from phala.primitives.extrinsic import decode_extrinsic
from phala.primitives.keys import storage_prefix
from phala.primitives.types import BlockNumber, Hash
from phala.runtime import CODE_KEY

LOG: Final = logging.getLogger("phala.node.indexer")
PAUSE_S: Final = 0.25  # between two looks at the store
REST: Final = 9  # times as long as it worked: others have the cores
BEHIND_MAX: Final = 128  # final blocks; then it does not rest
NICE: Final = 10
BLOCKS_AT_ONCE: Final = 64  # in one transaction
EXTRINSICS_AT_ONCE: Final = 2_000  # likewise
EVENTS_KEY: Final = storage_prefix("System", "Events")


class Reading:
    """Values of finalized blocks, as one look at the store shows them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.folded = store.folded
        self.oldest = store.oldest

    def value(self, key: bytes, number: BlockNumber) -> bytes | None:
        """Raises `Unavailable` where the state is pruned."""
        if number < self.oldest:
            raise Unavailable(f"the state of block {number} is pruned", mend="run an archive")
        for each in range(number, self.folded, -1):
            for changed, value in self.store.changes(BlockNumber(each)):
                if changed == key:
                    return value
        if number < self.folded:
            was_changed, value = self.store.before(key, number)
            if was_changed:
                return value
        return self.store.flat(key)


class Indexer:
    """From one store into one index."""

    def __init__(self, store: Store, index: Index, runtimes: Runtimes) -> None:
        self.store = store
        self.index = index
        self._runtimes = runtimes
        self._words: dict[bytes, Words] = {}  # by what lies under `:code`
        self._code: bytes | None = None
        self.is_late = False  # much is to be entered, or what is might soon be pruned

    def step(self) -> int:
        """Enter some of what is final and not in the index; how many blocks that was."""
        self.store.renew()
        genesis = self.store.genesis_hash
        if genesis is None:
            return 0
        first = BlockNumber(max(1, self.store.base))
        mark = self.index.mark()
        if not self.index.is_of(genesis) or (mark and not self._is_ours(mark)):
            self.index.begin(genesis, first)
            mark = None
        number = first if mark is None else mark.number + 1
        entries: list[Entry] = []
        size = 0
        reading = Reading(self.store)
        final = self.store.finalized
        while number <= final and len(entries) < BLOCKS_AT_ONCE and size < EXTRINSICS_AT_ONCE:
            entry = self._entry(reading, BlockNumber(number))
            entries.append(entry)
            size += len(entry.extrinsics)
            number += 1
        behind = final - number + 1
        kept = final - self.store.oldest  # blocks whose events are there
        self.is_late = behind > BEHIND_MAX or behind > kept // 2
        if entries:
            self.index.write(entries)
        return len(entries)

    def _is_ours(self, mark: Mark) -> bool:
        """Whether the store has the mark's block: another snapshot may have taken its place."""
        found = self.store.header(mark.number)
        return found is not None and found.hash() == mark.hash and self.store.base <= mark.number

    def _entry(self, reading: Reading, number: BlockNumber) -> Entry:
        header = self.store.header(number)
        assert header is not None
        body = self.store.body(number)
        data, words = b"", None
        with suppress(PhalaError):  # pruned, or of a release that is not here
            words = self._words_at(reading, number)
            data = reading.value(EVENTS_KEY, number) or b""
        outcomes, accounts = Outcomes(len(body)), {}
        has_events = words is not None and bool(data)
        if words is not None and data:
            try:
                for event in words.events(data):
                    outcomes.take(words, data, event)
                    index = OUTSIDE if event.extrinsic is None else event.extrinsic
                    for account in event.accounts:
                        accounts[account, index] = NAMED
            except Malformed as error:
                LOG.warning("the events of block %d are not read: %s", number, error)
                has_events = False
        extrinsics = []
        for index, each in enumerate(body):
            signer = signer_of(each)
            if signer is not None:
                accounts[signer, index] = accounts.get((signer, index), 0) | SIGNER
            place = outcomes.place(number, index, signed=signer is not None, known=has_events)
            extrinsics.append((Hash(blake2_256(each)), place))
        return Entry(number, header.hash(), tuple(extrinsics), accounts, has_events)

    def _words_at(self, reading: Reading, number: BlockNumber) -> Words:
        """Of the runtime that made the block: its parent's state names it."""
        code = reading.value(CODE_KEY, BlockNumber(max(number - 1, reading.oldest)))
        assert code is not None
        known = self._words.get(code)
        if known is None:
            known = self._words[code] = Words(self._runtimes.of(code).metadata(14))
        return known


class Outcomes:
    """What a block's events say of its extrinsics."""

    def __init__(self, count: int) -> None:
        self._success = [False] * count
        self._errors = [b""] * count
        self._fees = [(0, 0)] * count

    def take(self, words: Words, data: bytes, event: EventAt) -> None:
        at = event.extrinsic
        if at is None or not 0 <= at < len(self._success):
            return
        match words.event_name(event):
            case "System", "ExtrinsicSuccess":
                self._success[at] = True
            case "System", "ExtrinsicFailed":
                self._errors[at] = data[event.start : event.first_end]
            case "TransactionPayment", "TransactionFeePaid":
                fee, tip = data[event.end - 32 : event.end - 16], data[event.end - 16 : event.end]
                self._fees[at] = int.from_bytes(fee, "little"), int.from_bytes(tip, "little")
            case _:
                pass  # nothing of this

    def place(self, number: BlockNumber, index: int, *, signed: bool, known: bool) -> Place:
        fee, tip = self._fees[index]
        success = self._success[index]
        return Place(number, index, known, success, signed, fee, tip, self._errors[index])


def signer_of(extrinsic: bytes) -> bytes | None:
    """None of a bare extrinsic, and of one of a form that came later."""
    try:
        found = decode_extrinsic(extrinsic)
        return None if found.signature is None else bytes(found.signature.signer.account())
    except PhalaError:
        return None


# ---- the process


def run(link: socket.socket, folder: Path) -> int:
    """The process's whole life; its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C: the front ends this one
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICE)  # no more than that: all wait for who is stopped inside a file system's commit
    try:
        store = _opened(link, folder)
        if store is None:
            return 0
        indexer = Indexer(store, Index(folder / INDEX_FOLDER), runtimes_of(folder))
        while True:
            began = time.process_time()
            done = indexer.step()
            took_s = time.process_time() - began
            rest_s = 0.0 if indexer.is_late else REST * took_s
            if _is_over(link, wait_s=rest_s if done else PAUSE_S):
                return 0
    except PhalaError as error:
        LOG.error("%s", error)  # noqa: TRY400 - the mend is in it, a trace is not needed
        return error.exit_code


def _opened(link: socket.socket, folder: Path) -> Store | None:
    """The store, once the builder has made it; None where the front is gone before."""
    while True:
        with suppress(Unavailable):
            store = Store(store_of(folder), reader=True)
            if store.genesis_hash is not None:
                return store
            store.close()
        if _is_over(link, wait_s=PAUSE_S):
            return None


def _is_over(link: socket.socket, *, wait_s: float) -> bool:
    """Whether the front is gone: it never writes."""
    return bool(select.select([link], [], [], wait_s)[0])
