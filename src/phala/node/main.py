"""The node's process: `python -m phala.node --dir DIR --spec SPEC`."""

import argparse
import asyncio
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import uvicorn
import uvloop

from phala.errors import PhalaError, Unavailable
from phala.node.chain import View
from phala.node.engines.builder import run as run_builder
from phala.node.engines.dev import Cheats, is_dev
from phala.node.engines.front import Builder, Front, start_builder
from phala.node.engines.opening import open_chain, runtimes_of, store_of
from phala.node.engines.solo import Solo
from phala.node.indexer import run as run_indexer
from phala.node.indexing import Indexing
from phala.node.journal import Journal
from phala.node.logs import log_as_json
from phala.node.rpc import system
from phala.node.rpc.scrape import Scrape
from phala.node.rpc.server import REQUEST_BYTES_MAX
from phala.node.rpc.sockets import CONNECTIONS_MAX, BoundedHttp, BoundedWebSocket
from phala.node.rpc.table import door_of
from phala.node.service import Node, now
from phala.node.store import Store
from phala.node.verifiers import Batches, Verifiers
from phala.runtime.runtime import own_metadata

LOG: Final = logging.getLogger("phala.node")
PORT: Final = 9944  # Substrate's
PORT_MAX: Final = 65_535
STOP_S_MAX: Final = 2  # for connections to end
RESUME_S_MAX: Final = 2.0  # of the journal, before the node says that it serves
BACKLOG: Final = 512
KEEP_ALIVE_S: Final = 75
CORES_SHARED: Final = 2  # with so few, front and builder have them, and handing over only costs
OWN_FILES_MAX: Final = 64  # beside connections
GC_THRESHOLDS: Final = (50_000, 20, 50)  # the usual 700 walk what waits in the pool all the time


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="phala.node", description="A node of a Phala chain.")
    parser.add_argument("--dir", type=Path, required=True, help="the node's own folder")
    parser.add_argument("--spec", type=Path, required=True, help="the chain's spec")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=port, default=PORT, help="0: any")
    parser.add_argument("--pruning", default="256", choices=("256", "archive"))
    parser.add_argument(
        "--metrics-port", type=port, help="metrics for a scraper on a port of their own; 0: any"
    )
    parser.add_argument("--metrics-host", default="127.0.0.1", help="where that port is")
    parser.add_argument(
        "--verifiers",
        type=int,
        choices=(0, 1),
        default=int(len(os.sched_getaffinity(0)) > CORES_SHARED),
        help="processes that verify signatures (default: 1 where there are cores to spare)",
    )
    return parser.parse_args()


def port(text: str) -> int:
    """Raises `ValueError`, which `argparse` tells as wrong usage."""
    found = int(text)
    if not 0 <= found <= PORT_MAX:
        raise ValueError(text)
    return found


def listen(host: str, port: int) -> socket.socket:
    """Raises `Unavailable` where the port is taken."""
    # With its protocol named, answers are sent at once (TCP_NODELAY), whatever the loop.
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
    except OSError as error:
        door.close()
        raise Unavailable(
            f"port {port} on {host}: {error.strerror}", mend="give another, or --port 0 for any"
        ) from None
    door.listen(BACKLOG)
    return door


def open_node(folder: Path, spec: Path, *, archive: bool) -> tuple[Node, Solo, system.Identity]:
    """A node in this one process, as tests and simulations have it."""
    runtimes = runtimes_of(folder)
    opened = open_chain(folder, spec, runtimes, archive=archive)
    node = Node(opened.chain, runtimes)
    solo = Solo(node, opened.keys)
    if is_dev(opened.chain, opened.chain_type):
        solo.cheats = Cheats(solo.author, now())
    return node, solo, system.Identity(opened.name, opened.chain_type)


