"""An engine child: one guest at a time, for a pool that may kill it at any instant.

It holds replicas of contracts' states in the clear, so it is as much inside as its parent: no core
dumps, no debugger, no life after the parent. It runs native code made of strangers' contracts, so
where the kernel can, it has no privileges, no network, no files or processes but its own.
"""

import contextlib
import resource
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Final

from phala.confine import ENGINE, Files, confine, die_with_parent, harden
from phala.wasm.call import State
from phala.wasm.engine import TICK_MS, Component, Engine
from phala.wasm.executor import Executor, UnknownCode
from phala.wasm.frames import (
    Apply,
    Drop,
    Gone,
    NeedSource,
    Ready,
    Run,
    done_of,
    job_of,
    receive,
    send,
)
from phala.wasm.job import ContractId

ADDRESSES_BYTES: Final = 128 << 30  # each instance reserves 4 GiB of addresses
DATA_BYTES: Final = 3 << 30  # what is really written: replicas, and a call's 128 MiB
PACKAGE: Final = Path(__file__).parents[1]
SYSTEM: Final = (Path("/usr/lib"), Path("/lib"), Path("/lib64"), Path("/etc/ld.so.cache"))
LINGER_MS: Final = 1_000  # the clock ticks on after a call, for starting it costs a switch


class Clock:
    """Ticks the engine's epoch while a query may run; sleeps otherwise."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.until = 0.0
        self.wanted = threading.Event()
        threading.Thread(target=self._tick, daemon=True, name="epoch").start()

    def watch(self, wall_ms: int) -> None:
        self.until = time.monotonic() + (wall_ms + LINGER_MS) / 1000
        if not self.wanted.is_set():
            self.wanted.set()

    def _tick(self) -> None:
        while True:
            self.wanted.wait()
            self.wanted.clear()
            last = time.monotonic()
            while last < self.until:
                time.sleep(TICK_MS / 1000)
                # Of a machine under load a sleep takes longer: what passed counts, not how often.
                for _ in range(int((time.monotonic() - last) * 1000 / TICK_MS)):
                    self.engine.tick()
                    last += TICK_MS / 1000


def limit(compiled: Path) -> None:
    """Before there is a thread: the kernel puts most of this on the one that asks for it."""
    die_with_parent()
    harden()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES_BYTES, ADDRESSES_BYTES))
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    python = {Path(sys.prefix), Path(sys.base_prefix), PACKAGE.parent}
    confine(Files(read=(*sorted(python), *SYSTEM, compiled.parent)), ENGINE)


def serve(pipe: socket.socket, executor: Executor) -> None:
    send(pipe, Ready())
    while True:
        match receive(pipe):
            case Apply(contract, anew, items):
                states = executor.states
                if anew or contract not in states:
                    states[ContractId(contract)] = State()
                states[ContractId(contract)].apply({item.key: item.value for item in items})
            case Drop(contract):
                executor.states.pop(ContractId(contract), None)
            case Run() as run:
                job = job_of(run)
                try:
                    send(pipe, done_of(executor.execute(job)))
                except UnknownCode:
                    send(pipe, NeedSource())
                    continue
                if not select.select([pipe], [], [], 0)[0]:
                    executor.prepare(job)
            case other:
                raise AssertionError(f"a pool does not send {type(other).__name__}")


def main() -> None:
    descriptor, compiled = int(sys.argv[1]), Path(sys.argv[2])
    limit(compiled)
    with socket.socket(fileno=descriptor) as pipe:
        engine = Engine()
        executor = Executor(Component(engine, compiled), Clock(engine).watch)
        with contextlib.suppress(Gone):
            serve(pipe, executor)


if __name__ == "__main__":
    main()
