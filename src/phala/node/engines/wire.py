"""What a node's two processes say to each other: frames of a length, a kind and a payload.

Both ends are one release, so the forms are free to change. States and bodies do not travel: the
front reads them where the builder has written them.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final

from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.node.blobs import decode_list, encode_list
from phala.node.core.pool import Pooled
from phala.node.engines.author import Executed, Handed, Refusals
from phala.primitives.types import BlockNumber
from phala.runtime import InvalidTransaction, Problem

FRAME: Final = struct.Struct("<IB")  # bytes of the payload, kind

# From the front.
HAND: Final = 1
PROVE: Final = 2
SEEN: Final = 3  # the front has taken up a block, and all before it
CHEAT: Final = 4  # of a development network
SEEN_REVERT: Final = 5  # the front has forgotten the blocks above this one
KEYS: Final = 6  # those that finalize are others now
# From the builder.
READY: Final = 16
FAILED: Final = 17
EXECUTED: Final = 18
WRITTEN: Final = 19
JUSTIFIED: Final = 20
END_BLOCK: Final = 21
PROOF: Final = 22
REVERTED: Final = 23
CHEATED: Final = 24

_HANDED: Final = struct.Struct("<QI")
_REFUSED: Final = struct.Struct("<IBB")
_EXECUTED: Final = struct.Struct("<I")
_NUMBER: Final = struct.Struct("<Q")
_WRITTEN: Final = struct.Struct("<QQI")
_PROVE: Final = struct.Struct("<IQ")
_CHEAT: Final = struct.Struct("<IB")
_PROOF: Final = struct.Struct("<IB")
_PROBLEMS: Final = tuple(Problem)
_PLACES: Final = {problem: place for place, problem in enumerate(_PROBLEMS)}
_FAMILIES: Final = {each.exit_code: each for each in (Invalid, Refused, Unavailable)}
_TILL_MAX: Final = (1 << 64) - 1


def frame(kind: int, payload: bytes) -> bytes:
    return FRAME.pack(len(payload), kind) + payload


class Frames:
    """Cuts a stream into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        rest = self._rest
        rest += data
        out, at = [], 0
        while len(rest) - at >= FRAME.size:
            size, kind = FRAME.unpack_from(rest, at)
            end = at + FRAME.size + size
            if len(rest) < end:
                break
            out.append((kind, bytes(rest[at + FRAME.size : end])))
            at = end
        del rest[:at]
        return out


def encode_handed(some: Iterable[Handed | Pooled]) -> bytes:
    parts = []
    for each in some:
        parts.append(_HANDED.pack(min(each.valid_till, _TILL_MAX), len(each.data)))
        parts.append(each.data)
    return b"".join(parts)


def decode_handed(payload: bytes) -> list[Handed]:
    out, at = [], 0
    while at < len(payload):
        till, size = _HANDED.unpack_from(payload, at)
        at += _HANDED.size
        out.append(Handed(payload[at : at + size], till))
        at += size
    return out


def encode_executed(news: Executed) -> bytes:
    return _EXECUTED.pack(news.count) + encode_refusals(news.refused)


def decode_executed(payload: bytes) -> Executed:
    (count,) = _EXECUTED.unpack_from(payload)
    return Executed(count, decode_refusals(payload[_EXECUTED.size :]))


def encode_refusals(refusals: Refusals) -> bytes:
    """Their words stay behind: nobody asks for them."""
    return b"".join(
        _REFUSED.pack(position, _PLACES[each.problem], each.custom) for position, each in refusals
    )


def decode_refusals(payload: bytes) -> Refusals:
    return tuple(
        (
            position,
            InvalidTransaction(
                _PROBLEMS[place], mend="see the node's log", custom=custom, why="in a block"
            ),
        )
        for position, place, custom in _REFUSED.iter_unpack(payload)
    )


def encode_written(
    number: BlockNumber, folded: BlockNumber, fallen: Refusals, created: Iterable[bytes]
) -> bytes:
    refusals = encode_refusals(fallen)
    return _WRITTEN.pack(number, folded, len(refusals)) + refusals + encode_list(created)


def decode_written(payload: bytes) -> tuple[BlockNumber, BlockNumber, Refusals, tuple[bytes, ...]]:
    number, folded, size = _WRITTEN.unpack_from(payload)
    at = _WRITTEN.size
    fallen = decode_refusals(payload[at : at + size])
    return BlockNumber(number), BlockNumber(folded), fallen, decode_list(payload[at + size :])


def encode_number(number: int) -> bytes:
    return _NUMBER.pack(number)


def decode_number(payload: bytes) -> BlockNumber:
    return BlockNumber(_NUMBER.unpack_from(payload)[0])


def encode_justified(number: BlockNumber, justification: bytes) -> bytes:
    return _NUMBER.pack(number) + justification


def decode_justified(payload: bytes) -> tuple[BlockNumber, bytes]:
    return decode_number(payload), payload[_NUMBER.size :]


def encode_prove(name: int, number: BlockNumber, keys: Iterable[bytes]) -> bytes:
    return _PROVE.pack(name, number) + encode_list(keys)


def decode_prove(payload: bytes) -> tuple[int, BlockNumber, tuple[bytes, ...]]:
    name, number = _PROVE.unpack_from(payload)
    return name, BlockNumber(number), decode_list(payload[_PROVE.size :])


def encode_proof(name: int, proof: tuple[bytes, ...] | None) -> bytes:
    """None: its block has left the window."""
    return _PROOF.pack(name, proof is not None) + encode_list(proof or ())


def decode_proof(payload: bytes) -> tuple[int, tuple[bytes, ...] | None]:
    name, found = _PROOF.unpack_from(payload)
    return name, decode_list(payload[_PROOF.size :]) if found else None


def encode_cheat(name: int, request: Mapping[str, Any]) -> bytes:
    return _CHEAT.pack(name, 0) + json.dumps(request).encode()


def decode_cheat(payload: bytes) -> tuple[int, dict[str, Any]]:
    name, _ = _CHEAT.unpack_from(payload)
    return name, json.loads(payload[_CHEAT.size :])


def encode_cheated(name: int, answer: Mapping[str, Any] | PhalaError) -> bytes:
    if isinstance(answer, PhalaError):
        return _CHEAT.pack(name, 1) + encode_failure(answer)
    return _CHEAT.pack(name, 0) + json.dumps(answer).encode()


def decode_cheated(payload: bytes) -> tuple[int, dict[str, Any] | PhalaError]:
    name, failed = _CHEAT.unpack_from(payload)
    rest = payload[_CHEAT.size :]
    return name, decode_failure(rest) if failed else json.loads(rest)


def encode_failure(error: PhalaError) -> bytes:
    return encode_list((error.what.encode(), error.mend.encode(), bytes([error.exit_code])))


def decode_failure(payload: bytes) -> PhalaError:
    what, mend, code = decode_list(payload)
    family = _FAMILIES.get(code[0], PhalaError)
    return family(what.decode(), mend=mend.decode())
