"""Processes that verify signatures, in batches: beside an event loop, or beside an importer.

A batch is one message each way. What it costs to hand over is small beside the checks from some
eight of them on; fewer are verified where they are.
"""

import asyncio
import os
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final

from phala.errors import PhalaError, Unavailable
from phala.runtime import InvalidTransaction, Problem, SignatureCheck, verify_signature
from phala.runtime.validity import verify_all

BATCH_MAX: Final = 128  # some 10 ms: others' checks wait so long at most
FIRST, MANY = 32, 1_024  # an importer's batches: a block has some seventy of them at most
OWN: Final = 8  # of so many checks the importer leaves one to itself, where one other process is:
# done with all else it would wait for that one
BETWEEN: Final = 16  # are verified, then it is looked for more: a millisecond
READ_BYTES: Final = 1 << 18
HERE_MAX: Final = 4  # at once on an event loop: less than a millisecond
_CHECK: Final = struct.Struct("<BBBI")  # bytes of the account, scheme, bytes of the signature, of
# the message
_SIZE: Final = struct.Struct("<I")


class VerifierGone(Unavailable):
    """A process that verifies is no more."""

    def __init__(self) -> None:
        super().__init__("a process that verifies signatures ended", mend="start the node again")


def encode_checks(checks: Sequence[SignatureCheck]) -> bytes:
    parts = [b""]
    for each in checks:
        sizes = len(each.account), each.scheme, len(each.signature), len(each.message)
        parts += (_CHECK.pack(*sizes), each.account, each.signature, each.message)
    body = b"".join(parts)
    return _SIZE.pack(len(body)) + body


def decode_checks(body: bytes) -> list[SignatureCheck]:
    out, at = [], 0
    while at < len(body):
        account, scheme, signature, message = _CHECK.unpack_from(body, at)
        first = at + _CHECK.size
        second = first + account
        third = second + signature
        at = third + message
        out.append(SignatureCheck(body[first:second], scheme, body[second:third], body[third:at]))
    return out


def is_good(check: SignatureCheck) -> bool:
    try:
        verify_signature(check)
    except InvalidTransaction:
        return False
    return True


def bad_signature() -> InvalidTransaction:
    return InvalidTransaction(Problem.BAD_PROOF, mend="sign for this chain and these versions")


def _read(link: socket.socket, size: int) -> bytes:
    """Shorter where the other end is gone."""
    out = bytearray()
    while len(out) < size:
        try:
            data = link.recv(size - len(out))
        except ConnectionResetError:
            break
        if not data:
            break
        out += data
    return bytes(out)


def serve(link: socket.socket) -> None:
    """Verify until the other end is gone: a byte for each check, all of them once none waits.

    What comes meanwhile is taken in at once, so that whoever sends need not wait.
    """
    data, waiting, answer = bytearray(), deque[SignatureCheck](), bytearray()
    try:
        while True:
            if answer and not waiting:
                link.sendall(answer)
                answer.clear()
            try:
                more = link.recv(READ_BYTES, socket.MSG_DONTWAIT if waiting else 0)
            except BlockingIOError:
                pass
            else:
                if not more:
                    return
                data += more
                waiting.extend(_taken(data))
            for _ in range(min(len(waiting), BETWEEN)):
                answer.append(is_good(waiting.popleft()))
    except OSError:
        return


def _taken(data: bytearray) -> Iterator[SignatureCheck]:
    """The checks of the batches that are whole, which `data` loses."""
    at = 0
    while at + _SIZE.size <= len(data):
        (size,) = _SIZE.unpack_from(data, at)
        end = at + _SIZE.size + size
        if end > len(data):
            break
        yield from decode_checks(bytes(data[at + _SIZE.size : end]))
        at = end
    del data[:at]


def _send(link: socket.socket, checks: Sequence[SignatureCheck]) -> None:
    try:
        link.sendall(encode_checks(checks))
    except OSError:
        raise VerifierGone from None


def _answers(asked: Sequence[tuple[socket.socket, int]]) -> bool:
    """Wait for so many from each; whether all are good. Raises `VerifierGone`."""
    good = True
    for link, count in asked:
        answer = _read(link, count)
        if len(answer) < count:
            raise VerifierGone
        good = good and all(answer)
    return good


