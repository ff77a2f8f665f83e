"""Keeps an indexer beside the node: where one ends, another begins after a while.

The first is forked while the node has no threads, so that they share what is loaded. Those after it
are programs of their own: `python -m phala.node.indexing DIR`, with the socket as standard input.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from phala.node.engines.front import Builder
from phala.node.indexer import run as run_indexer
from phala.node.logs import log_as_json
from phala.node.service import Watched

LOG: Final = logging.getLogger("phala.node.indexer")
PAUSE_S_MIN: Final = 1.0  # before another begins; twice that after each that soon ended
PAUSE_S_MAX: Final = 60.0
STEADY_S: Final = 60.0  # it was at work so long: then the pause is short again


class Indexing:
    """The indexer's process, as the front has it."""

    def __init__(self, folder: Path, first: Builder) -> None:
        self._folder = folder
        self._first: Builder | None = first
        self._link = first.link
        self._process: subprocess.Popen[bytes] | None = None
        self.state = Watched(alive=True)

    async def run(self) -> None:
        """Begin it anew whenever it ends, until cancelled."""
        loop = asyncio.get_running_loop()
        pause_s = PAUSE_S_MIN
        while True:
            began = loop.time()
            self._link.setblocking(False)  # noqa: FBT003 - the socket's own signature
            with suppress(OSError):  # either way it is gone
                await loop.sock_recv(self._link, 1)
            self.state.alive = False
            if loop.time() - began > STEADY_S:
                pause_s = PAUSE_S_MIN
            LOG.warning("the indexer ended: %s; another in %.0f s", self._why(), pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
            self._begin()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "phala.node.indexing", str(self._folder)]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this program, and our own folder
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL
            )
        self._link, self._first = ours, None
        self.state.alive = True
        self.state.restarts += 1

    def _why(self) -> str:
        self._link.close()
        if self._first is not None:
            return self._first.why()
        assert self._process is not None
        code = self._process.wait()
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    def stop(self) -> None:
        """At once: what it has not entered, the next one does."""
        if not self.state.alive:
            return
        pid = self._process.pid if self._process is not None else None
        if self._first is not None:
            pid = self._first.pid
        assert pid is not None
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._why()


def main() -> None:
    """The program of one that is not the first."""
    log_as_json()
    link = socket.socket(fileno=os.dup(0))
    sys.exit(run_indexer(link, Path(sys.argv[1])))


if __name__ == "__main__":
    main()
