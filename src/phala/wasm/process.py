"""One engine child as the pool sees it: its process, its pipe, and what it is known to know."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from phala.codec import Malformed
from phala.errors import Unavailable
from phala.wasm.frames import (
    FRAME,
    LENGTH_BYTES,
    Apply,
    Done,
    Drop,
    Gone,
    NeedSource,
    Ready,
    encoded,
    outcome_of,
    receive,
    run_of,
    send,
    size_of,
)
from phala.wasm.job import CodeId, ContractId, Job, Outcome
from phala.wasm.replica import Committed, parts
from phala.wasm.runtime_module import RuntimeModule

START_SECONDS: Final = 30
AT_ONCE_BYTES: Final = 64 << 10  # what the pipe of a child that waits takes without waiting itself
READ_BYTES: Final = 64 << 10  # from 128 KiB on, the allocator maps memory for each read

Answered = Callable[[Outcome | Exception], None]


class Child:
    """Used by one at a time: by a thread that waits, or by an event loop that does not."""

    def __init__(self, module: RuntimeModule) -> None:
        ours, theirs = socket.socketpair()
        self.pipe = ours
        self.codes: set[CodeId] = set()
        self.replicas: OrderedDict[ContractId, tuple[int, int]] = OrderedDict()  # version, bytes
        self._watching: asyncio.AbstractEventLoop | None = None
        self._asked: tuple[Job, Answered] | None = None
        self._got = bytearray()
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

    def knows(self, contract: ContractId, state: Committed | None) -> bool:
        """Whether its replica is the newest state."""
        version = self.replicas.get(contract, (None, 0))[0]
        return version == (None if state is None else state.version)

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

    # By a thread

    def run(self, job: Job) -> Outcome:
        """Raises `Unavailable` or TimeoutError; the child is then to be killed."""
        send(self.pipe, run_of(job, with_source=job.code_id not in self.codes))
        answer = receive(self.pipe)
        if isinstance(answer, NeedSource):
            send(self.pipe, run_of(job, with_source=True))
            answer = receive(self.pipe)
        return self._outcome_of(job, answer)

    def _outcome_of(self, job: Job, answer: object) -> Outcome:
        if not isinstance(answer, Done):
            raise Unavailable("an engine child answered nonsense", mend="ask again")
        self.codes.add(job.code_id)
        return outcome_of(answer)

    # By an event loop: threads that hand work to each other cost more than a query does

    def ask(self, loop: asyncio.AbstractEventLoop, job: Job, answered: Answered) -> bool:
        """Send the job and return; `answered` is called from the loop, once.

        False where nothing was sent: the frame is too large to go at once.

        Raises:
            OSError: the child is to be killed.
        """
        frame = encoded(run_of(job, with_source=job.code_id not in self.codes))
        if len(frame) > AT_ONCE_BYTES:
            return False
        self.pipe.settimeout(0)
        if self.pipe.send(frame) != len(frame):
            raise BlockingIOError("the pipe of a child that waits is full")
        self._asked = job, answered
        if self._watching is not loop:
            loop.add_reader(self.pipe.fileno(), self._readable, loop)
            self._watching = loop
        return True

    def _readable(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._asked is None or self._watching is not loop:
            # A thread has the child now, or another loop: they read themselves.
            loop.remove_reader(self.pipe.fileno())
            self._watching = None if self._watching is loop else self._watching
            return
        job, answered = self._asked
        try:
            self._got += self._read()
            if len(self._got) < size_of(self._got):
                return
            answer = FRAME.decode(bytes(self._got[LENGTH_BYTES:]))
            self._got.clear()
            if isinstance(answer, NeedSource):
                self.codes.discard(job.code_id)
                frame = encoded(run_of(job, with_source=True))
                self.pipe.settimeout(START_SECONDS)
                self.pipe.sendall(frame)
                return
            found: Outcome | Exception = self._outcome_of(job, answer)
        except (Unavailable, Malformed, OSError) as error:
            found = error
        self._asked = None
        answered(found)

    def _read(self) -> bytes:
        try:
            got = os.read(self.pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return b""
        if not got:
            raise Gone
        return got

    def kill(self) -> None:
        """From any thread. What was asked and not answered has failed."""
        self.process.kill()
        self.process.wait()
        asked, self._asked = self._asked, None
        loop, self._watching = self._watching, None
        with contextlib.suppress(RuntimeError):  # the loop is closed, and watches nothing
            if loop is not None:
                if asked is not None:
                    loop.call_soon_threadsafe(asked[1], Gone())
                loop.call_soon_threadsafe(self._close, loop)
                return
        self.pipe.close()

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        # Before it is closed: another socket may get its number.
        loop.remove_reader(self.pipe.fileno())
        self.pipe.close()
