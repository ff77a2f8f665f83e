"""Keeps the enclave's process running, and carries frames to it and back.

frame = u32 length of what follows | u64 request id | SCALE HostRequest or HostReply
"""

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from phala.errors import PhalaError, Unavailable
from phala.messages.host import FRAME_BYTES_MAX, HOST_REPLY, HOST_REQUEST, HostReply, HostRequest
from phala.worker.log import log

LENGTH_BYTES: Final = 4
ID_BYTES: Final = 8
WAIT_SECONDS: Final = 10  # a request waits so long for an enclave that starts again
ANSWER_SECONDS: Final = 600  # a feed of thousands of commands takes its time
STOP_SECONDS: Final = 5
BACKOFF_SECONDS: Final = (0.0, 0.2, 1.0, 5.0)
STEADY_SECONDS: Final = 3  # after so long a death is no sequel of the one before
FINAL_CODES: Final = (65, 77)  # exit codes of Invalid and Refused: a restart mends nothing


class EnclaveAway(Unavailable):
    """The enclave's process does not answer now."""

    def __init__(self, what: str) -> None:
        super().__init__(what, mend="ask again in a moment")


class EnclaveCannotStart(PhalaError):
    """The enclave refuses to start, for a reason that a restart does not mend."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the enclave ended with exit code {code}", mend="read its last log line")
        self.code = code


@dataclass(frozen=True, slots=True)
class Command:
    """How the enclave is started."""

    folder: Path
    light: Path
    simulated_key: Path | None  # None: the enclave finds the hardware under it
    runtime: Path | None
    engines: int
    gpu_manifests: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()  # instead of Python, with its arguments: it knows the config

    def write(self) -> list[str]:
        """Its command line, once its config is written."""
        config = self.folder / "sealed.json"
        document = {
            "dir": str(self.folder / "enclave"),
            "light": str(self.light),
            "platform": {"kind": "hardware"}
            if self.simulated_key is None
            else {"kind": "simulated", "key": str(self.simulated_key)},
            "runtime": None if self.runtime is None else str(self.runtime),
            "engines": self.engines,
            "gpu_manifests": list(self.gpu_manifests),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        half = config.with_suffix(".new")
        half.write_text(json.dumps(document, indent=1) + "\n")
        half.rename(config)
        return list(self.launcher) or [
            sys.executable, "-m", "phala.sealed", "--config", str(config)
        ]  # fmt: skip


class Link:
    """One life of the enclave's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        self._process = process
        self._writer, self._reader = process.stdin, process.stdout
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._next = 0

    async def ask(self, request: bytes) -> bytes:
        """Raises `EnclaveAway` when the process ends first."""
        self._next += 1
        name = self._next.to_bytes(ID_BYTES, "little")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[name] = answer
        try:
            length = len(request) + ID_BYTES
            self._writer.write(length.to_bytes(LENGTH_BYTES, "little") + name + request)
            await self._writer.drain()
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except (ConnectionError, TimeoutError, RuntimeError):  # the last of a closed transport
            raise EnclaveAway("the enclave's process does not answer") from None
        finally:
            self._waiting.pop(name, None)

    async def read(self) -> None:
        """Hand answers to those who wait, until the process ends."""
        try:
            while True:
                length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "little")
                if not ID_BYTES <= length <= FRAME_BYTES_MAX + ID_BYTES:
                    log("bad frame", bytes=length)
                    return
                frame = await self._reader.readexactly(length)
                waiting = self._waiting.get(frame[:ID_BYTES])
                if waiting is not None and not waiting.done():
                    waiting.set_result(frame[ID_BYTES:])
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            for each in self._waiting.values():
                if not each.done():
                    each.set_exception(EnclaveAway("the enclave's process ended"))

    async def end(self) -> int:
        """Close its pipe, which ends it; kill it if that does not."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._writer.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            return await self._process.wait()


class Keeper:
    """Starts the enclave again whenever it ends."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._link: Link | None = None
        self._up = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises `EnclaveCannotStart`."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            since = loop.time()
            code = await self._live()
            if code in FINAL_CODES:
                raise EnclaveCannotStart(code)
            failures = 0 if loop.time() - since > STEADY_SECONDS else failures + 1
            pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
            log("enclave ended", code=code, again_in_ms=round(pause * 1000))
            await asyncio.sleep(pause)

    async def _live(self) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._command.write(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        link = Link(process)
        self._link = link
        self._up.set()
        try:
            await link.read()
        finally:
            self._up.clear()
            self._link = None
            code = await link.end()
        return code

    async def ask(self, request: bytes) -> bytes:
        """SCALE of a `HostReply` to SCALE of a `HostRequest`.

        Raises:
            EnclaveAway: it is not there, or ended before it answered.
        """
        if self._link is None:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._up.wait()
            except TimeoutError:
                raise EnclaveAway("the enclave is starting") from None
        link = self._link
        if link is None:
            raise EnclaveAway("the enclave is starting")
        return await link.ask(request)

    async def tell(self, request: HostRequest) -> HostReply:
        reply: HostReply = HOST_REPLY.decode(await self.ask(HOST_REQUEST.encode(request)))
        return reply
