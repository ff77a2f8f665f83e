"""The pool of engine children, and the replicas of contracts' states that it keeps in them.

Queries run on the newest state that was handed in, in whatever child is free; a command's changes
come back in its outcome, and count once `apply_changes` says so. A child that dies takes nothing
with it: a query then fails, a command runs again, for its outcome depends on no child.
"""

import asyncio
import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, Self

from phala.codec import Malformed
from phala.errors import Invalid, Unavailable
from phala.wasm.frames import (
    LOAD_BYTES,
    Apply,
    Done,
    Drop,
    Item,
    NeedSource,
    Ready,
    outcome_of,
    receive,
    run_of,
    send,
)
from phala.wasm.job import (
    QUERY_LIMITS,
    REQUEST_BYTES_MAX,
    SOURCE_BYTES_MAX,
    BlockInfo,
    CodeId,
    ContractId,
    Job,
    Outcome,
)
from phala.wasm.runtime_module import RuntimeModule, ensure_compiled, load_runtime

REPLICA_BYTES_MAX: Final = 512 << 20  # of all states in one child
CHANGES_KEPT: Final = 64  # of a contract, to bring a replica up to date without sending it whole
START_SECONDS: Final = 30
GRACE_SECONDS: Final = 5  # beyond a query's own limit, for a machine under load
COMMAND_SECONDS: Final = 300  # a child silent for so long is stuck: the command runs again
COMMAND_TRIES: Final = 3


class Committed:
    """A contract's state as last handed in."""

    def __init__(self, items: Mapping[bytes, bytes], version: int, at: object = None) -> None:
        self.at = at
        self.items = dict(items)
        self.version = version
        self.size_bytes = sum(len(key) + len(value) for key, value in items.items())
        self.recent: deque[Mapping[bytes, bytes | None]] = deque(maxlen=CHANGES_KEPT)

    def apply(self, changes: Mapping[bytes, bytes | None], at: object = None) -> None:
        self.at = at
        for key, value in changes.items():
            old = self.items.pop(key, None)
            self.size_bytes -= 0 if old is None else len(key) + len(old)
            if value is not None:
                self.items[key] = value
                self.size_bytes += len(key) + len(value)
        self.version += 1
        self.recent.append(dict(changes))

    def since(self, version: int | None) -> Iterator[Mapping[bytes, Any]]:
        """The changes after `version`, oldest first; everything where they are forgotten."""
        behind = self.version - version if version is not None else None
        if behind is None or not 0 <= behind <= len(self.recent):
            yield self.items
        elif behind:
            yield from list(self.recent)[-behind:]


