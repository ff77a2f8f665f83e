"""Garbage on every door of a running network: a clear error, nothing lost, no process ends.

After each test the same processes run as before, and the counter answers.
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from tests.e2e.network import PHALA, Network, environment, running

from phala.errors import Invalid, Refused
from phala.messages.bus import ENVELOPE, cluster_topic
from phala.messages.calls import (
    COMMAND_ENVELOPE,
    ERROR_ARGUMENTS,
    ERROR_CONTRACT,
    ERROR_FUEL,
    ERROR_MEMORY,
    ERROR_OUTPUT,
    ERROR_STACK,
    ERROR_STATE,
    ERROR_TIME,
    QUERY_ENVELOPE,
    CommandEnvelope,
    command_id,
)
from phala.messages.fuel import FUEL_MIN
from phala.messages.host import HOST_REQUEST, FetchOutcome, Query, Status
from phala.messages.payloads.cluster import CLUSTER_PAYLOAD, CommandQueued
from phala.messages.types import CallId, ContractId
from phala.primitives.types import BlockNumber
from phala.sdk.calls import seal_command, seal_query
from phala.sdk.chain import Call, Submitted
from phala.sdk.keyring import dev_pair
from phala.sdk.light import load_light_start
from phala.sdk.network import Deployed, Sent
from phala.sdk.rpc import RpcRefused, bytes_of, hex_of
from phala.sdk.sync import Phala
from phala.sdk.trust import load_trust

pytestmark = pytest.mark.timeout(300)

SEED = int(os.environ.get("PHALA_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
ALICE, BOB = dev_pair("Alice"), dev_pair("Bob")
COUNTER = Path(__file__).parents[2] / "src/phala/phat/templates/counter.py"
OUTCOME_S = 200.0
ENOUGH_FUEL = 31  # class: for another limit to be met first
INVALID, REFUSED = 65, 77  # exit codes

ROGUE = '''
from phat import Contract, Map, Refused, command, emit, query


class Rogue(Contract):
    """Does all it can to take the worker down with it."""

    kept: int = 0
    rows: Map[str, str]

    @command
    def loop(self) -> None:
        self.kept += 1
        while True:
            pass

    @command
    def allocate(self) -> None:
        self.kept += 1
        pile = []
        while True:
            pile.append(bytes(1 << 20))

    @command
    def recurse(self) -> int:
        self.kept += 1
        return self.recurse()

    @command
    def fail(self) -> None:
        self.kept += 1
        raise KeyError("no such patient")

    @command
    def refuse(self) -> None:
        self.kept += 1
        raise Refused("the study is closed")

    @command
    def write(self) -> None:
        self.kept += 1
        for at in range(100):
            self.rows[str(at)] = "x" * 1_000_000

    @command
    def answer(self) -> str:
        self.kept += 1
        return "x" * 2_000_000

    @command
    def tell(self) -> None:
        self.kept += 1
        for _ in range(1_000):
            emit("Told", text="x" * 1_000)

    @query
    def ask_for_ever(self) -> None:
        while True:
            pass

    @query
    def change(self) -> None:
        self.kept += 1

    @query
    def state(self) -> list[int]:
        return [self.kept, len(list(self.rows.items()))]
'''


class Door(NamedTuple):
    """A network with a counter at 3, and a contract that means ill."""

    network: Network
    counter: Deployed
    rogue: Deployed

    def port(self, service: str) -> int:
        return int(self.network.ready[service].rpartition(":")[2])

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.port(service)}"


@contextmanager
def connected(network: Network) -> Iterator[Phala]:
    trust = load_trust(network.folder / "trust.json")
    began = load_light_start(network.folder / "light.json", trust.genesis)
    ready = network.ready
    with Phala.connect(ready["node"], ready["worker"], trust, began=began) as phala:
        yield phala


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    sys.stdout.write(f"PHALA_SEED={SEED}\n")
    with running(tmp_path_factory.mktemp("bad-input")) as network:
        with connected(network) as phala:
            counter = phala.deploy(COUNTER.read_bytes(), signer=ALICE)
            rogue = phala.deploy(ROGUE, signer=ALICE)
            phala.command(counter.contract, "add", {"n": 3}, signer=ALICE).value()
        names = {"counter": "0x" + counter.contract.hex(), "rogue": "0x" + rogue.contract.hex()}
        (network.folder / "contracts.json").write_text(
            json.dumps({"genesis": network.ready["genesis"], "names": names})
        )
        yield Door(network, counter, rogue)


@pytest.fixture(scope="module")
def phala(door: Door) -> Iterator[Phala]:
    with connected(door.network) as client:
        yield client


@dataclass
class Kept:
    """What a test leaves behind: so many in the counter."""

    counter: int


@pytest.fixture(autouse=True)
def kept(door: Door, phala: Phala) -> Iterator[Kept]:
    """Nothing is lost by any test."""
    before = processes(door.network)
    found = Kept(phala.query(door.counter.contract, "value").value())

    yield found

    assert processes(door.network) == before
    assert phala.query(door.counter.contract, "value").value() == found.counter


def processes(network: Network) -> dict[str, Any]:
    """Services with pids and restarts, and the enclave's pid."""
    document = json.loads((network.folder / "network.json").read_bytes())
    found: dict[str, Any] = dict(document["services"])
    worker = found["worker"]["pid"]
    for task in Path(f"/proc/{worker}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"phala.sealed" in Path(f"/proc/{child}/cmdline").read_bytes():
                found["sealed"] = child
    assert set(found) == {"node", "worker", "pherry", "sealed"}
    for service in ("node", "worker", "pherry"):
        assert found[service]["restarts"] == 0
        assert Path(f"/proc/{found[service]['pid']}").exists()
    return found


# ---- the node


def test_garbage_to_the_node_is_answered_by_an_error(door: Door) -> None:
    chance = random.Random(SEED)
    bodies = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 5_000, b'{"method":1}']
    bodies += [chance.randbytes(chance.randrange(1, 5_000)) for _ in range(40)]
    with httpx.Client(timeout=20, trust_env=False) as http:
        for body in bodies:
            answer = http.post(door.url("node"), content=body)
            assert answer.status_code == 200, body
            assert answer.json()["error"]["code"] in (-32700, -32600, -32601), body
        assert http.get(door.url("node")).status_code == 405
        assert http.post(door.url("node"), content=bytes(16 << 20)).status_code == 413


