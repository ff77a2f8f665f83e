"""The pool of engine children, and the replicas of contracts' states that it keeps in them.

Queries run on the newest state that was handed in, in whatever child is free; a command's changes
come back in its outcome, and count once `apply_changes` says so. A child that dies takes nothing
with it: a query then fails, a command runs again, for its outcome depends on no child.
"""

import asyncio
import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Self

from phala.codec import Malformed
from phala.errors import Invalid, Unavailable
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
from phala.wasm.process import Child
from phala.wasm.replica import CHANGES_KEPT, Committed
from phala.wasm.runtime_module import RuntimeModule, ensure_compiled, load_runtime

REPLICA_BYTES_MAX: Final = 512 << 20  # of all states in one child
GRACE_SECONDS: Final = 5  # beyond a query's own limit, for a machine under load
COMMAND_SECONDS: Final = 300  # a child silent for so long is stuck: the command runs again
COMMAND_TRIES: Final = 3


Use = Callable[[Child | None], bool]  # False: whoever waited has gone, the next may have it


class Line:
    """Children that have nothing to do, or else those who wait for one, first come first served.

    None stands for a child that is yet to be started.
    """

    def __init__(self, size: int) -> None:
        self._idle: list[Child | None] = [None] * size
        self._waiting: deque[Use] = deque()
        self._lock = threading.Lock()

    def when_free(self, use: Use) -> None:
        """Call `use` with a child: now, or from whatever thread gives one back."""
        with self._lock:
            if not self._idle:
                self._waiting.append(use)
                return
            child = self._idle.pop()
        if not use(child):
            self.give(child)

    def take(self) -> Child | None:
        """Wait for a child."""
        found: Future[Child | None] = Future()

        def use(child: Child | None) -> bool:
            found.set_result(child)
            return True

        self.when_free(use)
        return found.result()

    def give(self, child: Child | None) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._idle.append(child)
                    return
                use = self._waiting.popleft()
            if use(child):
                return


class Asking:
    """A query of an event loop, from its place in the line to its outcome."""

    def __init__(self, pool: "EnginePool", job: Job) -> None:
        self.job = job
        self.loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[Outcome] = self.loop.create_future()
        self._pool = pool
        self._thread = threading.get_ident()
        self._at: object = None
        self._child: Child | None = None
        self._late: asyncio.TimerHandle | None = None

    def use(self, child: Child | None) -> bool:
        """A child is free. From any thread."""
        if threading.get_ident() == self._thread:
            return self._use(child)
        try:
            self.loop.call_soon_threadsafe(self._use_or_give, child)
        except RuntimeError:  # the loop has ended meanwhile
            return False
        return True

    def _use_or_give(self, child: Child | None) -> None:
        if not self._use(child):
            self._pool.line.give(child)

    def _use(self, child: Child | None) -> bool:
        if self.outcome.done():
            return False
        if self._pool.closed:
            self._fail(Unavailable("the engine is closed", mend="start it anew"))
            return False
        state = self._pool.state_of(self.job.contract)
        self._at = state.at if state else None
        asked = False
        if child is not None and child.knows(self.job.contract, state):
            try:
                asked = child.ask(self.loop, self.job, self._answered)
            except OSError as error:
                self._pool.end(child)
                self._pool.line.give(None)
                self._fail(error)
                return True
        if asked:
            self._child = child
            self._late = self.loop.call_later(seconds_of(self.job), self._too_late)
        else:
            self.loop.run_in_executor(self._pool.threads, self._run, child)
        return True

    def _answered(self, found: Outcome | Exception) -> None:
        child, self._child = self._child, None
        if child is None:  # too late
            return
        assert self._late is not None, "it was asked"
        self._late.cancel()
        if isinstance(found, Outcome):
            self._pool.line.give(child)
            if not self.outcome.done():
                self.outcome.set_result(replace(found, at=self._at))
        else:
            self._pool.end(child)
            self._pool.line.give(None)
            self._fail(found)

    def _too_late(self) -> None:
        child, self._child = self._child, None
        assert child is not None, "it has not answered"
        self._pool.end(child)
        self._pool.line.give(None)
        self._fail(TimeoutError("the child is late"))

    def _fail(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(child_ended(error))

    def _run(self, child: Child | None) -> None:
        """In a thread: there is more to send than goes at once, or a child to start."""
        result: Outcome | None = None
        failure: Exception | None = None
        try:
            result = self._pool.run_in(child, self.job, seconds_of(self.job))
        except Exception as error:  # noqa: BLE001 - it is raised where the outcome is waited for
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self.loop.call_soon_threadsafe(self._ran, result, failure)

    def _ran(self, result: Outcome | None, failure: Exception | None) -> None:
        if self.outcome.done():
            return
        if failure is not None:
            self.outcome.set_exception(failure)
        elif result is not None:
            self.outcome.set_result(result)


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
        self.closed = False
        # A child dies with the thread that started it, so one thread starts them all.
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="engine-spawn")
        self.threads = ThreadPoolExecutor(self.size, thread_name_prefix="engine")
        self.line = Line(self.size)  # children are started when first needed
        self.children: set[Child] = set()

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
        outcome = self._run(job, seconds_of(job))
        assert not outcome.changes, "a query changes nothing"
        return outcome

    async def run_query(self, job: Job) -> Outcome:
        """As `run_query_blocking`, for an event loop."""
        ensure_fits(job)
        asking = Asking(self, job)
        self.line.when_free(asking.use)
        return await asking.outcome

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
        return self.run_in(self.line.take(), job, seconds)

    def run_in(self, child: Child | None, job: Job, seconds: float) -> Outcome:
        """Run in this child, and put it back into the line."""
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
                self.end(child)
                child = None
            raise child_ended(error) from None
        except BaseException:
            # Half an answer may be in the pipe.
            if child is not None:
                self.end(child)
                child = None
            raise
        finally:
            self.line.give(child)

    def state_of(self, contract: ContractId) -> Committed | None:
        with self._lock:
            return self._states.get(contract)

    def _start(self) -> Child:
        if self.closed:
            raise Unavailable("the engine is closed", mend="start it anew")
        child = self._spawner.submit(Child, self.module).result()
        with self._lock:
            self.children.add(child)
        return child

    def end(self, child: Child) -> None:
        child.kill()
        with self._lock:
            self.children.discard(child)

    def start(self) -> None:
        """Start every child now, so that the first calls need not wait for it."""
        held = [self.line.take() for _ in range(self.size)]
        for child in held:
            self.line.give(child or self._start())

    def close(self) -> None:
        """End the children; what runs fails with `Unavailable`."""
        self.closed = True
        with self._lock:
            children = list(self.children)
            self.children.clear()
        for child in children:
            with contextlib.suppress(OSError):
                child.pipe.shutdown(socket.SHUT_RDWR)
            child.kill()
        self.threads.shutdown()
        self._spawner.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def seconds_of(query: Job) -> float:
    """How long a query may take before its child counts as stuck."""
    wall_ms = query.limits.wall_ms
    return GRACE_SECONDS + (COMMAND_SECONDS if wall_ms is None else wall_ms / 1000)


def child_ended(error: Exception) -> Unavailable:
    return Unavailable(f"an engine child ended: {error!r}", mend="ask again")


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