class Child:
    """One process, and what the pool knows that it knows."""

    def __init__(self, module: RuntimeModule) -> None:
        ours, theirs = socket.socketpair()
        self.pipe = ours
        self.codes: set[CodeId] = set()
        self.replicas: OrderedDict[ContractId, tuple[int, int]] = OrderedDict()  # version, bytes
        kept = ("PATH", "PYTHONPATH", "LANG", "LC_ALL")
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-m", "phala.wasm.child", str(theirs.fileno()),
                 str(module.compiled)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the parent's own may be a pipe with a protocol
                env={name: os.environ[name] for name in kept if name in os.environ},
            )  # fmt: skip
        try:
            ours.settimeout(START_SECONDS)
            if not isinstance(receive(ours), Ready):
                raise Unavailable(  # noqa: TRY301
                    "an engine child did not come up", mend="see what it printed"
                )
        except BaseException:
            self.kill()
            raise

    def replicate(self, contract: ContractId, state: Committed, bytes_max: int) -> None:
        version = self.replicas.pop(contract, (None, 0))[0]
        for changes in state.since(version):
            anew = changes is state.items
            for part in parts(changes):
                send(self.pipe, Apply(contract, anew, part))
                anew = False
        held = sum(size for _, size in self.replicas.values())
        while self.replicas and held + state.size_bytes > bytes_max:
            oldest, (_, size_bytes) = self.replicas.popitem(last=False)
            send(self.pipe, Drop(oldest))
            held -= size_bytes
        self.replicas[contract] = (state.version, state.size_bytes)

    def forget(self, contract: ContractId) -> None:
        if self.replicas.pop(contract, None):
            send(self.pipe, Drop(contract))

    def run(self, job: Job) -> Outcome:
        """Raises `Unavailable` or TimeoutError; the child is then to be killed."""
        send(self.pipe, run_of(job, with_source=job.code_id not in self.codes))
        answer = receive(self.pipe)
        if isinstance(answer, NeedSource):
            send(self.pipe, run_of(job, with_source=True))
            answer = receive(self.pipe)
        if not isinstance(answer, Done):
            raise Unavailable("an engine child answered nonsense", mend="ask again")
        self.codes.add(job.code_id)
        return outcome_of(answer)

    def kill(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.wait()


class EnginePool:
    """Runs jobs. Thread-safe. `close` it."""

    def __init__(
        self,
        module: RuntimeModule | None = None,
        *,
        children: int | None = None,
        replica_bytes_max: int = REPLICA_BYTES_MAX,
    ) -> None:
        self.module = module or load_runtime()
        ensure_compiled(self.module)
        self.size = children or os.cpu_count() or 1
        self._replica_bytes_max = replica_bytes_max
        self._states: dict[ContractId, Committed] = {}
        self._lock = threading.Lock()
        self._closed = False
        # A child dies with the thread that started it, so one thread starts them all.
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="engine-spawn")
        self._threads = ThreadPoolExecutor(self.size, thread_name_prefix="engine")
        self._idle: queue.LifoQueue[Child | None] = queue.LifoQueue()
        self.children: set[Child] = set()
        for _ in range(self.size):
            self._idle.put(None)  # started when first needed

    # State

    def set_state(
        self, contract: ContractId, items: Mapping[bytes, bytes], at: object = None
    ) -> None:
        """The contract's whole state, as its next calls see it; `Outcome.at` tells them `at`."""
        with self._lock:
            old = self._states.get(contract)
            # Far enough ahead that no replica of the old state is taken for a little behind.
            version = old.version + CHANGES_KEPT + 1 if old else 0
            self._states[contract] = Committed(items, version, at)

    def apply_changes(
        self, contract: ContractId, changes: Mapping[bytes, bytes | None], at: object = None
    ) -> None:
        """What a command changed, once it is committed."""
        with self._lock:
            self._states.setdefault(contract, Committed({}, 0)).apply(changes, at)

    def drop_state(self, contract: ContractId) -> None:
        with self._lock:
            old = self._states.pop(contract, None)
            if old:
                self._states[contract] = Committed({}, old.version + CHANGES_KEPT + 1)

    # Calls

    def run_command(self, job: Job) -> Outcome:
        """Runs to its end, in another child where one dies. Blocks.

        Raises:
            Invalid: the job is larger than any may be.
            Unavailable: child after child died; nothing was decided.
        """
        ensure_fits(job)
        for _ in range(COMMAND_TRIES):
            with contextlib.suppress(Unavailable):
                return self._run(job, COMMAND_SECONDS)
        raise Unavailable(
            f"{COMMAND_TRIES} engine children died of one command",
            mend="see why, for instance whether memory is short, then run it again",
        )

    def run_query_blocking(self, job: Job) -> Outcome:
        """Raises `Invalid`, `Unavailable`: the child died, or was too late."""
        ensure_fits(job)
        wall_ms = job.limits.wall_ms
        outcome = self._run(job, GRACE_SECONDS + (wall_ms or COMMAND_SECONDS * 1000) / 1000)
        assert not outcome.changes, "a query changes nothing"
        return outcome

    async def run_query(self, job: Job) -> Outcome:
        """As `run_query_blocking`, for an event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.run_query_blocking, job)

    def describe(self, code_id: CodeId, source: bytes) -> Outcome:
        """The contract's interface as JSON, or why its source does not load."""
        return self.run_query_blocking(
            Job(
                kind="describe",
                contract=ContractId(bytes(32)),
                code_id=code_id,
                source=source,
                request=b"{}",
                caller=None,
                block=BlockInfo(0, 0, bytes(32)),
                limits=QUERY_LIMITS,
            )
        )

    def _run(self, job: Job, seconds: float) -> Outcome:
        child = self._idle.get()
        try:
            if child is None:
                child = self._start()
            child.pipe.settimeout(seconds)
            with self._lock:
                state = self._states.get(job.contract)
                if state is not None:
                    child.replicate(job.contract, state, self._replica_bytes_max)
                else:
                    child.forget(job.contract)
                at = state.at if state else None
            return replace(child.run(job), at=at)
        except (Unavailable, Malformed, OSError) as error:  # TimeoutError is an OSError
            if child is not None:
                self._end(child)
                child = None
            raise Unavailable(f"an engine child ended: {error!r}", mend="ask again") from None
        except BaseException:
            # Half an answer may be in the pipe.
            if child is not None:
                self._end(child)
                child = None
            raise
        finally:
            self._idle.put(child)

    def _start(self) -> Child:
        if self._closed:
            raise Unavailable("the engine is closed", mend="start it anew")
        child = self._spawner.submit(Child, self.module).result()
        with self._lock:
            self.children.add(child)
        return child

    def _end(self, child: Child) -> None:
        child.kill()
        with self._lock:
            self.children.discard(child)

    def start(self) -> None:
        """Start every child now, so that the first calls need not wait for it."""
        held = [self._idle.get() for _ in range(self.size)]
        for child in held:
            self._idle.put(child or self._start())

    def close(self) -> None:
        """End the children; what runs fails with `Unavailable`."""
        self._closed = True
        with self._lock:
            children = list(self.children)
            self.children.clear()
        for child in children:
            with contextlib.suppress(OSError):
                child.pipe.shutdown(socket.SHUT_RDWR)
            child.kill()
        self._threads.shutdown()
        self._spawner.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ensure_fits(job: Job) -> None:
    for name, data, bytes_max in (
        ("request", job.request, REQUEST_BYTES_MAX),
        ("source", job.source, SOURCE_BYTES_MAX),
    ):
        if len(data) > bytes_max:
            raise Invalid(
                f"a {name} of {len(data)} bytes, at most {bytes_max} are allowed",
                mend=f"make the {name} smaller",
            )


def parts(changes: Mapping[bytes, bytes | None]) -> Iterator[tuple[Item, ...]]:
    """In frames of about `LOAD_BYTES`; at least one, which may be empty."""
    part: list[Item] = []
    size_bytes = 0
    for key, value in changes.items():
        part.append(Item(key, value))
        size_bytes += len(key) + len(value or b"")
        if size_bytes > LOAD_BYTES:
            yield tuple(part)
            part, size_bytes = [], 0
    yield tuple(part)