def test_garbage_for_extrinsics_is_refused_by_the_node(door: Door, phala: Phala) -> None:
    chance = random.Random(SEED + 1)
    block = chain_block(phala, door.counter.submitted)
    genuine = bytes_of(block["extrinsics"][door.counter.submitted.index])
    tries = [genuine, *(genuine[:size] for size in range(0, len(genuine), 37))]
    tries += [altered(chance, genuine) for _ in range(40)]
    tries += [chance.randbytes(chance.randrange(1, 500)) for _ in range(40)]

    for extrinsic in tries:
        with pytest.raises(RpcRefused):
            phala.run(phala.network.chain.submit_bare(extrinsic))


def chain_block(phala: Phala, submitted: Submitted) -> Any:
    rpc = phala.network.chain.rpc
    return phala.run(rpc.call("chain_getBlock", hex_of(submitted.block_hash)))["block"]


def altered(chance: random.Random, data: bytes) -> bytes:
    """One bit of it is another."""
    out = bytearray(data)
    out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


# ---- the worker


def family_of(answer: httpx.Response) -> str:
    """An error has its family's status, what happened, and the mend."""
    error = answer.json()["error"]
    assert {"Invalid": 400, "Refused": 403, "Unavailable": 503}[error["family"]] == (
        answer.status_code
    )
    assert error["what"]
    assert error["mend"]
    return str(error["family"])


def test_garbage_for_queries_is_told_to_be_none(door: Door, phala: Phala) -> None:
    chance = random.Random(SEED + 2)
    place = phala.run(phala.network.view.place())
    verified = phala.verify_worker()
    envelope, _ = seal_query(
        place, verified.addressee, door.counter.contract, "value", b"{}", session=None
    )
    genuine = QUERY_ENVELOPE.encode(envelope)
    tries = [b"", *(genuine[:size] for size in range(1, len(genuine), 29))]
    tries += [altered(chance, genuine) for _ in range(60)]
    tries += [genuine + b"\0", genuine * 2]
    tries += [chance.randbytes(chance.randrange(1, 90_000)) for _ in range(60)]

    with httpx.Client(timeout=20, trust_env=False) as http:
        for body in tries:
            answer = http.post(door.url("worker") + "/query", content=body)
            assert family_of(answer) in ("Invalid", "Refused"), body[:100]
        assert http.post(door.url("worker") + "/query", content=genuine).status_code == 200


