"""The supervisor: what it starts, it keeps running, and it ends."""

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from phala.devnet.files import AlreadyRunning, NetworkFiles, NotRunning, load_document
from phala.devnet.process import last_lines
from phala.devnet.supervisor import PortTaken, ensure_free
from phala.errors import Invalid

T = TypeVar("T")
SCRIPT = Path(__file__).with_name("devnet_run.py")


def until(condition: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def supervisor(
    folder: Path, *, port: int = 0, mode: str = "well"
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "supervise", folder, str(port), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def told(process: subprocess.Popen[str], start: str) -> str:
    """The next news that begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise AssertionError(f"the supervisor ended without {start}")


def pids(files: NetworkFiles) -> dict[str, int]:
    return {name: each["pid"] for name, each in files.load_running()["services"].items()}


def grandchildren(files: NetworkFiles) -> list[int]:
    return [int(last_lines(files.log(name), 1)[0]) for name in ("node", "worker", "pherry")]


def ended(pid: int) -> bool:
    return not alive(pid)


def alive(pid: int) -> bool:
    """A zombie that nobody reaps has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_stopped_network_leaves_no_process_and_no_address(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    with supervisor(tmp_path) as process:
        told(process, "Serving")
        started = [*pids(files).values(), *grandchildren(files)]
        assert files.is_running()
        assert all(map(alive, started))

        process.terminate()
        assert process.wait(30) == 0

    assert not any(map(alive, started))
    assert not files.running.exists()
    with pytest.raises(NotRunning):
        files.load_running()


def test_a_killed_service_comes_back_where_it_was(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    with supervisor(tmp_path) as process:
        told(process, "Serving")
        before = files.load_running()

        os.kill(before["services"]["worker"]["pid"], signal.SIGKILL)

        assert "code=-9" in told(process, "Died(service='worker'")
        told(process, "Started(service='worker'")
        after = until(
            lambda: (
                found
                if (found := files.load_running())["services"]["worker"]["restarts"] == 1
                else None
            )
        )
    assert after["worker"] == before["worker"]
    assert after["services"]["worker"]["pid"] != before["services"]["worker"]["pid"]
    assert after["services"]["node"] == before["services"]["node"]


def test_a_killed_supervisor_takes_its_services_with_it(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    with supervisor(tmp_path) as process:
        told(process, "Serving")
        started, orphans = pids(files), grandchildren(files)
        process.kill()
        process.wait(30)

        for pid in started.values():
            until(functools.partial(ended, pid))
        assert not files.is_running()
        for pid in orphans:  # ours here; the real services end theirs by a closed pipe
            os.kill(pid, signal.SIGKILL)


def test_a_service_that_cannot_start_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with supervisor(tmp_path, mode="worker-fails") as process:
        _, said = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "worker ended with exit code 1 before it was ready" in said
    assert "the disk is made of cheese" in said


def test_two_networks_run_side_by_side_but_not_in_one_folder(tmp_path: Path) -> None:
    with supervisor(tmp_path / "one") as one, supervisor(tmp_path / "two") as two:
        told(one, "Serving")
        told(two, "Serving")
        with supervisor(tmp_path / "one") as third:
            _, said = third.communicate(timeout=30)

        assert third.returncode == 1
        assert said.startswith("AlreadyRunning: the network in")
        assert one.poll() is None
        with pytest.raises(AlreadyRunning), NetworkFiles(tmp_path / "two").locked():
            pass


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(PortTaken, match=f"the worker cannot listen on 127.0.0.1:{port}"):
            ensure_free("worker", port)
        with supervisor(tmp_path, port=port) as process:
            out, said = process.communicate(timeout=30)

    assert process.returncode == 1
    assert "use --port 0 for any" in said
    assert "Starting" not in out


def test_a_reset_removes_the_network_alone(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    for path in (files.spec, files.trust, files.log("node"), files.service("node") / "data.mdb"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    mine = tmp_path / "counter.py"
    mine.write_text("mine")

    files.reset()

    assert [path.name for path in tmp_path.iterdir()] == ["counter.py"]
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"nul"])
def test_a_damaged_document_is_refused_with_a_mend(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(content)

    with pytest.raises(Invalid, match="--reset"):
        load_document(path)


def test_the_last_lines_of_a_long_log(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    path.write_text("".join(f"line {number}\n" for number in range(100_000)))

    assert last_lines(path, 2) == ["line 99998", "line 99999"]
    assert last_lines(path, 0) == []
    assert last_lines(tmp_path / "none.log", 5) == []
