"""Whoever runs node, pherry and worker, and reads all their bytes, sees no patient.

The demo runs in front of a network whose host looks everywhere: files and logs, every byte on
loopback, the memory of its own processes. Some patients carry marks. Then a client that does not
encrypt sends the same marks by the same ways, and each look finds them.
"""

import asyncio
import base64
import csv
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.e2e import capture, scan
from tests.e2e.network import Network, environment, running, until

from phala.messages.calls import COMMAND_REQUEST, CommandEnvelope, CommandRequest
from phala.messages.types import Generation
from phala.primitives.types import BlockNumber
from phala.sdk.chain import Call, ChainClient
from phala.sdk.keyring import dev_pair

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.geteuid() != 0, reason="recording loopback and reading memory take root: run as root"
    ),
]

HOSPITAL = Path(__file__).parents[2] / "examples" / "hospital"
SEED = int(os.environ.get("PHALA_SEED", str(random.SystemRandom().randrange(1 << 32))))
MARK_AT = 8  # of a patient's 30 measurements; the mean radius, which divides them, is the first
MARKED_EVERY = 16
DEMO_S_MAX = 200
CLIENTS_FILE = "receipt.json"  # the coordinator keeps what it asked, in the clear, for itself


@dataclass
class Host:
    """A network, and all that its operator can look at."""

    network: Network
    tap: subprocess.Popen[str]
    recorded: Path
    mark: list[float]
    wanted: dict[bytes, str]
    seen: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # in memory
    looks: int = 0

    def processes(self) -> dict[str, int]:
        """Everything but the enclave, its engine children, and the clients."""
        services = json.loads((self.network.folder / "network.json").read_bytes())["services"]
        pids = {name: int(service["pid"]) for name, service in services.items()}
        return {**pids, "supervisor": self.network.supervisor.pid}

    def port(self, service: str) -> int:
        return int(self.network.ready[service].rpartition(":")[2])

    def look_into_memory(self) -> None:
        for name, pid in self.processes().items():
            self.seen[name] |= scan.in_memory(pid, self.wanted)
        self.looks += 1

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look into memory again and again while the body runs."""
        done = threading.Event()
        failed: list[OSError] = []

        def look() -> None:
            try:
                while not done.is_set():
                    self.look_into_memory()
            except OSError as error:  # told in the test's own thread
                failed.append(error)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        assert not failed, failed

    def in_files(self) -> dict[str, set[str]]:
        found = scan.in_files(self.network.folder, self.wanted)
        found.pop(CLIENTS_FILE, None)
        return found

    def on_the_wire(self) -> dict[tuple[int, int], set[str]]:
        """By source and destination port. Only frames to our own node are taken apart: others of
        this machine may send what they like."""
        found = {}
        for ports, stream in capture.streams(self.recorded).items():
            forms = scan.hits(stream, self.wanted)
            if ports[1] == self.port("node"):
                forms |= scan.hits(capture.unmasked(stream), self.wanted)
            if forms:
                found[ports] = forms
        return found

    def end_recording(self) -> int:
        """How many packets were lost."""
        self.tap.terminate()
        assert self.tap.stdout is not None
        dropped = int(self.tap.stdout.readline())
        assert self.tap.wait(10) == 0
        return dropped


@contextmanager
def recording(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(capture.__file__), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tap:
        assert tap.stdout is not None
        assert tap.stdout.readline() == "listening\n"
        try:
            yield tap
        finally:
            tap.terminate()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    chance = random.Random(SEED)
    sys.stdout.write(f"PHALA_SEED={SEED}\n")
    mark = [chance.uniform(0.05, 0.4) for _ in range(2 * scan.WINDOW)]
    folder, recorded = tmp_path / "network", tmp_path / "loopback"
    with recording(recorded) as tap, running(folder) as network:
        yield Host(network, tap, recorded, mark, scan.needles([mark]))


def marked_patients(path: Path, mark: list[float]) -> int:
    """The demo's patients, some with the mark among their measurements; how many."""
    with (HOSPITAL / "patients.csv").open(newline="") as lines:
        head, *rows = csv.reader(lines)
    chosen = rows[::MARKED_EVERY]
    for row in chosen:
        row[MARK_AT : MARK_AT + len(mark)] = map(repr, mark)
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([head, *rows])
    return len(chosen)