def open_front(
    folder: Path, builder: Builder, verifiers: Verifiers, *, archive: bool
) -> tuple[Node, Front, system.Identity]:
    """What this process has of a node whose chain another one writes."""
    identity = system.Identity(*builder.wait_ready())
    chain = View(Store(store_of(folder), reader=True), archive=archive)
    node = Node(chain, runtimes_of(folder))
    node.runtimes.at(chain, chain.head.number)  # another release starts now, not when it is asked
    for link in verifiers.links:
        node.signatures = Batches(link)
    return node, Front(node, builder), identity


def allow_files(needed: int) -> None:
    """Raise this process's own limit of open files, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Server(uvicorn.Server):
    """Signals are ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    node: Node,
    front: Front,
    identity: system.Identity,
    journal: Journal,
    index: Indexing,
    door: socket.socket,
    metrics_door: socket.socket | None,
) -> None:
    """Answer, and follow the builder, until a signal."""
    app = door_of(node, identity)
    server = Server(
        uvicorn.Config(
            app,
            http=BoundedHttp,
            ws=BoundedWebSocket,
            ws_max_size=REQUEST_BYTES_MAX,
            ws_per_message_deflate=False,
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S_MAX,
        )
    )
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    serving = asyncio.create_task(server.serve([door]))
    following = asyncio.create_task(front.run())
    running = {following}
    assert app.metrics is not None
    if metrics_door is not None:
        running.add(asyncio.create_task(Scrape(app.metrics).run(metrics_door)))
    if node.signatures is not None:
        running.add(asyncio.create_task(node.signatures.run()))
    resuming = asyncio.create_task(journal.submit_again())
    node.indexer = index.state
    indexing = asyncio.create_task(index.run())
    # So that the first nonce that a client is told is after those that wait.
    await asyncio.wait({resuming}, timeout=RESUME_S_MAX)
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    ready = {
        "ready": True,
        "port": door.getsockname()[1],
        **({} if metrics_door is None else {"metricsPort": metrics_door.getsockname()[1]}),
        "genesis": "0x" + node.chain.genesis.hex(),
        "head": node.chain.head.number,
    }
    print(json.dumps(ready), flush=True)  # noqa: T201 - the line that says it serves
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping} | running, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    for task in (*running, resuming, indexing):
        task.cancel()
    await asyncio.wait(running | {resuming, indexing})
    journal.close()
    await front.stop()
    for task in running:
        if not task.cancelled():
            task.result()  # what ended it, when not we


def main() -> None:
    chosen = arguments()
    log_as_json()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    allow_files(CONNECTIONS_MAX + OWN_FILES_MAX)
    try:
        door = listen(chosen.host, chosen.port)
        wanted = chosen.metrics_port is not None
        metrics = listen(chosen.metrics_host, chosen.metrics_port) if wanted else None
        doors = [door, metrics] if metrics is not None else [door]
        archive = chosen.pruning == "archive"
        building = partial(run_builder, folder=chosen.dir, spec=chosen.spec, archive=archive)
        own_metadata()  # all these processes need it
        verifiers = Verifiers.start(chosen.verifiers, closing=doors)
        indexing = partial(run_indexer, folder=chosen.dir)
        # Nobody waits for it: this process goes on without it, and begins another.
        indexer = start_builder(indexing, closing=[*doors, *verifiers.links])
        index = Indexing(chosen.dir, indexer)
        builder = start_builder(building, closing=[*doors, *verifiers.links, indexer.link])
        opened = open_front(chosen.dir, builder, verifiers, archive=archive)
        journal = Journal(chosen.dir / "pending", opened[0])
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not walk it
        gc.set_threshold(*GC_THRESHOLDS)
        try:
            uvloop.run(serve(*opened, journal, index, door, metrics))
        finally:
            index.stop()
    except PhalaError as error:
        LOG.error("%s", error)  # noqa: TRY400 - the mend is in it, a trace is not needed
        sys.exit(error.exit_code)
    finally:
        LOG.info("stopped")
