"""The enclave's pipe: framed requests in, framed replies out, in whatever order they are ready.

frame = u32 length of what follows | u64 request id | SCALE HostRequest or HostReply
"""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final, TypeVar, assert_never

from phala.enclave.query.door import Prepared
from phala.enclave.query.judge import Behind
from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.messages.host import (
    FRAME_BYTES_MAX,
    HOST_REPLY,
    HOST_REQUEST,
    Advance,
    Answer,
    Attest,
    Egress,
    Failure,
    FetchEvidence,
    FetchOutcome,
    HostReply,
    HostRequest,
    Query,
    Status,
    Tls,
)
from phala.sealed.boot import Booted
from phala.sealed.log import log
from phala.sealed.tls import Standing, TlsDoor
from phala.tee.ratls import Binding, TlsKey, make_tls_key

T = TypeVar("T")
R = TypeVar("R")

ID_BYTES: Final = 8
LENGTH_BYTES: Final = 4
QUERIES_MAX: Final = 512  # open at once; each holds at most an envelope and a reply
EARLY_MAX: Final = 128  # of them that wait for the chain: the others must not starve
BEHIND_SECONDS: Final = 5  # a query from ahead waits so long for the chain to reach us
TEXT_BYTES_MAX: Final = 4_000
FAMILIES: Final[tuple[tuple[type[PhalaError], int], ...]] = (
    (Invalid, 0),
    (Refused, 1),
    (Unavailable, 2),
)


class Server:
    def __init__(self, booted: Booted) -> None:
        self._enclave = booted.enclave
        self._engines = booted.engines
        self._checkpoint = booted.checkpoint
        # Whatever changes the enclave comes one after the other, beside the queries.
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="changes")
        self._news = asyncio.Event()  # set, and replaced, when the enclave has advanced
        self._advancing = False
        self._queries = 0
        self._early = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._tls = TlsDoor(self._standing, self._make_key, self._answer)
        self._booted = booted

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the pipe closes."""
        while True:
            try:
                length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "little")
                if not ID_BYTES <= length <= FRAME_BYTES_MAX + ID_BYTES:
                    log("bad frame", bytes=length)
                    return
                frame = await reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            task = asyncio.create_task(self._serve_one(frame, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve_one(self, frame: bytes, writer: asyncio.StreamWriter) -> None:
        reply = await self.reply(frame[ID_BYTES:])
        length = len(reply) + ID_BYTES
        with contextlib.suppress(ConnectionError):
            # A frame is written whole; then all wait alike while the pipe is full.
            writer.write(length.to_bytes(LENGTH_BYTES, "little") + frame[:ID_BYTES] + reply)
            await writer.drain()

    async def reply(self, request: bytes) -> bytes:
        """Whatever comes in, an answer goes out."""
        try:
            return HOST_REPLY.encode(await self._answer(HOST_REQUEST.decode(request)))
        except PhalaError as error:
            return HOST_REPLY.encode(failure_of(error))
        except Exception as error:  # noqa: BLE001 - a bug met by one input must not end the enclave
            log("stuck", error=type(error).__name__, at=_place_of(error))
            failure = Failure(
                2,
                "Stuck",
                f"the enclave met an error of its own: {type(error).__name__}",
                "see its log; nothing of the request was kept",
            )
            return HOST_REPLY.encode(failure)

    async def _answer(self, request: HostRequest) -> HostReply:
        match request:
            case Status():
                return self._enclave.status()
            case Advance():
                return await self._advance(request)
            case Attest():
                return await self._change(self._enclave.attest, request)
            case Egress():
                return self._enclave.egress()
            case Query(envelope):
                return Answer(await self._query(envelope))
            case FetchOutcome(call):
                return self._enclave.outcome(call)
            case FetchEvidence():
                return self._enclave.evidence()
            case Tls():
                return await self._tls.take(request)
            case _:
                assert_never(request)

    def _standing(self) -> Standing:
        finalized = self._enclave.view.finalized
        return Standing(finalized.height, finalized.time)

    def _make_key(self, begin: datetime, end: datetime) -> TlsKey:
        identity, finalized = self._enclave.identity, self._enclave.view.finalized
        bound = Binding(identity.genesis, identity.worker, finalized.height, finalized.hash)
        return make_tls_key(self._booted.platform, bound, begin, end)

    async def _change(self, change: Callable[[T], R], request: T) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._changes, self._changed, change, request)

    def _changed(self, change: Callable[[T], R], request: T) -> R:
        """In the one thread that changes the enclave."""
        try:
            return change(request)
        finally:
            # Also after a failure: what was applied before it is in the journal.
            try:
                if self._checkpoint.compact_if_due(self._enclave.store):
                    log("snapshot written")
            except Unavailable as error:
                log("no snapshot", why=str(error))

    async def _advance(self, request: Advance) -> HostReply:
        """One feed at a time: carriers lose patience and send anew, and feeds are large."""
        if self._advancing:
            raise Unavailable(
                "another feed is being applied", mend="wait, then ask where the enclave stands"
            )
        self._advancing = True
        try:
            return await self._change(self._enclave.advance, request)
        finally:
            self._advancing = False
            self._news.set()
            self._news = asyncio.Event()

    async def _query(self, envelope: bytes) -> bytes:
        if self._queries >= QUERIES_MAX:
            raise Unavailable(f"{QUERIES_MAX} queries are being answered", mend="ask again soon")
        self._queries += 1
        try:
            prepared = await self._opened(envelope)
            if isinstance(prepared, bytes):
                return prepared
            return self._enclave.close(prepared, await self._engines.run_query(prepared.call))
        finally:
            self._queries -= 1

    async def _opened(self, envelope: bytes) -> Prepared | bytes:
        """A caller may have seen a block that is still on its way to us: it is waited for."""
        loop = asyncio.get_running_loop()
        until = loop.time() + BEHIND_SECONDS
        while True:
            news = self._news
            try:
                return self._enclave.open(envelope)
            except Behind:
                left = until - loop.time()
                if left <= 0 or self._early >= EARLY_MAX:
                    raise
                self._early += 1
                try:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), left)
                finally:
                    self._early -= 1


def failure_of(error: PhalaError) -> Failure:
    family = next(number for kind, number in FAMILIES if isinstance(error, kind))
    return Failure(family, type(error).__name__[:64], _cut(error.what), _cut(error.mend))


def _cut(text: str) -> str:
    return text.encode()[:TEXT_BYTES_MAX].decode(errors="ignore")


def _place_of(error: BaseException) -> str:
    """Where in our own code, without any value: those may be secret."""
    trace, found = error.__traceback__, "?"
    while trace is not None:
        code = trace.tb_frame.f_code
        found = f"{code.co_qualname}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found
