"""The worker's process and its enclave's, over their real doors, on a chain in memory."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import phala.phat
from phala.messages.calls import QUERY_ENVELOPE, SEALED_REPLY
from phala.messages.host import (
    HOST_REPLY,
    HOST_REQUEST,
    Advanced,
    Attest,
    Attested,
    Egress,
    EgressReply,
    EvidenceReply,
    Failure,
    FetchOutcome,
    HostReply,
    HostRequest,
    Query,
    Status,
    StatusReply,
    Wanted,
)
from phala.messages.replies import open_reply
from phala.primitives.types import Hash, Moment
from phala.sdk.ratls import TlsPeer
from phala.sdk.trust import chosen
from phala.sdk.worker import WorkerClient
from phala.tee.simulated_key import create_simulated_key, load_simulated_key
from phala.testing.caller import Addressee, Caller
from phala.testing.sim_chain import SimChain
from phala.wasm.runtime_module import load_runtime

COUNTER = (Path(phala.phat.__file__).parent / "templates" / "counter.py").read_bytes()
DEADLINE_S = 20


class Host:
    """A worker's process, with the chain that its enclave follows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chain = SimChain(runtime_id=Hash(load_runtime().runtime_id))
        header, proof = self.chain.start()
        document = {"header": "0x" + header.hex(), "proof": ["0x" + node.hex() for node in proof]}
        (folder / "light.json").write_text(json.dumps(document))
        create_simulated_key(folder / "simulated.key")
        self.start()

    def start(self) -> None:
        command: list[str | Path] = [
            sys.executable, "-m", "phala.worker", "--dir", self.folder / "worker",
            "--light", self.folder / "light.json", "--port", "0", "--engines", "1",
            "--tls-port", "0",
        ]  # fmt: skip
        with (self.folder / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        self.ready: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.ready['port']}", timeout=30, trust_env=False
        )

    def stop(self) -> int:
        self.client.close()
        self.process.terminate()
        code = self.process.wait(timeout=DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def tell(self, request: HostRequest) -> HostReply:
        answer = self.client.post("/relay", content=HOST_REQUEST.encode(request))
        assert answer.status_code == 200, answer.text
        reply: HostReply = HOST_REPLY.decode(answer.content)
        return reply

    def status(self) -> StatusReply:
        reply = self.tell(Status())
        assert isinstance(reply, StatusReply)
        return reply

    def follow(self) -> None:
        wanted = None
        while (status := self.status()).height < self.chain.number:
            reply = self.tell(self.chain.feed(status, wanted))
            assert isinstance(reply, Advanced | Wanted), reply
            wanted = reply if isinstance(reply, Wanted) else None

    def settle(self) -> None:
        while True:
            self.follow()
            reply = self.tell(Egress())
            assert isinstance(reply, EgressReply)
            if not self.chain.take(reply.messages) and not self.chain.unsealed:
                return
            self.chain.seal()

    def register(self) -> Addressee:
        self.chain.seal()
        self.follow()
        attested = self.tell(Attest(None, ()))
        assert isinstance(attested, Attested)
        self.chain.register(attested.registration)
        self.chain.seal()
        self.settle()
        return self.addressee()

    def addressee(self) -> Addressee:
        reply = HOST_REPLY.decode(self.client.get("/evidence").content)
        assert isinstance(reply, EvidenceReply)
        assert reply.registration is not None
        body = reply.registration.body
        key = body.encryption_key
        return Addressee(body.manifest.worker, key.epoch, key.public)

    def enclave_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        (pid,) = children.read_text().split()
        return int(pid)

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()


def until(holds: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    found = Host(tmp_path_factory.mktemp("worker"))
    yield found
    assert found.stop() == 0


@pytest.fixture(scope="module")
def served(host: Host) -> tuple[Host, Addressee, Caller, Any]:
    to = host.register()
    alice = Caller(host.chain, b"alice")
    contract = alice.deploy(COUNTER)
    host.chain.seal()
    host.settle()
    return host, to, alice, contract


def value(host: Host, to: Addressee, alice: Caller, contract: Any) -> Any:
    query = alice.signed(to, alice.request(contract, "value"))
    answer = host.client.post("/query", content=alice.seal(to, query))
    assert answer.status_code == 200, answer.text
    reply = open_reply(query.request.reply_key, SEALED_REPLY.decode(answer.content))
    return json.loads(reply.outcome.result)


def test_tls_ends_in_the_enclave_and_its_certificate_is_of_its_key(
    served: tuple[Host, Addressee, Caller, Any],
) -> None:
    host, to, alice, contract = served
    query = alice.signed(to, alice.request(contract, "value"))
    key = load_simulated_key(host.folder / "simulated.key")
    trust = chosen(Hash(host.chain.genesis), simulated_root=key.public_root)
    peer = TlsPeer.of(trust, lambda: Moment(host.chain.time))

    async def story() -> bytes:
        url = f"ratls://127.0.0.1:{host.ready['tls_port']}"
        async with WorkerClient(url, peer=peer) as worker:
            assert (await worker.says()).worker == to.worker
            assert (await worker.registration()).body.manifest.worker == to.worker
            return await worker.query(QUERY_ENVELOPE.decode(alice.seal(to, query)))

    reply = open_reply(query.request.reply_key, SEALED_REPLY.decode(asyncio.run(story())))
    assert json.loads(reply.outcome.result) == value(host, to, alice, contract)
    assert peer.found is not None
    assert peer.found.binding is not None
    assert peer.found.binding.worker == to.worker
    assert peer.found.verdict.measurement.hex() in str(host.client.get("/").json()["measurement"])


def test_a_worker_says_who_it_is_and_that_nothing_protects_it(host: Host) -> None:
    told = host.client.get("/").json()

    assert host.ready["ready"] is True
    assert told["worker"] == host.ready["worker"]
    assert told["platform"] == "simulated: no hardware protection"
    assert told["runtime"] == "0x" + load_runtime().runtime_id.hex()


def test_the_runtime_module_is_handed_out_by_its_hash(host: Host) -> None:
    module = load_runtime()
    answer = host.client.get(f"/runtime/{module.runtime_id.hex()}")

    assert answer.content == module.path.read_bytes()
    assert host.client.get(f"/runtime/{'00' * 32}").status_code == 404


def test_commands_and_queries_go_through_the_doors(served: Any) -> None:
    host, to, alice, contract = served
    before = value(host, to, alice, contract)
    sent = alice.send(contract, "add", n=5)
    assert host.client.get(f"/outcome/{sent.call.hex()}").status_code == 404
    host.chain.seal()
    host.settle()

    answer = host.client.get(f"/outcome/{sent.call.hex()}")
    reply = open_reply(sent.reply_key, SEALED_REPLY.decode(answer.content))
    assert json.loads(reply.outcome.result) == before + 5
    assert value(host, to, alice, contract) == before + 5


def test_a_refused_copy_is_told_with_its_reason(served: Any) -> None:
    host, _, alice, contract = served
    sent = alice.command(contract, "add", b'{"n":1}')
    copied = Caller(host.chain, b"bob").submit(contract, sent)
    host.chain.seal()
    host.settle()

    answer = host.client.get(f"/outcome/{copied.call.hex()}")
    assert answer.status_code == 403
    assert answer.json()["error"]["kind"] == "CommandRefused"


def test_a_killed_enclave_comes_back_as_it_was(served: Any) -> None:
    host, to, alice, contract = served
    sent = alice.send(contract, "add", n=1)
    host.chain.seal()
    host.settle()
    before = value(host, to, alice, contract)
    for _ in range(2):
        old = host.enclave_pid()
        os.kill(old, signal.SIGKILL)
        until(lambda old=old: _pid(host) not in {None, old})
        until(lambda: host.client.get("/").status_code == 200)
        assert value(host, to, alice, contract) == before
        assert host.client.get(f"/outcome/{sent.call.hex()}").status_code == 200


def _pid(host: Host) -> int | None:
    try:
        return host.enclave_pid()
    except ValueError:
        return None


def test_a_query_from_ahead_waits_for_the_chain(served: Any) -> None:
    host, to, alice, contract = served
    host.chain.seal()
    query = alice.signed(to, alice.request(contract, "value"))
    envelope = alice.seal(to, query)

    async def ask_then_follow() -> httpx.Response:
        async with httpx.AsyncClient(base_url=host.client.base_url, timeout=30) as client:
            asked = asyncio.create_task(client.post("/query", content=envelope))
            await asyncio.to_thread(host.follow)
            return await asked

    assert asyncio.run(ask_then_follow()).status_code == 200


@pytest.mark.parametrize("door", ["/query", "/relay"])
def test_garbage_is_answered_with_an_error_and_ends_nothing(host: Host, door: str) -> None:
    dice = random.Random(3)
    pid = host.enclave_pid()
    for size in (0, 1, 2, 7, 40, 1000, 60_000):
        for first in (b"", b"\0", b"\1", b"\2", b"\4", b"\xff"):
            answer = host.client.post(door, content=first + dice.randbytes(size))
            if answer.status_code == 200:
                reply = HOST_REPLY.decode(answer.content)
                assert door == "/relay"
                assert isinstance(reply, Failure | StatusReply | Attested), reply
            else:
                assert answer.status_code in {400, 403}
                assert answer.json()["error"]["mend"]

    assert host.enclave_pid() == pid


def test_what_is_too_large_is_refused_before_it_is_read(host: Host) -> None:
    assert host.client.post("/query", content=bytes(200_000)).status_code == 413

    def parts() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(10_000)

    assert host.client.post("/query", content=parts()).status_code == 413


def test_the_relay_door_takes_what_pherry_asks_and_nothing_else(host: Host) -> None:
    query = HOST_REQUEST.encode(Query(bytes(100)))
    outcome = HOST_REQUEST.encode(FetchOutcome(bytes(32)))  # type: ignore[arg-type]
    page = {"origin": "http://evil.example"}

    for body in (query, outcome):
        assert host.client.post("/relay", content=body).status_code == 403
    status = HOST_REQUEST.encode(Status())
    assert host.client.post("/relay", content=status, headers=page).status_code == 403
    assert host.client.post("/relay", content=status).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/query", 405),
        ("POST", "/", 405),
        ("GET", "/outcome/xyz", 400),
        ("GET", "/outcome/" + "00" * 31, 400),
        ("GET", "/outcome/" + "00" * 32, 404),
        ("GET", "/outcome/" + "00" * 32 + "/more", 404),
        ("GET", "/runtime/..%2f..%2fetc%2fpasswd", 404),
    ],
)
def test_other_addresses_are_told_apart(host: Host, method: str, path: str, status: int) -> None:
    assert host.client.request(method, path).status_code == status


