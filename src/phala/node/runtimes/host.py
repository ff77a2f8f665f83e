"""`python -m phala.node.runtimes.host`: a release's runtime for a node of another release.

It runs from that release's own sources, answers what `wire` says over fd 0 and 1, and holds no
state: whatever it reads it asks back for.
"""

import os
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.frame import DISPATCH_ERROR
from phala.node.blobs import encode_changes, encode_list
from phala.node.runtimes.wire import (
    ERROR,
    GET,
    KEYS,
    OK,
    PROTOCOL,
    ROOT,
    Ended,
    number,
    receive,
    send,
)
from phala.pallets.grandpa import AUTHORITIES
from phala.primitives.header import DIGEST_ITEM, HEADER
from phala.primitives.types import Hash, Moment
from phala.runtime import (
    BlockBuilder,
    BlockRefused,
    Changes,
    InvalidTransaction,
    Runtime,
    Sealed,
    Source,
    Validator,
)
from phala.runtime.version import RUNTIME_VERSION
from phala.trie import State

FAMILIES: Final = ((BlockRefused, b"block"), (Invalid, b"invalid"), (Refused, b"refused"))


class AskedBase:
    """The state that a question is about, as the node has it. What was read once is kept."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._known: dict[bytes, bytes | None] = {}

    def get(self, key: bytes, /) -> bytes | None:
        if key not in self._known:
            found = self._host.ask_back(GET, key)
            self._known[key] = found[0] if found else None
        return self._known[key]

    def keys(self, prefix: bytes, /) -> Iterator[bytes]:
        after = b""
        while page := self._host.ask_back(KEYS, prefix, after):
            yield from page
            after = page[-1]


class Host:
    """One node's questions, in order."""

    def __init__(self, source: BinaryIO, out: BinaryIO) -> None:
        self._source = source
        self._out = out
        self._runtime = Runtime()
        self._builder: BlockBuilder | None = None
        self._validator: Validator | None = None
        self._answers: dict[bytes, Callable[..., tuple[bytes, ...]]] = {
            b"hello": self.hello,
            b"metadata": self.metadata,
            b"call": self.call,
            b"execute": self.execute,
            b"open": self.open,
            b"inherents": self.inherents,
            b"apply": self.apply,
            b"seal": self.seal,
            b"validator": self.validator,
            b"validate": self.validate,
            b"signature": self.signature,
        }

    def run(self) -> None:
        """Until the node goes away."""
        while True:
            word, *arguments = receive(self._source)
            try:
                answer = self._answers[word](*arguments)
            except PhalaError as error:
                send(self._out, ERROR, *_error(error))
            except Ended:
                raise
            except Exception as error:  # noqa: BLE001 - the node hears of it, and decides
                what = f"{type(error).__name__}: {error}".encode()
                send(self._out, ERROR, b"broken", what, b"", b"", b"\0")
            else:
                send(self._out, OK, *answer)

    def ask_back(self, *parts: bytes) -> tuple[bytes, ...]:
        send(self._out, *parts)
        return receive(self._source)

    def _state(self) -> State:
        return State(AskedBase(self))

    def _root_of(self, changes: Changes) -> Hash:
        (root,) = self.ask_back(ROOT, encode_changes(changes))
        return Hash(root)

    # ---- questions

    def hello(self) -> tuple[bytes, ...]:
        return PROTOCOL, RUNTIME_VERSION.encode(self._runtime.version), self._runtime.code

    def metadata(self, version: bytes) -> tuple[bytes, ...]:
        return (self._runtime.metadata(version[0]),)

    def call(self, block_hash: bytes, method: bytes, data: bytes) -> tuple[bytes, ...]:
        name = method.decode(errors="replace")
        return (self._runtime.call(self._state(), Hash(block_hash), name, data),)

    def execute(self, parent: bytes, header: bytes, *body: bytes) -> tuple[bytes, ...]:
        sealed = self._runtime.execute(
            self._state(), HEADER.decode(parent), HEADER.decode(header), body, self._root_of
        )
        return _sealed(sealed)

    def open(self, parent: bytes, *logs: bytes) -> tuple[bytes, ...]:
        items = tuple(DIGEST_ITEM.decode(each) for each in logs)
        self._builder = self._runtime.open_block(self._state(), HEADER.decode(parent), items)
        return ()

    def inherents(self, clock: bytes) -> tuple[bytes, ...]:
        assert self._builder is not None
        return tuple(self._builder.inherents(Moment(int.from_bytes(clock, "little"))))

    def apply(self, checks: bytes, extrinsic: bytes) -> tuple[bytes, ...]:
        assert self._builder is not None
        applied = self._builder.apply(extrinsic, check_signature=checks != b"\0")
        error = b"" if applied.error is None else DISPATCH_ERROR.encode(applied.error)
        return number(applied.index), error

    def seal(self) -> tuple[bytes, ...]:
        assert self._builder is not None
        builder, self._builder = self._builder, None
        return _sealed(builder.seal(self._root_of))

    def validator(self, parent: bytes) -> tuple[bytes, ...]:
        self._validator = self._runtime.validator(self._state(), HEADER.decode(parent))
        return ()

    def validate(self, source: bytes, checks: bytes, extrinsic: bytes) -> tuple[bytes, ...]:
        assert self._validator is not None
        valid = self._validator.validate(
            extrinsic, Source(source[0]), check_signature=checks != b"\0"
        )
        return (
            number(valid.priority, 8),
            number(valid.longevity, 8),
            bytes([valid.propagate]),
            encode_list(valid.requires),
            encode_list(valid.provides),
        )

    def signature(self, extrinsic: bytes) -> tuple[bytes, ...]:
        assert self._validator is not None
        check = self._validator.signature_check(extrinsic)
        if check is None:
            return ()
        return check.account, bytes([check.scheme]), check.signature, check.message


def _sealed(sealed: Sealed) -> tuple[bytes, ...]:
    authorities = b"" if sealed.authorities is None else AUTHORITIES.encode(sealed.authorities)
    messages = (
        encode_list((each.topic, number(each.count, 8), each.envelope)) for each in sealed.messages
    )
    return (
        HEADER.encode(sealed.header),
        encode_list(sealed.body),
        encode_changes(sealed.changes),
        encode_list(messages),
        authorities,
    )


def _error(error: PhalaError) -> tuple[bytes, ...]:
    what, mend = error.what.encode(), error.mend.encode()
    if isinstance(error, InvalidTransaction):
        custom = error.custom or error.malformed
        return b"transaction", what, mend, error.problem.name.encode(), bytes([custom])
    for family, name in FAMILIES:
        if isinstance(error, family):
            return name, what, mend, b"", b"\0"
    assert isinstance(error, Unavailable)
    return b"unavailable", what, mend, b"", b"\0"


def main() -> None:
    # Whatever prints must not stand between frames.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        Host(sys.stdin.buffer, out).run()
    except Ended:
        return


if __name__ == "__main__":
    main()
