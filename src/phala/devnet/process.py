"""One service as a child process: started, read until it is ready, ended with all its own."""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from phala.devnet.files import NetworkFiles
from phala.errors import Unavailable

READY_S_MAX: Final = 60.0
STOP_S_MAX: Final = 8.0
READY_BYTES_MAX: Final = 64 * 1024
TAIL_LINES: Final = 8
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER: Final = 36
_PRCTL: Final = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
_POLL_S: Final = 0.02


class ServiceFailed(Unavailable):
    """A service ended, or said nothing, before it was ready."""


def adopt_orphans() -> None:
    """Make this process the parent of whatever its children leave behind, so that it can end it."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """The ids of this process's living children and of those to be reaped."""
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in task.read_text().split()]
    return found


def end_orphans() -> None:
    """End the processes that ended services left behind. Call it when no service runs."""
    while left := children():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _ends_with(parent: int) -> Callable[[], None]:
    """What a child runs before its program, so that no child outlives a killed parent."""

    def before_exec() -> None:
        if _PRCTL is not None:
            _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it was killed before the call above
                os._exit(1)

    return before_exec


class Child:
    """A running service. Its standard error is its log."""

    def __init__(self, name: str, files: NetworkFiles, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.pid = process.pid
        self._files = files
        self._process = process
        self._drain: asyncio.Task[None] | None = None
        self._transport: asyncio.ReadTransport | None = None

    @classmethod
    def start(cls, name: str, command: Sequence[str], files: NetworkFiles) -> "Child":
        log = files.open_log(name)
        try:
            process = subprocess.Popen(  # noqa: S603 - our own services
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor alone
                preexec_fn=_ends_with(os.getpid()),  # noqa: PLW1509 - one system call, no lock
            )
        finally:
            os.close(log)
        return cls(name, files, process)

    async def ready(self) -> dict[str, Any]:
        """What the service said when it began to serve.

        Raises:
            ServiceFailed: it ended first, or took longer than `READY_S_MAX`.
        """
        reader = asyncio.StreamReader(limit=READY_BYTES_MAX)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(lambda: protocol, self._process.stdout)
        line = b""
        try:
            async with asyncio.timeout(READY_S_MAX):
                line = await reader.readline()
                if not line:
                    await self.wait()
            said = json.loads(line)
        except TimeoutError:
            raise self._failed(f"was not ready within {READY_S_MAX:.0f} s") from None
        except ValueError:
            code = self._process.returncode
            what = f"printed {line[:80]!r}" if line else f"ended with exit code {code}"
            raise self._failed(what + " before it was ready") from None
        self._drain = asyncio.create_task(_discard(reader))
        return said if isinstance(said, dict) else {}

    async def wait(self) -> int:
        """The exit code, negative for a signal."""
        while (code := self._process.poll()) is None:  # noqa: ASYNC110 - a process is no event
            await asyncio.sleep(_POLL_S)
        return code

    async def stop(self) -> None:
        """End it and all processes of its session: asked first, then made to."""
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self.wait()
        except TimeoutError:
            self._process.kill()
            await self.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._drain is not None:
            self._drain.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._drain
        if self._transport is not None:
            self._transport.close()  # which closes the pipe, after the loop has let go of it

    def _failed(self, what: str) -> ServiceFailed:
        tail = last_lines(self._files.log(self.name), TAIL_LINES)
        shown = "".join(f"\n    {line}" for line in tail)
        return ServiceFailed(
            f"{self.name} {what}" + (f"; its log ends:{shown}" if tail else ""),
            mend=f"read {self._files.log(self.name)}",
        )


async def _discard(reader: asyncio.StreamReader) -> None:
    """A service that prints more than its line must not block on a full pipe."""
    while await reader.read(READY_BYTES_MAX):
        pass


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file, reading no more of it than they need."""
    step, found = 64 * 1024, b""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position and found.count(b"\n") <= count:
            size = min(step, position)
            position = file.seek(position - size)
            found = file.read(size) + found
    return found.decode(errors="replace").splitlines()[-count:] if count else []
