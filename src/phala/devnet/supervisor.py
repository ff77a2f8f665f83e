"""Starts a network's services in order, starts a dead one again, and ends them all."""

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from phala.devnet.files import SERVICES, NetworkFiles, save_document
from phala.devnet.process import Child, ServiceFailed, adopt_orphans, end_orphans
from phala.devnet.status import fetch_worker
from phala.errors import Refused, Unavailable

HOST: Final = "127.0.0.1"
BACKOFF_S: Final = (0.2, 1.0, 2.0, 5.0)  # before each start in a row; then the last
STEADY_S: Final = 3.0  # a service that served this long was well: its end is no sequel
USABLE_S_MAX: Final = 60.0
POLL_S: Final = 0.05


class PortTaken(Refused):
    """Another process listens where a service should."""


@dataclass(frozen=True, slots=True)
class Starting:
    service: str


@dataclass(frozen=True, slots=True)
class Started:
    service: str
    port: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Serving:
    """A worker is registered and holds its keys: contracts can be deployed and called."""

    document: dict[str, Any]  # what `network.json` says
    seconds: float  # since the start


@dataclass(frozen=True, slots=True)
class Died:
    service: str
    code: int  # negative: the signal
    again_in_s: float


@dataclass(frozen=True, slots=True)
class Stopping:
    pass


News: TypeAlias = Starting | Started | Serving | Died | Stopping


@dataclass(frozen=True, slots=True)
class Ports:
    """Where to listen; 0 for any free port."""

    node: int
    worker: int


class Supervisor:
    """One network's processes. `tell` hears what happens, as it happens."""

    def __init__(
        self,
        files: NetworkFiles,
        ports: Ports,
        tell: Callable[[News], None],
        *,
        about: dict[str, Any] | None = None,
        commands: Callable[[str, dict[str, int]], list[str]] | None = None,
    ) -> None:
        self._files = files
        self._ports = {"node": ports.node, "worker": ports.worker}
        self._tls_port = 0
        self._tell = tell
        self._about = about or {}
        self._command = commands or self._service_command
        self._children: dict[str, Child] = {}
        self._restarts = dict.fromkeys(SERVICES, 0)
        self._began = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. No process that was started is left when this returns or raises.

        Raises:
            PortTaken: before anything was started.
            ServiceFailed: a service did not come up at first.
        """
        for name, port in self._ports.items():
            ensure_free(name, port)
        adopt_orphans()
        running = asyncio.create_task(self._run())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        except BaseExceptionGroup as group:
            raise _first_of(group) from None
        finally:
            self._tell(Stopping())
            for task in (running, stopping):
                task.cancel()
            await asyncio.gather(running, stopping, return_exceptions=True)
            await asyncio.gather(*(child.stop() for child in self._children.values()))
            end_orphans()
            self._files.running.unlink(missing_ok=True)

    async def _run(self) -> None:
        # The worker's enclave compiles its runtime module while the node opens its store.
        async with asyncio.TaskGroup() as first:
            first.create_task(self._start("node"))
            first.create_task(self._start("worker"))
        await self._start("pherry")
        self._save()
        async with asyncio.TaskGroup() as group:
            for name in SERVICES:
                group.create_task(self._keep(name))
            group.create_task(self._announce())

    async def _start(self, name: str) -> None:
        began = time.monotonic()
        self._tell(Starting(name))
        child = Child.start(name, self._command(name, self._ports), self._files)
        self._children[name] = child
        said = await child.ready()
        port = said.get("port")
        if isinstance(port, int) and name in self._ports:
            self._ports[name] = port  # a restarted service is found where it was
        tls_port = said.get("tls_port")
        if isinstance(tls_port, int):
            self._tls_port = tls_port
        self._tell(Started(name, port, time.monotonic() - began))

    async def _keep(self, name: str) -> None:
        """Start a service again whenever it ends."""
        failures = 0
        while True:
            since = time.monotonic()
            code = await self._children[name].wait()
            if time.monotonic() - since > STEADY_S:
                failures = 0
            while True:
                pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                failures += 1
                self._tell(Died(name, code, pause))
                await self._children[name].stop()  # what it left of its session
                await asyncio.sleep(pause)
                try:
                    await self._start(name)
                    break
                except ServiceFailed:
                    await self._children[name].stop()
                    code = await self._children[name].wait()
            self._restarts[name] += 1
            self._save()

    async def _announce(self) -> None:
        """Tell when a worker answers for the network's first cluster."""
        deadline = time.monotonic() + USABLE_S_MAX
        while True:
            with contextlib.suppress(Unavailable):
                if (await fetch_worker(self.worker_url)).get("ready"):
                    break
            if time.monotonic() > deadline:
                raise ServiceFailed(
                    f"the worker was not registered within {USABLE_S_MAX:.0f} s",
                    mend=f"read {self._files.log('pherry')} and {self._files.log('worker')}",
                )
            await asyncio.sleep(POLL_S)
        self._tell(Serving(self._document(), time.monotonic() - self._began))

    @property
    def node_url(self) -> str:
        return f"ws://{HOST}:{self._ports['node']}"

    @property
    def worker_url(self) -> str:
        return f"http://{HOST}:{self._ports['worker']}"

    def _document(self) -> dict[str, Any]:
        return {
            **self._about,
            "dir": str(self._files.folder),
            "node": self.node_url,
            "worker": self.worker_url,
            "worker_tls": f"ratls://{HOST}:{self._tls_port}" if self._tls_port else None,
            "pid": os.getpid(),
            "services": {
                name: {"pid": child.pid, "restarts": self._restarts[name]}
                for name, child in self._children.items()
            },
        }

    def _save(self) -> None:
        save_document(self._files.running, self._document())

    def _service_command(self, name: str, ports: dict[str, int]) -> list[str]:
        files, own = self._files, str(self._files.service(name))
        python = [sys.executable, "-m", f"phala.{name}"]
        match name:
            case "node":
                place = ["--dir", own, "--spec", str(files.spec), "--port", str(ports["node"])]
            case "worker":
                place = ["--dir", own, "--light", str(files.light), "--port", str(ports["worker"])]
                place += ["--tls-port", str(self._tls_port)]
            case _:
                place = ["--node", self.node_url, "--worker", self.worker_url]
        return python + place


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def ensure_free(name: str, port: int) -> None:
    """Raises `PortTaken` when somebody listens there."""
    if not port:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            option = "--port" if name == "node" else "--worker-port"
            raise PortTaken(
                f"the {name} cannot listen on {HOST}:{port} ({error.strerror})",
                mend=f"stop what holds that port, or use {option} 0 for any",
            ) from None
