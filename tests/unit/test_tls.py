"""TLS that ends in the enclave: the host passes bytes, the client judges the certificate first."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from random import Random
from typing import Any

import pytest

from phala.attest import DEV, PRODUCTION, AttestationError, Policy
from phala.attest.errors import EvidenceMalformed
from phala.errors import Refused, Unavailable
from phala.messages.host import (
    Answer,
    EvidenceReply,
    FetchEvidence,
    FetchOutcome,
    HostReply,
    HostRequest,
    Query,
    Status,
    StatusReply,
    Tls,
    TlsReply,
)
from phala.messages.types import CallId, WorkerId
from phala.primitives.types import BlockNumber, Hash, Moment
from phala.sdk.http import HttpClient
from phala.sdk.ratls import PeerRefused, TlsPeer, client_context
from phala.sdk.trust import chosen
from phala.sdk.worker import WorkerClient
from phala.sealed.tls import (
    BODY_BYTES_MAX,
    HEAD_BYTES_MAX,
    RENEWAL_BLOCKS,
    SESSIONS_MAX,
    Standing,
    TlsDoor,
)
from phala.tee.ratls import Binding, TlsKey, make_tls_key
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import SimulatedKey
from phala.worker.tls import TlsPort

KEY = SimulatedKey(bytes(31) + b"\1", b"k" * 32)
PLATFORM = SimulatedPlatform(measurement=measure(b"code"), key=KEY)
GENESIS, WORKER = Hash(b"g" * 32), WorkerId(b"w" * 32)
NOW = Moment(1_780_000_000_000)
TRUST = chosen(GENESIS, simulated_root=KEY.public_root)
STATUS = StatusReply(
    version=1, genesis=GENESIS, worker=WORKER, height=BlockNumber(9), block_hash=Hash(b"b" * 32),
    registered=True, topics=(), runtime_id=Hash(b"r" * 32), platform=0, measurement=b"m" * 48,
    ready=True,
)  # fmt: skip


class Enclave:
    """The door, and as much of an enclave as answers it. It is its own keeper."""

    def __init__(self, *, worker: bytes = WORKER, time: int = NOW) -> None:
        self.worker, self.height, self.time = worker, 9, time
        self.keys = 0
        self.asked: list[HostRequest] = []
        self.door = TlsDoor(lambda: Standing(self.height, self.time), self.made, self.serve)

    def made(self, begin: datetime, end: datetime) -> TlsKey:
        self.keys += 1
        bound = Binding(GENESIS, self.worker, self.height, b"b" * 32)
        return make_tls_key(PLATFORM, bound, begin, end)

    async def serve(self, request: HostRequest) -> HostReply:
        self.asked.append(request)
        match request:
            case Status():
                return STATUS
            case FetchEvidence():
                return EvidenceReply(None, None)
            case FetchOutcome(call):
                return Answer(b"kept" if call == bytes(32) else None)
            case Query(envelope):
                if envelope == b"no":
                    raise Refused("no", mend="do not")
                return Answer(b"to " + envelope)
            case _:
                raise AssertionError(request)

    async def tell(self, request: HostRequest) -> HostReply:
        assert isinstance(request, Tls)
        return await self.door.take(request)


@asynccontextmanager
async def listening(enclave: Any) -> AsyncIterator[str]:
    server = await asyncio.start_server(TlsPort(enclave).serve, "127.0.0.1", 0)
    async with server:
        yield f"ratls://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def peer(policy: Policy = TRUST.policy) -> TlsPeer:
    found = TlsPeer.of(TRUST, lambda: NOW)
    found.policy = policy
    return found


def client(url: str, judge: TlsPeer) -> HttpClient:
    return HttpClient(url, timeout_s=10, peer=judge)


def test_the_chain_is_asked_for_the_collateral_of_the_worker_that_a_certificate_names() -> None:
    """Hardware's evidence is judged by what its vendor says: that comes from the chain, and before
    anything is sent. Simulated evidence takes none."""
    enclave = Enclave()
    asked: list[WorkerId] = []

    async def answered(items: dict[str, bytes]) -> tuple[int, bytes]:
        async def kept(worker: WorkerId) -> dict[str, bytes]:
            asked.append(worker)
            return items

        judge = peer()
        judge.kept = kept
        async with listening(enclave) as url:
            http = HttpClient(url, timeout_s=10, peer=judge.judged)
            try:
                return await http.send("POST", "/query", b"hi", bytes_max=1 << 20)
            finally:
                await http.close()

    assert asyncio.run(answered({})) == (200, b"to hi")
    with pytest.raises(EvidenceMalformed, match="1 collateral items"):
        asyncio.run(answered({"tcb_info": b"{}"}))
    assert asked == [enclave.worker] * 2


def test_all_doors_answer_behind_tls_that_ends_in_the_enclave() -> None:
    enclave, judge = Enclave(), peer()

    async def story() -> None:
        async with listening(enclave) as url:
            http = client(url, judge)
            for method, path, body, wanted in (
                ("POST", "/query", b"hi", (200, b"to hi")),
                ("POST", "/query", bytes(BODY_BYTES_MAX), (200, b"to " + bytes(BODY_BYTES_MAX))),
                ("GET", f"/outcome/0x{'00' * 32}", b"", (200, b"kept")),
            ):
                assert await http.send(method, path, body, bytes_max=1 << 20) == wanted
            for method, path, body, status in (
                ("GET", f"/outcome/0x{'01' * 32}", b"", 404),
                ("GET", "/outcome/7", b"", 400),
                ("POST", "/query", b"no", 403),
                ("GET", "/query", b"", 405),
                ("GET", "/runtime/x", b"", 404),
                ("GET", "/evidence", b"", 200),
            ):
                assert (await http.send(method, path, body, bytes_max=1 << 20))[0] == status
            await http.close()
        async with listening(enclave) as url, WorkerClient(url, peer=peer()) as worker:
            assert (await worker.says()).worker == WORKER
            assert await worker.outcome(CallId(b"\1" * 32)) is None

    asyncio.run(story())
    assert enclave.keys == 1
    assert judge.found is not None
    assert not judge.found.verdict.hardware
    assert judge.found.binding is not None
    assert judge.found.binding.height == 9


@pytest.mark.parametrize("policy", [PRODUCTION, DEV])
def test_nothing_is_sent_to_a_peer_that_the_policy_refuses(policy: Policy) -> None:
    enclave = Enclave()

    async def story() -> None:
        async with listening(enclave) as url:
            with pytest.raises(AttestationError):
                await client(url, peer(policy)).send("POST", "/query", b"secret", bytes_max=99)

    asyncio.run(story())
    assert enclave.keys == 1
    assert not enclave.asked


def test_another_chains_enclave_is_refused() -> None:
    enclave = Enclave()
    other = chosen(Hash(b"h" * 32), simulated_root=KEY.public_root)

    async def story() -> None:
        async with listening(enclave) as url:
            http = client(url, TlsPeer.of(other, lambda: NOW))
            with pytest.raises(AttestationError, match="of the chain"):
                await http.send("POST", "/query", b"secret", bytes_max=99)

    asyncio.run(story())
    assert not enclave.asked


def test_what_another_worker_says_through_an_enclaves_tls_is_refused() -> None:
    async def story() -> None:
        enclave = Enclave(worker=b"v" * 32)
        async with listening(enclave) as url, WorkerClient(url, peer=peer()) as worker:
            with pytest.raises(PeerRefused):
                await worker.says()

    asyncio.run(story())


def test_an_address_does_not_change_its_enclave_under_a_client() -> None:
    async def story() -> None:
        judge, enclave = peer(), Enclave()
        async with listening(enclave) as url:
            for last in (False, True):
                http = client(url, judge)
                if last:
                    enclave.worker, enclave.height = b"v" * 32, 9 + RENEWAL_BLOCKS
                    with pytest.raises(PeerRefused):
                        await http.send("GET", "/", bytes_max=9999)
                else:
                    assert (await http.send("GET", "/", bytes_max=9999))[0] == 200
                await http.close()

    asyncio.run(story())


def test_a_key_is_renewed_with_the_chain_and_only_then() -> None:
    enclave = Enclave()

    async def story() -> None:
        async with listening(enclave) as url:
            for height, keys in ((9, 1), (8 + RENEWAL_BLOCKS, 1), (9 + RENEWAL_BLOCKS, 2)):
                enclave.height = height
                http = client(url, peer())
                assert (await http.send("GET", "/", bytes_max=9999))[0] == 200
                await http.close()
                assert enclave.keys == keys

    asyncio.run(story())


def test_an_enclave_that_has_seen_no_block_shows_no_certificate() -> None:
    async def story() -> None:
        async with listening(Enclave(time=0)) as url:
            with pytest.raises(Unavailable):
                await client(url, peer()).send("GET", "/", bytes_max=9999)

    asyncio.run(story())


def test_tls_1_2_is_refused() -> None:
    context = client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def story() -> None:
        async with listening(Enclave()) as url:
            port = int(url.rpartition(":")[2])
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", port, ssl=context)

    asyncio.run(story())


def raw(url: str, data: bytes) -> bytes:
    """What the server answers over TLS until it ends the connection."""
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with socket.create_connection(address, 10) as plain, client_context().wrap_socket(plain) as tls:
        tls.sendall(data)
        answer = b""
        try:
            while part := tls.recv(65536):
                answer += part
        except (ssl.SSLError, ConnectionError):
            pass
        return answer


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: 1\r\nX: 2\r\n\r\n",
        b"POST /query HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /query HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /query HTTP/1.1\r\ncontent-length: 999999\r\n\r\n",
        b"POST /query HTTP/1.1\r\ncontent-length: 9999999999999\r\n\r\n",
        b"x" * (HEAD_BYTES_MAX + 9),
    ],
)
def test_what_is_no_request_ends_the_connection(data: bytes) -> None:
    enclave = Enclave()

    async def story() -> None:
        async with listening(enclave) as url:
            assert await asyncio.to_thread(raw, url, data) == b""

    asyncio.run(story())
    assert not enclave.asked


def test_requests_in_one_piece_or_byte_by_byte_are_answered_in_order() -> None:
    one = b"POST /query HTTP/1.1\r\nContent-Length: 1\r\n\r\n"
    last = b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n"

    async def story() -> None:
        async with listening(Enclave()) as url:
            answer = await asyncio.to_thread(raw, url, one + b"1" + one + b"2" + last)
            assert answer.index(b"to 1") < answer.index(b"to 2") < answer.index(b"404")

    asyncio.run(story())


def test_a_host_can_only_end_what_it_passes() -> None:
    """Any bytes, any numbers: an answer comes, and the enclave keeps no more than it may."""
    random, enclave = Random(3), Enclave()

    async def story() -> None:
        for number in range(2 * SESSIONS_MAX):
            context = client_context()
            sending, receiving = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(receiving, sending)
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            hello = bytearray(sending.read())
            if number % 3 == 0:
                hello[random.randrange(len(hello))] ^= 1 << random.randrange(8)
            reply = await enclave.door.take(Tls(number, bytes(hello)))
            assert isinstance(reply, TlsReply)
            again = await enclave.door.take(Tls(number, random.randbytes(50)))
            assert isinstance(again, TlsReply)
        assert len(enclave.door._sessions) <= SESSIONS_MAX
        for number in range(2 * SESSIONS_MAX):
            assert await enclave.door.take(Tls(number, b"")) == TlsReply(b"", is_open=False)
        assert not enclave.door._sessions

    asyncio.run(story())
    assert not enclave.asked