def test_a_host_sees_nothing_of_the_demo(host: Host, tmp_path: Path) -> None:
    patients = tmp_path / "patients.csv"
    assert marked_patients(patients, host.mark) > 30
    command = [sys.executable, str(HOSPITAL / "demo.py"), "--network", str(host.network.folder)]
    with host.looking():
        ran = subprocess.run(
            [*command, "--patients", str(patients)],
            capture_output=True,
            text=True,
            timeout=DEMO_S_MAX,
            check=False,
            env=environment(tmp_path),
        )
    host.look_into_memory()

    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    assert "190 of 190 patients in" in ran.stdout
    assert host.looks > 2
    assert host.end_recording() == 0
    assert host.recorded.stat().st_size > 1_000_000  # the demo did go over loopback
    assert host.on_the_wire() == {}
    assert host.in_files() == {}
    assert {name: found for name, found in host.seen.items() if found} == {}
    assert set(host.seen) == {"node", "worker", "pherry", "supervisor"}


# ---- the counter-proof


def in_the_clear(row: list[float]) -> bytes:
    """A command as a client would send it that forgot to encrypt."""
    arguments = json.dumps({"rows": [row]}, separators=(",", ":")).encode()
    return COMMAND_REQUEST.encode(CommandRequest(bytes(32), "add", arguments))


def in_every_form(row: list[float]) -> bytes:
    text, binary = json.dumps(row).encode(), struct.pack(f"<{len(row)}d", *row)
    return b" ".join((text, binary, base64.b64encode(text), base64.b64encode(binary)))


async def send_in_the_clear(network: Network, row: list[float]) -> None:
    """What `Network.send_commands` does, but for the encryption; and a remark."""
    network.phala("deploy", "counter.py")
    contract = json.loads((network.folder / "contracts.json").read_bytes())["names"]["counter"]
    async with ChainClient(network.ready["node"]) as chain:
        metadata = await chain.metadata()
        envelope = CommandEnvelope(
            2, Generation(1), None, BlockNumber(1_000), 28, in_the_clear(row)
        )
        value = {name: getattr(envelope, name) for name in envelope.__slots__}
        fields = metadata.call_fields("PhalaPhatContracts", "push_command")
        push = dict(zip(fields, (bytes.fromhex(contract[2:]), value), strict=True))
        remark = {"remark": in_every_form(row)}
        for _ in range(3):
            await chain.submit(Call("PhalaPhatContracts", "push_command", push), dev_pair("Bob"))
        await chain.submit(
            Call("System", "remark_with_event", remark), dev_pair("Bob"), wait="finalized"
        )


@contextmanager
def posting_in_the_clear(port: int, row: list[float]) -> Iterator[None]:
    """A query in the clear, all of it but its last byte."""
    body = in_the_clear(row)
    head = f"POST /query HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body) + 1}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + body)
        yield


def test_a_host_sees_what_a_client_does_not_encrypt(host: Host) -> None:
    network = host.network
    template = Path(__file__).parents[2] / "src/phala/phat/templates/counter.py"
    (network.folder / "counter.py").write_bytes(template.read_bytes())
    worker_port, node_port = host.port("worker"), host.port("node")

    with host.looking():
        asyncio.run(send_in_the_clear(network, host.mark))
        with posting_in_the_clear(worker_port, host.mark):
            looked = host.looks
            until(lambda: host.looks > looked + 1)
    assert host.end_recording() == 0
    wire = host.on_the_wire()

    assert network.phala("query", "counter", "value")["result"] == 0
    sys.stdout.write(f"{dict(host.seen)} {host.in_files()} {wire}\n")
    assert {"text", "json", "float64", "base64"} <= host.in_files()["node/db/data.mdb"]
    assert any(to == node_port and "hex" in forms for (_, to), forms in wire.items())
    assert any(to == worker_port and "text" in forms for (_, to), forms in wire.items())
    assert host.seen["node"]
    assert "text" in host.seen["worker"]
    assert host.seen["pherry"]
    assert not host.seen["supervisor"]
