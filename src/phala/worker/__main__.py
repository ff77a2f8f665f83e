"""`python -m phala.worker --dir DIR --light LIGHT`: an enclave and its doors."""

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvicorn
import uvloop

from phala.confine import drop_privileges, harden
from phala.errors import PhalaError, Unavailable
from phala.messages.host import Status, StatusReply
from phala.worker.doors import Doors, shown
from phala.worker.keeper import Command, EnclaveCannotStart, Keeper
from phala.worker.log import log
from phala.worker.runtimes import Runtimes
from phala.worker.tls import TlsPort

HOST: Final = "127.0.0.1"
KEY_NAME: Final = "simulated.key"  # beside the light start, as `phala up` lays it
ENGINES_MIN: Final = 2  # a long command in one, queries in the other
CONNECTIONS_MAX: Final = 1_024
STOP_SECONDS: Final = 3


class Server(uvicorn.Server):
    """Leaves signals to `serve`, which has an enclave to end as well."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(command: Command, host: str, port: int, tls_port: int | None) -> None:
    """Until SIGTERM or SIGINT. Raises `EnclaveCannotStart`, `Unavailable`: a port is taken."""
    listening = _listen(host, port)
    keeper = Keeper(command)
    ports = {"port": listening.getsockname()[1]}
    tls = None
    if tls_port is not None:
        socket_ = _listen(host, tls_port)
        tls = await asyncio.start_server(TlsPort(keeper).serve, sock=socket_)
        ports["tls_port"] = socket_.getsockname()[1]
    drop_privileges()  # bound are the ports, and the enclave's process asks for none
    doors = Doors(keeper, Runtimes(command.runtime))
    server = Server(
        uvicorn.Config(
            doors,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http="httptools",
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=STOP_SECONDS,
            server_header=False,
        )
    )

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    keeping = asyncio.create_task(keeper.run())
    keeping.add_done_callback(lambda _: stop())
    announcing = asyncio.create_task(_announce(keeper, ports))
    try:
        await server.serve(sockets=[listening])
    finally:
        announcing.cancel()
        if tls is not None:
            tls.close()
        if not keeping.done():
            keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        log("stopped")


def _listen(host: str, port: int) -> socket.socket:
    # With its protocol named, asyncio sends each answer at once (TCP_NODELAY); else it waits 40 ms.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise Unavailable(
            f"the worker cannot listen on {host}:{port} ({error.strerror})",
            mend="stop what holds that port, or use --port 0 for any",
        ) from None
    return listening


async def _announce(keeper: Keeper, ports: dict[str, int]) -> None:
    """One line on stdout when the enclave answers."""
    while True:
        with contextlib.suppress(Unavailable):
            status = await keeper.tell(Status())
            if isinstance(status, StatusReply):
                said = {**shown(status), "ready": True, **ports}
                print(json.dumps(said), flush=True)  # noqa: T201
                return
        await asyncio.sleep(0.05)


def _simulated_key(platform: str | None, named: Path | None, light: Path) -> Path | None:
    """The key to simulate with; None where the hardware is meant."""
    key = (named or light.with_name(KEY_NAME)).absolute()
    simulated = platform == "simulated" or (platform is None and (named or key.exists()))
    return key if simulated else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="phala.worker", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--light", type=Path, required=True)
    parser.add_argument(
        "--platform",
        choices=("hardware", "simulated"),
        help=f"default: simulated where {KEY_NAME} lies beside LIGHT, as `phala up` makes it",
    )
    parser.add_argument(
        "--gpu-manifest",
        action="append",
        default=[],
        metavar="SHA256",
        help="of a manifest of NVIDIA's that the chain keeps; for driver and VBIOS",
    )
    parser.add_argument(
        "--launcher",
        default="",
        help="what starts the enclave in place of Python: 'gramine-sgx phala-sealed'",
    )
    parser.add_argument("--simulated-key", type=Path, help=f"default: {KEY_NAME} beside LIGHT")
    parser.add_argument("--runtime", type=Path, help="default: what set-up built")
    parser.add_argument("--engines", type=int, default=max(ENGINES_MIN, os.cpu_count() or 1))
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--tls-port", type=int, help="TLS that ends in the enclave; 0: any port")
    given = parser.parse_args()
    command = Command(
        folder=given.dir.absolute(),
        light=given.light.absolute(),
        simulated_key=_simulated_key(given.platform, given.simulated_key, given.light),
        runtime=given.runtime.absolute() if given.runtime else None,
        engines=given.engines,
        gpu_manifests=tuple(given.gpu_manifest),
        launcher=tuple(shlex.split(given.launcher)),
    )
    try:
        harden()
        uvloop.run(serve(command, given.host, given.port, given.tls_port))
    except PhalaError as error:
        log("cannot serve", error=type(error).__name__, what=error.what, mend=error.mend)
        return error.code if isinstance(error, EnclaveCannotStart) else error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
