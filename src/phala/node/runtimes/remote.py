"""Another release's runtime: its own sources in a process of its own, asked over a pipe."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final

from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.finality import AUTHORITIES
from phala.frame import DISPATCH_ERROR
from phala.node.blobs import decode_changes, decode_list
from phala.node.runtimes.wire import (
    ERROR,
    GET,
    KEYS,
    KEYS_PAGE,
    OK,
    PROTOCOL,
    ROOT,
    Ended,
    number,
    receive,
    send,
)
from phala.primitives.header import DIGEST_ITEM, HEADER, DigestItem, Header
from phala.primitives.types import BlockNumber, Hash, Moment
from phala.runtime import (
    Applied,
    BlockRefused,
    CheckSignatures,
    Decoded,
    InvalidTransaction,
    Manifest,
    Problem,
    QueuedMessage,
    RuntimeVersion,
    Sealed,
    SignatureCheck,
    Source,
    StateRootOf,
    ValidTransaction,
)
from phala.runtime.version import RUNTIME_VERSION
from phala.trie import State

STOP_S_MAX: Final = 2.0


class HostFailed(Unavailable):
    """The process of another release ended, or met an error of its own."""

    def __init__(self, what: str) -> None:
        super().__init__(what, mend="see the node's log; start the node again")


class Process:
    """The host of one release, started when it is first asked."""

    def __init__(self, sources: Path) -> None:
        """`sources` holds that release's `phala`."""
        self._sources = sources
        self._running: subprocess.Popen[bytes] | None = None

    def ask(
        self, state: State | None, root_of: StateRootOf | None, *parts: bytes
    ) -> tuple[bytes, ...]:
        """One question; meanwhile the host reads of `state`.

        Raises:
            PhalaError: what the runtime raised.
            HostFailed: the process is gone. The next question starts another.
        """
        process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        source: BinaryIO = process.stdout  # type: ignore[assignment] # buffered, and binary
        out: BinaryIO = process.stdin  # type: ignore[assignment]
        try:
            send(out, *parts)
            while True:
                word, *answer = receive(source)
                if word == OK:
                    return tuple(answer)
                if word == ERROR:
                    raise _raised(*answer)
                send(out, *_asked_back(state, root_of, word, answer))
        except Ended:
            self.close()
            raise HostFailed(f"the runtime in {self._sources.name} ended") from None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._running is None or self._running.poll() is not None:
            environment = {**os.environ, "PYTHONPATH": str(self._sources)}
            self._running = subprocess.Popen(
                [sys.executable, "-m", "phala.node.runtimes.host"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                cwd=self._sources, env=environment,
            )  # fmt: skip
        return self._running

    def close(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        for pipe in (running.stdin, running.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was not sent is for nobody
        try:
            running.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _asked_back(
    state: State | None, root_of: StateRootOf | None, word: bytes, asked: Sequence[bytes]
) -> tuple[bytes, ...]:
    assert state is not None, "this question is about no state"
    if word == GET:
        found = state.get(asked[0])
        return () if found is None else (found,)
    if word == KEYS:
        prefix, after = asked
        page: list[bytes] = []
        for key in state.keys(prefix):
            if key > after or not after:
                page.append(key)
            if len(page) == KEYS_PAGE:
                break
        return tuple(page)
    assert word == ROOT, f"the host asks for {word!r}"
    assert root_of is not None
    return (root_of(decode_changes(asked[0])),)


def _raised(kind: bytes, what: bytes, mend: bytes, problem: bytes, custom: bytes) -> PhalaError:
    said, order = what.decode(errors="replace"), mend.decode(errors="replace")
    if kind == b"transaction":
        found = Problem[problem.decode()]
        return InvalidTransaction(
            found,
            mend=order,
            custom=custom[0] if found is Problem.CUSTOM else 0,
            why=said.partition(" (")[2].removesuffix(")"),
            malformed=found is not Problem.CUSTOM and custom[0] != 0,
        )
    families: dict[bytes, Callable[..., PhalaError]] = {
        b"block": BlockRefused,
        b"invalid": Invalid,
        b"refused": Refused,
        b"unavailable": Unavailable,
    }
    if kind in families:
        return families[kind](said, mend=order)
    return HostFailed(said)


@dataclass(slots=True)
class RemoteBuilder:
    """A block being made by another release; as `BlockBuilder`."""

    process: Process
    state: State
    number: BlockNumber
    count: int = 0

    def __len__(self) -> int:
        return self.count

    def inherents(self, clock: Moment) -> list[bytes]:
        return list(self.process.ask(self.state, None, b"inherents", number(clock, 8)))

    def apply(
        self, extrinsic: bytes, *, check_signature: bool = True, decoded: Decoded | None = None
    ) -> Applied:
        del decoded  # by our tables: the other release has its own
        flag = bytes([check_signature])
        index, error = self.process.ask(self.state, None, b"apply", flag, extrinsic)
        self.count += 1
        return Applied(
            int.from_bytes(index, "little"), DISPATCH_ERROR.decode(error) if error else None
        )

    def seal(self, state_root_of: StateRootOf) -> Sealed:
        return _sealed(*self.process.ask(self.state, state_root_of, b"seal"))


@dataclass(frozen=True, slots=True)
class RemoteValidator:
    """Judges transactions by another release; as `Validator`."""

    process: Process
    state: State
    parent: Header

    def _ask(self, *parts: bytes) -> tuple[bytes, ...]:
        # The process is shared: each question says anew which block it is about.
        self.process.ask(self.state, None, b"validator", HEADER.encode(self.parent))
        return self.process.ask(self.state, None, *parts)

    def validate(
        self,
        extrinsic: bytes,
        source: Source = Source.EXTERNAL,
        *,
        check_signature: bool = True,
        decoded: Decoded | None = None,
    ) -> ValidTransaction:
        del decoded
        flag = bytes([check_signature])
        found = self._ask(b"validate", bytes([source.value]), flag, extrinsic)
        priority, longevity, propagate, requires, provides = found
        return ValidTransaction(
            int.from_bytes(priority, "little"),
            decode_list(requires),
            decode_list(provides),
            int.from_bytes(longevity, "little"),
            propagate != b"\0",
        )

    def signature_check(self, extrinsic: bytes) -> SignatureCheck | None:
        found = self._ask(b"signature", extrinsic)
        if not found:
            return None
        account, scheme, signature, message = found
        return SignatureCheck(account, scheme[0], signature, message)


class RemoteRuntime:
    """One version of the chain's rules, as `Runtime` answers for them."""

    def __init__(self, sources: Path) -> None:
        self._process = Process(sources)

    @cached_property
    def _hello(self) -> tuple[RuntimeVersion, Manifest]:
        protocol, version, manifest = self._process.ask(None, None, b"hello")
        if protocol != PROTOCOL:
            raise HostFailed(f"the runtime speaks protocol {protocol!r}, this node {PROTOCOL!r}")
        return RUNTIME_VERSION.decode(version), Manifest.decode(manifest)

    @property
    def version(self) -> RuntimeVersion:
        return self._hello[0]

    @property
    def manifest(self) -> Manifest:
        return self._hello[1]

    @cached_property
    def _metadata(self) -> dict[int, bytes]:
        return {}

    def metadata(self, version: int) -> bytes:
        if version not in self._metadata:
            asked = bytes([min(max(version, 0), 255)])
            (self._metadata[version],) = self._process.ask(None, None, b"metadata", asked)
        return self._metadata[version]

    def call(self, state: State, block_hash: Hash, method: str, data: bytes) -> bytes:
        name = method.encode(errors="replace")
        (answer,) = self._process.ask(state, None, b"call", block_hash, name, data)
        return answer

    def execute(
        self,
        state: State,
        parent: Header,
        header: Header,
        body: Sequence[bytes],
        state_root_of: StateRootOf,
        *,
        check_signatures: CheckSignatures | None = None,
    ) -> Sealed:
        del check_signatures  # the host's own
        front = (HEADER.encode(parent), HEADER.encode(header))
        return _sealed(*self._process.ask(state, state_root_of, b"execute", *front, *body))

    def open_block(
        self, state: State, parent: Header, logs: tuple[DigestItem, ...] = ()
    ) -> RemoteBuilder:
        items = (DIGEST_ITEM.encode(each) for each in logs)
        self._process.ask(state, None, b"open", HEADER.encode(parent), *items)
        return RemoteBuilder(self._process, state, BlockNumber(parent.number + 1))

    def validator(self, state: State, parent: Header) -> RemoteValidator:
        return RemoteValidator(self._process, state, parent)

    def close(self) -> None:
        self._process.close()


def _sealed(
    header: bytes, body: bytes, changes: bytes, messages: bytes, authorities: bytes
) -> Sealed:
    found = HEADER.decode(header)
    queued = []
    for each in decode_list(messages):
        topic, count, envelope = decode_list(each)
        queued.append(QueuedMessage(topic, int.from_bytes(count, "little"), envelope))
    return Sealed(
        header=found,
        hash=found.hash(),
        body=decode_list(body),
        changes=decode_changes(changes),
        messages=tuple(queued),
        authorities=tuple((each.key, each.weight) for each in AUTHORITIES.decode(authorities))
        if authorities
        else None,
    )
