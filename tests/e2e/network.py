"""A whole network as a user starts it, for tests: `phala up` and the command line, nothing else."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PHALA = Path(sys.executable).with_name("phala")
UP_S_MAX = 60
COMMAND_S_MAX = 90
POLL_S = 0.1


class CommandFailed(AssertionError):
    """A `phala` command ended with another exit code than expected."""


@dataclass
class Network:
    """A running network."""

    folder: Path
    ready: dict[str, Any]  # the line that `phala up --json` printed
    supervisor: subprocess.Popen[str]

    def phala(self, *arguments: str, exit_code: int = 0) -> Any:
        """Run a command on this network with `--json`; what it printed, decoded."""
        return json.loads(self.run(*arguments, "--json", exit_code=exit_code).stdout or "null")

    def run(self, *arguments: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        command, *rest = arguments
        ran = subprocess.run(
            [PHALA, command, "--dir", self.folder, *rest],
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
            cwd=self.folder,
            env=environment(self.folder),
        )
        if ran.returncode != exit_code:
            raise CommandFailed(
                f"phala {' '.join(arguments)} ended with {ran.returncode}, not {exit_code}\n"
                f"{ran.stdout[-2000:]}{ran.stderr[-4000:]}"
            )
        return ran

    def pid(self, service: str) -> int:
        """The process that serves now; services are restarted under new ids."""
        return int(self.phala("status")["services"][service]["pid"])

    def kill(self, service: str) -> None:
        """End a service as a power cut would."""
        os.kill(self.pid(service), signal.SIGKILL)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PHALA_HOME": str(folder / "home"), "NO_COLOR": "1"}


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Network]:
    """`phala up` in a folder, until the body ends; its logs are shown when the body fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "up.err").open("w") as errors:
        process = subprocess.Popen(
            [PHALA, "up", "--dir", folder, "--port", "0", "--worker-port", "0", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(folder),
        )
    try:
        yield Network(folder, json.loads(first_line(process)), process)
    except BaseException:
        for log in [folder / "up.err", *sorted((folder / "logs").glob("*.log"))]:
            if log.exists():
                sys.stderr.write(f"---- {log.name}\n{log.read_text(errors='replace')[-4000:]}\n")
        raise
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        errors.close()
        assert process.stdout is not None
        process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> str:
    """What the process prints first, or an error when it does not within `UP_S_MAX`."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    try:
        line = lines.get(timeout=UP_S_MAX)
    except queue.Empty:
        raise AssertionError(f"phala up printed nothing in {UP_S_MAX} s") from None
    assert line, f"phala up ended with exit code {process.wait()} before it was ready"
    return line


def until(condition: Callable[[], T | None], *, seconds: float = 30) -> T:
    """What `condition` gives as soon as it is true; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(POLL_S)