def test_garbage_for_other_doors_of_the_worker_is_refused(door: Door) -> None:
    url, absent = door.url("worker"), "ab" * 32
    expected = {
        ("GET", "/query"): 405,
        ("DELETE", "/query"): 405,
        ("POST", "/evidence"): 405,
        ("POST", "/"): 405,
        ("GET", "/relay"): 405,
        ("GET", "/nothing"): 404,
        ("GET", "/query/more"): 404,
        ("GET", "/../../etc/passwd"): 404,
        ("GET", "/outcome"): 404,
        ("GET", f"/outcome/{absent}"): 404,
        ("GET", f"/outcome/{absent}/"): 404,
        ("GET", "/outcome/zz"): 400,
        ("GET", "/outcome/"): 400,
        ("GET", f"/outcome/{absent}00"): 400,
        ("GET", "/outcome/" + "a" * 10_000): 400,
        ("GET", "/outcome/%00%ff"): 400,
        ("GET", f"/runtime/{absent}"): 404,
        ("GET", "/runtime/..%2f..%2fsimulated.key"): 404,
    }
    with httpx.Client(timeout=20, trust_env=False) as http:
        for (method, path), status in expected.items():
            answer = http.request(method, url + path)
            assert answer.status_code == status, (method, path, answer.text)
            assert answer.json()["error"]