class Verifiers:
    """Some processes that verify. They end when whoever started them does."""

    def __init__(self, links: Sequence[socket.socket], pids: Sequence[int]) -> None:
        self.links = links
        self.pids = pids

    @classmethod
    def start(cls, count: int, *, closing: Sequence[socket.socket] = ()) -> "Verifiers":
        """Fork them, before this process has threads, a loop or a store open.

        `closing` are sockets of this process alone: the others would keep them open.
        """
        links: list[socket.socket] = []
        pids = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                try:
                    for each in (ours, *links, *closing):
                        each.close()
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    serve(theirs)
                finally:
                    os._exit(0)
            theirs.close()
            links.append(ours)
            pids.append(pid)
        return cls(links, pids)

    def check(self, checks: Iterable[SignatureCheck]) -> Callable[[], None]:
        """Begin to verify, in the other processes where it is worth it: `CheckSignatures`.

        Batches begin small, so that others begin early, and grow, so that they are few.

        What it returns must be called, once. It raises:
            InvalidTransaction: one is bad.
            VerifierGone: another process died.
        """
        coming = iter(checks)
        some = list(islice(coming, HERE_MAX + 1))
        if len(some) <= HERE_MAX or not self.links:
            return verify_all(chain(some, coming))
        asked: list[tuple[socket.socket, int]] = []
        own: list[SignatureCheck] = []
        size = FIRST
        try:
            some += islice(coming, size - len(some))
            while some:
                if len(self.links) == 1:
                    own += some[OWN - 1 :: OWN]
                    del some[OWN - 1 :: OWN]
                link = self.links[len(asked) % len(self.links)]
                _send(link, some)
                asked.append((link, len(some)))
                size = min(2 * size, MANY)
                some = list(islice(coming, size))
        except PhalaError:
            _answers(asked)  # they belong to no later question
            raise

        def ensure_good() -> None:
            good = all(map(is_good, own))
            if not (_answers(asked) and good):
                raise bad_signature()

        return ensure_good

    def close(self) -> None:
        """End them, and wait for it."""
        for link in self.links:
            link.close()
        for pid in self.pids:
            os.waitpid(pid, 0)


Done = Callable[[bool], None]


class Batches:
    """What an event loop has of one verifier: checks gather while it is at work."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._waiting: list[tuple[SignatureCheck, Done]] = []
        self._asked: list[Done] = []
        self._writer: asyncio.StreamWriter | None = None
        self._planned = False
        self._turn = False  # one was verified on the spot in this turn of the loop

    def here(self) -> bool:
        """Whether to verify one more on the spot: the first of a turn, while nothing waits."""
        if self._turn or self._waiting or self._asked:
            return False
        self._turn = True
        asyncio.get_running_loop().call_soon(self._next_turn)
        return True

    def _next_turn(self) -> None:
        self._turn = False

    def check(self, check: SignatureCheck, done: Done) -> None:
        """Call `done` with whether the signature is good: soon, never at once."""
        self._waiting.append((check, done))
        if not self._planned and not self._asked:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """All that came in one turn of the loop: few are verified here, more elsewhere."""
        self._planned = False
        if len(self._waiting) <= HERE_MAX or self._writer is None:
            some, self._waiting = self._waiting[:HERE_MAX], self._waiting[HERE_MAX:]
            for check, done in some:
                done(is_good(check))
            if self._waiting:
                self._planned = True
                asyncio.get_running_loop().call_soon(self._flush)
            return
        some, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
        self._asked = [done for _, done in some]
        self._writer.write(encode_checks([check for check, _ in some]))

    async def run(self) -> None:
        """Take answers until cancelled. Raises `VerifierGone`."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._link)
        try:
            while True:
                # As many as were asked about; one at least, which comes with the rest.
                answer = await reader.readexactly(1)
                answer += await reader.readexactly(len(self._asked) - 1)
                asked, self._asked = self._asked, []
                for done, good in zip(asked, answer, strict=True):
                    done(bool(good))
                if self._waiting:
                    self._flush()
        except (asyncio.IncompleteReadError, ConnectionResetError):
            raise VerifierGone from None
        finally:
            self._writer.close()
            self._writer = None
