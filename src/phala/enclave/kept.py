"""What is remembered for a while: outcomes by their call, and ids of commands already taken.

Both leave in the order they came, so the cost is that of what leaves.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import U64, Descriptor, FixedBytes
from phala.enclave.records import OUTCOMES, SEEN, Kept
from phala.enclave.store import Readable, Table, Writable
from phala.messages.types import CallId, scale
from phala.primitives.types import BlockNumber

OUTCOME_BLOCKS: Final = 28_800  # a day of 3 s blocks: a caller has so long to fetch
OUTCOMES_MAX: Final = 100_000
OUTCOME_BYTES_MAX: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Book:
    """The ends of a queue, and the sizes of what lies in it."""

    first: Annotated[int, U64]
    next: Annotated[int, U64]
    size_bytes: Annotated[int, U64]


EMPTY: Final = Book(0, 0, 0)
BOOK: Final[Descriptor[Book]] = scale(Book)
CALL: Final[FixedBytes[CallId]] = FixedBytes(32)


@dataclass(frozen=True, slots=True)
class Queue:
    """Call ids in order of arrival."""

    book: Table[Book]
    calls: Table[CallId]

    def read(self, state: Readable) -> Book:
        return self.book.get(state) or EMPTY

    def front(self, state: Readable, book: Book) -> CallId | None:
        return self.calls.get(state, book.first.to_bytes(8, "big"))

    def push(self, state: Writable, book: Book, call: CallId, size_bytes: int) -> Book:
        self.calls.put(state, call, book.next.to_bytes(8, "big"))
        return Book(book.first, book.next + 1, book.size_bytes + size_bytes)

    def pop(self, state: Writable, book: Book, size_bytes: int) -> Book:
        self.calls.delete(state, book.first.to_bytes(8, "big"))
        return Book(book.first + 1, book.next, book.size_bytes - size_bytes)


KEPT_QUEUE: Final = Queue(Table(b"Q", BOOK), Table(b"q", CALL))
SEEN_QUEUE: Final = Queue(Table(b"W", BOOK), Table(b"w", CALL))


def keep(state: Writable, call: CallId, kept: Kept) -> None:
    """Remember an answer; forget the oldest beyond the limits. The first of a call stays."""
    if OUTCOMES.get(state, call) is not None:
        return
    OUTCOMES.put(state, kept, call)
    book = KEPT_QUEUE.push(state, KEPT_QUEUE.read(state), call, _size(kept))
    while oldest := KEPT_QUEUE.front(state, book):
        old = OUTCOMES.get(state, oldest)
        assert old is not None, "what the queue names is kept"
        if not (
            book.next - book.first > OUTCOMES_MAX
            or book.size_bytes > OUTCOME_BYTES_MAX
            or old.block + OUTCOME_BLOCKS < kept.block
        ):
            break
        OUTCOMES.delete(state, oldest)
        book = KEPT_QUEUE.pop(state, book, _size(old))
    KEPT_QUEUE.book.put(state, book)


def is_seen(state: Readable, call: CallId) -> bool:
    return SEEN.get(state, call) is not None


def see(state: Writable, call: CallId, *, expires: BlockNumber, now: BlockNumber) -> None:
    """Remember a command's id until the command could not run anyway."""
    SEEN.put(state, expires, call)
    book = SEEN_QUEUE.push(state, SEEN_QUEUE.read(state), call, 0)
    while oldest := SEEN_QUEUE.front(state, book):
        until = SEEN.get(state, oldest)
        assert until is not None, "what the queue names is remembered"
        if until >= now:
            break
        SEEN.delete(state, oldest)
        book = SEEN_QUEUE.pop(state, book, 0)
    SEEN_QUEUE.book.put(state, book)


def _size(kept: Kept) -> int:
    return len(kept.sealed) + len(kept.refusal)