def test_a_huge_body_is_not_read(door: Door) -> None:
    with httpx.Client(timeout=20, trust_env=False) as http:
        for path, size in (("/query", 200_000), ("/relay", 65 << 20)):
            body = b"x" * size
            assert http.post(door.url("worker") + path, content=body).status_code == 413
            chunked = iter([body[:100_000]] * (size // 100_000 + 1))  # no length in front
            with contextlib.suppress(httpx.TransportError):  # it may hang up while we send
                assert http.post(door.url("worker") + path, content=chunked).status_code == 413
    said = raw(door.port("worker"), b"POST /query HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % 10**15)
    assert said.startswith(b"HTTP/1.1 413")


def test_what_is_no_http_ends_its_own_connection_alone(door: Door) -> None:
    chance = random.Random(SEED + 3)
    for service in ("node", "worker"):
        for size in (1, 100, 70_000):
            said = raw(door.port(service), chance.randbytes(size) + b"\r\n\r\n")
            assert said == b"" or said.startswith(b"HTTP/1.1 400")


def raw(port: int, data: bytes) -> bytes:
    """What a server says to these bytes, until it hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        said = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65_536):
                said += part
        except ConnectionError:
            pass
        return said


def test_the_relay_door_takes_what_pherry_sends_and_no_more(door: Door) -> None:
    chance = random.Random(SEED + 4)
    marks = len(HOST_REQUEST.variants)
    ours = HOST_REQUEST.encode(Status())
    with httpx.Client(timeout=20, trust_env=False, base_url=door.url("worker")) as http:
        tries = [b"", bytes([marks]), b"\xff" * 100, HOST_REQUEST.encode(Query(b"q"))]
        tries += [HOST_REQUEST.encode(FetchOutcome(CallId(bytes(32))))]
        for body in tries:
            assert family_of(http.post("/relay", content=body)) == "Refused"
        page = {"origin": "http://127.0.0.1:8000"}
        assert family_of(http.post("/relay", content=ours, headers=page)) == "Refused"
        for mark in range(4):  # with the mark of a request that passes, and nonsense behind it
            for _ in range(20):
                body = bytes([mark]) + chance.randbytes(chance.randrange(1, 2_000))
                answer = http.post("/relay", content=body)
                assert answer.status_code in (200, 400, 403), answer.text
        assert http.post("/relay", content=ours).status_code == 200


# ---- contracts that are none


SOURCES = {
    "syntax": (b"class Counter(:\n", INVALID, "line 1"),
    "encoding": (b"# \xff\xfe\n", INVALID, "not UTF-8 at byte 2"),
    "no_contract": (b"x = 1\n", INVALID, "found: none"),
    "nul": (b"x = 1\0\n", INVALID, "null bytes"),
    "empty": (b"", INVALID, "0 bytes"),
    "large": (b"#" * 300_000, INVALID, "262144"),
    "nested": (b"x = " + b"(" * 50_000, INVALID, "too complex"),
    "import_error": (b"import numpy\n", INVALID, "numpy"),
    "raises": (b"raise ValueError('at import')\n", INVALID, "at import (contract.py line 1)"),
    "recursion": (b"def f(): f()\nf()\n", REFUSED, "recursed too deep"),
    "memory": (b"x = []\nwhile True: x.append(bytes(1 << 20))\n", REFUSED, "memory is full"),
    "constructor": (
        b"from phat import *\nclass C(Contract):\n def __init__(self): raise Refused('later')\n",
        REFUSED,
        "later",
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_is_no_contract_is_refused(door: Door, name: str) -> None:
    source, exit_code, words = SOURCES[name]
    (door.network.folder / f"{name}.py").write_bytes(source)

    failed = door.network.phala("deploy", f"{name}.py", exit_code=exit_code)["error"]

    assert failed["family"] == ("Invalid" if exit_code == INVALID else "Refused")
    assert words in failed["what"] + failed["mend"]
    names = json.loads((door.network.folder / "contracts.json").read_bytes())["names"]
    assert name not in names


# ---- arguments


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["add", "--arg", "n=two"], INVALID, "n: expected int"),
        (["add", "--arg", "n=1.5"], INVALID, "n: expected int"),
        (["add", "--arg", "n=[1]"], INVALID, "n: expected int"),
        (["add"], INVALID, "n"),
        (["add", "--arg", "n=1", "--arg", "m=2"], INVALID, "m"),
        (["nothing"], INVALID, "nothing"),
        (["value"], INVALID, "value"),
        (["__init__"], INVALID, "__init__"),
        (["add", "--arg", "n"], INVALID, "--arg NAME=VALUE"),
        (["add", "--arg", "n=1", "--arg", "n=2"], INVALID, "given twice"),
        (["add", "--args", "[1]"], INVALID, "not a JSON object"),
        (["add", "--args", "{"], INVALID, "not JSON"),
        (["add", "--args", '{"n": NaN}'], INVALID, "not JSON"),
        (["add", "--args", "@missing.json"], INVALID, "cannot be read"),
        (["add", "--arg", "n=" + "x" * 70_000], INVALID, "at most 65536"),
        (["x" * 100, "--arg", "n=1"], INVALID, "64"),
    ],
    ids=lambda value: " ".join(value)[:24] if isinstance(value, list) else "",
)
def test_wrong_arguments_are_named(
    door: Door, arguments: list[str], exit_code: int, words: str
) -> None:
    failed = door.network.phala("call", "counter", *arguments, exit_code=exit_code)["error"]

    assert failed["family"] == "Invalid"
    assert words in failed["what"] + failed["mend"]


def test_a_contract_that_is_not_there_is_named(door: Door) -> None:
    unknown = door.network.phala("call", "ledger", "add", exit_code=INVALID)["error"]
    absent = door.network.phala("query", "0x" + "ab" * 32, "value", exit_code=REFUSED)["error"]

    assert "ledger" in unknown["what"]
    assert "counter" in unknown["mend"]
    assert absent["family"] == "Refused"


# ---- keystores


def keystore(**changes: Any) -> bytes:
    document = {
        "address": ALICE.address,
        "encoded": "AAAA",
        "encoding": {"content": ["pkcs8", "sr25519"], "type": ["none"], "version": "3"},
        "meta": {},
    }
    return json.dumps({**document, **changes}).encode()


KEYSTORES = {
    "nothing": b"",
    "garbage": b"\xff" * 100,
    "text": b'"5Grw"',
    "list": b"[]",
    "number": b"1e999",
    "deep": b"[" * 100_000,
    "large": b'{"a": "' + b"x" * 200_000 + b'"}',
    "no_fields": b"{}",
    "encoded_null": keystore(encoded=None),
    "not_base64": keystore(encoded="%%%"),
    "no_key_inside": keystore(),
    "bad_address": keystore(address="5Grw"),
    "address_number": keystore(address=7),
    "version": keystore(encoding={"content": ["pkcs8", "sr25519"], "type": ["none"], "version": 9}),
    "encoding_text": keystore(encoding="none"),
    "empty_content": keystore(encoding={"content": [], "type": ["none"], "version": "3"}),
    "unknown_key": keystore(
        encoding={"content": ["pkcs8", "ecdsa"], "type": ["none"], "version": "3"}
    ),
    "costly_scrypt": keystore(
        encoded="AA" * 1_000,
        encoding={
            "content": ["pkcs8", "sr25519"],
            "type": ["scrypt", "xsalsa20-poly1305"],
            "version": "3",
        },
    ),
}


def test_a_keystore_that_is_none_is_refused(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHALA_PASSWORD", "secret")
    for name, content in KEYSTORES.items():
        path = tmp_path / f"{name}.json"
        path.write_bytes(content)
        failed = imported(door.network, path)
        assert failed["family"] == "Invalid", name
        assert failed["what"], name
        assert failed["mend"], name
    failed = imported(door.network, tmp_path / "missing.json")
    assert "missing.json" in failed["what"]
    accounts = door.network.folder / "home" / "accounts"
    assert not accounts.exists() or not list(accounts.iterdir())


def imported(network: Network, path: Path) -> dict[str, str]:
    """What `phala account import` says of a keystore that it refuses."""
    ran = subprocess.run(
        [PHALA, "account", "import", "mallory", path, "--json"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment(network.folder),
    )
    assert ran.returncode == INVALID, (path.name, ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr
    error: dict[str, str] = json.loads(ran.stdout)["error"]
    return error


# ---- contracts that mean ill


@pytest.mark.parametrize(
    ("method", "kind", "words"),
    [
        ("loop", ERROR_FUEL, "fuel"),
        ("allocate", ERROR_MEMORY, "memory is full"),
        ("recurse", ERROR_STACK, "recursed too deep"),
        ("fail", ERROR_CONTRACT, "KeyError: no such patient (contract.py line"),
        ("refuse", ERROR_CONTRACT, "the study is closed"),
        ("write", ERROR_STATE, "more than 8388608 bytes written"),
        ("answer", ERROR_OUTPUT, "a result of 2000002 bytes"),
        ("tell", ERROR_OUTPUT, "events"),
        ("missing", ERROR_ARGUMENTS, "missing"),
    ],
)
def test_a_command_that_means_ill_hits_its_limit(
    door: Door, phala: Phala, kept: Kept, method: str, kind: int, words: str
) -> None:
    contract = door.rogue.contract
    fuel = FUEL_MIN if kind == ERROR_FUEL else ENOUGH_FUEL
    answer = phala.command(contract, method, signer=BOB, fuel=fuel, timeout_s=OUTCOME_S)

    assert not answer.outcome.ok
    assert answer.outcome.error_kind == kind, answer.outcome
    assert words in answer.outcome.error
    assert not answer.outcome.events
    assert phala.query(contract, "state").value() == [0, 0]
    added = phala.command(door.counter.contract, "add", {"n": 1}, signer=BOB)
    assert added.value() == kept.counter + 1
    kept.counter += 1


def test_a_query_that_does_not_end_is_ended(door: Door, phala: Phala) -> None:
    answer = phala.query(door.rogue.contract, "ask_for_ever")

    # The machine's speed says which is used up first.
    words = {ERROR_TIME: "took too long", ERROR_FUEL: "fuel"}[answer.outcome.error_kind]
    assert words in answer.outcome.error
    assert phala.query(door.rogue.contract, "state").value() == [0, 0]


def test_a_query_changes_nothing(door: Door, phala: Phala) -> None:
    answer = phala.query(door.rogue.contract, "change")

    assert answer.outcome.error_kind == ERROR_STATE
    assert "query" in answer.outcome.error
    assert phala.query(door.rogue.contract, "state").value() == [0, 0]


# ---- copies


def envelope_of(phala: Phala, door: Door, call: CallId) -> CommandEnvelope:
    """A command as everybody can read it off the chain."""
    topic = cluster_topic(door.counter.cluster)
    answer = phala.run(phala.network.chain.rpc.call("mq_getMessages", hex_of(topic), 0, 1_000))
    for each in answer:
        payload = CLUSTER_PAYLOAD.decode(ENVELOPE.decode(bytes_of(each)).payload)
        if isinstance(payload, CommandQueued) and payload.call == call:
            return COMMAND_ENVELOPE.decode(payload.envelope)
    raise AssertionError(f"the chain has no command {call.hex()}")


def push(phala: Phala, contract: ContractId, envelope: CommandEnvelope) -> Call:
    metadata = phala.run(phala.network.chain.metadata())
    fields = metadata.call_fields("PhalaPhatContracts", "push_command")
    value = {name: getattr(envelope, name) for name in envelope.__slots__}
    return Call(
        "PhalaPhatContracts",
        "push_command",
        dict(zip(fields, (contract, value), strict=True)),
    )


def settle(phala: Phala, door: Door, kept: Kept) -> None:
    """One more command: whatever stood before it in the topic has been dealt with."""
    added = phala.command(door.counter.contract, "add", {"n": 1}, signer=ALICE)
    assert added.value() == kept.counter + 1
    kept.counter += 1


def test_a_copy_of_anothers_command_is_refused(door: Door, phala: Phala, kept: Kept) -> None:
    contract = door.counter.contract
    sent = phala.send_command(contract, "add", {"n": 100}, signer=ALICE)
    assert phala.outcome_of(sent).value() == kept.counter + 100
    kept.counter += 100
    envelope = envelope_of(phala, door, sent.pending.call)

    phala.submit(push(phala, contract, envelope), BOB)

    genesis = phala.network.trust.genesis
    his = command_id(genesis, contract, BOB.account, envelope)
    with pytest.raises(Refused, match="copy of another account's command") as caught:
        phala.run(phala.network.worker.wait_for_outcome(his, timeout_s=30))
    assert BOB.public.hex() in caught.value.what
    assert phala.query(contract, "value").value() == kept.counter
    settle(phala, door, kept)


def test_a_copy_that_comes_first_does_not_keep_the_command_out(
    door: Door, phala: Phala, kept: Kept
) -> None:
    contract = door.counter.contract
    place, info, key = phala.run(phala.network.view.contract_with_key(contract))
    envelope, pending = seal_command(
        place,
        key,
        contract,
        "add",
        b'{"n":10}',
        sender=ALICE.account,
        cluster=info.cluster,
        expires=BlockNumber(place.height + 100),
    )

    phala.submit(push(phala, contract, envelope), BOB)
    submitted = phala.submit(push(phala, contract, envelope), ALICE)

    assert submitted is not None
    answer = phala.outcome_of(Sent(pending, submitted, info.cluster))
    assert answer.value() == kept.counter + 10
    kept.counter += 10


def test_a_command_sent_again_is_not_executed_again(door: Door, phala: Phala, kept: Kept) -> None:
    contract = door.counter.contract
    sent = phala.send_command(contract, "add", {"n": 1_000}, signer=ALICE)
    first = phala.outcome_of(sent)
    kept.counter += 1_000

    block = chain_block(phala, sent.submitted)
    extrinsic = bytes_of(block["extrinsics"][sent.submitted.index])
    with pytest.raises(RpcRefused):  # its nonce is spent
        phala.run(phala.network.chain.submit_bare(extrinsic))
    envelope = envelope_of(phala, door, sent.pending.call)
    for _ in range(2):
        phala.submit(push(phala, contract, envelope), ALICE)
    settle(phala, door, kept)

    assert phala.outcome_of(sent).response == first.response


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 1}, "version 1"),
        ({"generation": 9}, "generation 9"),
        ({"expires": 1}, "expires in block 1"),
        ({"fuel": 20}, "does not open"),
        ({"expires": 2**32 - 1}, "expires in block"),
        ({"code_id": bytes(32)}, "other code"),
        ({"sealed": b""}, "does not open"),
        ({"sealed": b"\xff" * 500}, "does not open"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_command_that_is_none_is_refused(
    door: Door, phala: Phala, kept: Kept, change: dict[str, Any], words: str
) -> None:
    contract = door.counter.contract
    sent = phala.send_command(contract, "add", {"n": 1}, signer=ALICE)
    phala.outcome_of(sent)
    kept.counter += 1
    broken = replace(envelope_of(phala, door, sent.pending.call), **change)

    try:
        phala.submit(push(phala, contract, broken), ALICE)
    except (Refused, Invalid):  # the chain can see by itself that it is none
        return
    name = command_id(phala.network.trust.genesis, contract, ALICE.account, broken)
    with pytest.raises(Refused, match=words):
        phala.run(phala.network.worker.wait_for_outcome(name, timeout_s=30))