def test_logs_hold_no_plaintext(served: Any) -> None:
    host, to, alice, contract = served
    marked = "a-marked-word-0123456789"
    alice.send(contract, marked, note=marked)
    host.chain.seal()
    host.settle()
    query = alice.signed(to, alice.request(contract, marked, json.dumps({"x": marked}).encode()))
    host.client.post("/query", content=alice.seal(to, query))

    assert marked not in host.log()
    for path in (host.folder / "worker").rglob("*"):
        if path.is_file():
            assert marked.encode() not in path.read_bytes()


def test_a_worker_of_another_chain_does_not_start_on_these_files(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.stop() == 0
    header, proof = SimChain(seed=b"other").start()
    document = {"header": header.hex(), "proof": [node.hex() for node in proof]}
    (tmp_path / "light.json").write_text(json.dumps(document))

    ran = subprocess.run(
        [sys.executable, "-m", "phala.worker", "--dir", tmp_path / "worker",
         "--light", tmp_path / "light.json", "--port", "0"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ran.returncode == 77
    assert "OtherChain" in ran.stderr


def test_a_killed_worker_takes_its_enclave_with_it(tmp_path: Path) -> None:
    host = Host(tmp_path)
    enclave = host.enclave_pid()
    host.process.kill()
    host.process.wait()
    host.client.close()
    assert host.process.stdout is not None
    host.process.stdout.close()

    until(lambda: not Path(f"/proc/{enclave}").exists())
    host.start()
    assert host.status().height == 0
    assert host.stop() == 0
