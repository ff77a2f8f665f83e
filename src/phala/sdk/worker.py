"""A worker's doors, as a client of it uses them. Nothing that comes back is believed here."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import orjson

from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.messages.calls import (
    QUERY_ENVELOPE,
    SEALED_QUERY_BYTES_MAX,
    QueryEnvelope,
)
from phala.messages.host import HOST_REPLY, EvidenceReply
from phala.messages.registration import EVIDENCE_BYTES_MAX, SignedRegistration
from phala.messages.types import CallId, WorkerId
from phala.sdk.http import HttpClient
from phala.sdk.ratls import TlsPeer

ANSWER_BYTES_MAX: Final = SEALED_QUERY_BYTES_MAX + EVIDENCE_BYTES_MAX + 4096
TIMEOUT_S: Final = 30.0
POLL_S_MIN: Final = 0.01
POLL_S_MAX: Final = 0.1
FAMILIES: Final[dict[str, type[PhalaError]]] = {
    "Invalid": Invalid,
    "Refused": Refused,
    "Unavailable": Unavailable,
}


@dataclass(frozen=True, slots=True)
class WorkerSays:
    """What a worker tells of itself; only a hint for whom to verify."""

    genesis: bytes
    worker: WorkerId
    height: int
    ready: bool
    platform: str


class WorkerClient:
    """One worker. Use it in `async with`, from one event loop.

    With `peer` its address is `ratls://HOST:PORT`, and whatever it says of itself must be of the
    enclave in which TLS ends.
    """

    def __init__(
        self, url: str, *, timeout_s: float = TIMEOUT_S, peer: TlsPeer | None = None
    ) -> None:
        judge = None if peer is None else peer.judged
        self._http = HttpClient(url, timeout_s=timeout_s, peer=judge)
        self._peer = peer
        self.url = self._http.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.close()

    async def says(self) -> WorkerSays:
        """`GET /`."""
        status, data = await self._send("GET", "/")
        _raise_for(status, data)
        try:
            told = orjson.loads(data)
            says = WorkerSays(
                genesis=_hex32(told["genesis"]),
                worker=WorkerId(_hex32(told["worker"])),
                height=int(told["height"]),
                ready=told["ready"] is True,
                platform=str(told["platform"])[:200],
            )
        except (TypeError, KeyError, ValueError, AttributeError):
            raise self._nonsense() from None
        if self._peer is not None:
            self._peer.ensure_worker(says.worker)
        return says

    async def registration(self) -> SignedRegistration:
        """Its last registration, evidence included: `GET /evidence`."""
        status, data = await self._send("GET", "/evidence")
        _raise_for(status, data)
        reply = HOST_REPLY.decode(data)
        if not isinstance(reply, EvidenceReply):
            raise self._nonsense()
        if reply.registration is None:
            raise Unavailable(
                "the worker has not asked to be registered", mend="see whether its pherry runs"
            )
        if self._peer is not None:
            self._peer.ensure_worker(reply.registration.body.manifest.worker)
        return reply.registration

    async def query(self, envelope: QueryEnvelope) -> bytes:
        """SCALE `SealedReply`: `POST /query`."""
        status, data = await self._send("POST", "/query", QUERY_ENVELOPE.encode(envelope))
        _raise_for(status, data)
        return data

    async def outcome(self, call: CallId) -> bytes | None:
        """SCALE `SealedReply` of a command or deployment, None while there is none."""
        status, data = await self._send("GET", f"/outcome/{call.hex()}")
        if status == HTTPStatus.NOT_FOUND:
            return None
        _raise_for(status, data)
        return data

    async def wait_for_outcome(self, call: CallId, *, timeout_s: float) -> bytes:
        """The same, as soon as there is one; a worker that is away for a while is asked again."""
        pause_s = POLL_S_MIN
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        found = await self.outcome(call)
                    except Unavailable:
                        found = None
                    if found is not None:
                        return found
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 1.5, POLL_S_MAX)
        except TimeoutError:
            raise Unavailable(
                f"no outcome of 0x{call.hex()} in {timeout_s} s",
                mend="ask again later: an outcome is kept",
            ) from None

    async def _send(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        return await self._http.send(method, path, body, bytes_max=ANSWER_BYTES_MAX)

    def _nonsense(self) -> Unavailable:
        return Unavailable(f"{self.url} answers no worker's answer", mend="ask another worker")


def _raise_for(status: int, data: bytes) -> None:
    """The error that a door answered with, in its own family."""
    if status == HTTPStatus.OK:
        return
    try:
        error: Any = orjson.loads(data)["error"]
        family = FAMILIES[error["family"]]
        what, mend = str(error["what"]), str(error["mend"])
    except (TypeError, KeyError, ValueError):
        raise Unavailable(
            f"the worker answered HTTP {status}", mend="ask again, or another worker"
        ) from None
    raise family(f"the worker: {what[:4000]}", mend=mend[:4000] or "ask another worker")


def _hex32(text: str) -> bytes:
    data = bytes.fromhex(text.removeprefix("0x"))
    if len(data) != 32:
        raise ValueError("32 bytes")
    return data
