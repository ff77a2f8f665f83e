"""What the pool and an engine child say to each other: SCALE records behind their length."""

import socket
from dataclasses import dataclass
from typing import Annotated, Any, Final

from phala.codec import (
    BOOL,
    U32,
    U64,
    Bytes,
    Descriptor,
    Enum,
    FixedBytes,
    Option,
    Struct,
    Text,
    Vector,
    struct_of,
)
from phala.errors import Unavailable
from phala.wasm.job import (
    KEY_BYTES_MAX,
    REQUEST_BYTES_MAX,
    SOURCE_BYTES_MAX,
    TEXT_BYTES_MAX,
    VALUE_BYTES_MAX,
    BlockInfo,
    CodeId,
    ContractId,
    ErrorKind,
    Job,
    Limits,
    Outcome,
)

LENGTH_BYTES: Final = 4  # in front of each frame, little-endian
FRAME_BYTES_MAX: Final = 64 << 20
LOAD_BYTES: Final = 16 << 20  # of a large state go into one frame
ITEMS_MAX: Final = 1 << 20

_HASH: Final[FixedBytes[bytes]] = FixedBytes(32)
_ITEM_KEY: Final = Bytes(KEY_BYTES_MAX)
_ITEM_VALUE: Final = Option(Bytes(VALUE_BYTES_MAX))


@dataclass(frozen=True, slots=True)
class Item:
    key: Annotated[bytes, _ITEM_KEY]
    value: Annotated[bytes | None, _ITEM_VALUE]


@dataclass(frozen=True, slots=True)
class Event:
    name: Annotated[str, Text(VALUE_BYTES_MAX)]
    data: Annotated[bytes, Bytes(VALUE_BYTES_MAX)]


_ITEMS: Final[Descriptor[tuple[Item, ...]]] = Vector(struct_of(Item, {}), ITEMS_MAX)


@dataclass(frozen=True, slots=True)
class Apply:
    """Changes of a contract's replica; `anew` empties it first."""

    contract: Annotated[bytes, _HASH]
    anew: Annotated[bool, BOOL]
    items: Annotated[tuple[Item, ...], _ITEMS]


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a contract's replica."""

    contract: Annotated[bytes, _HASH]


@dataclass(frozen=True, slots=True)
class Run:
    """A job. Without a source the child is expected to have it."""

    kind: Annotated[str, Text(16)]
    contract: Annotated[bytes, _HASH]
    code_id: Annotated[bytes, _HASH]
    source: Annotated[bytes | None, Option(Bytes(SOURCE_BYTES_MAX))]
    request: Annotated[bytes, Bytes(REQUEST_BYTES_MAX)]
    caller: Annotated[bytes | None, Option(_HASH)]
    number: Annotated[int, U64]
    time_ms: Annotated[int, U64]
    hash: Annotated[bytes, _HASH]
    seed: Annotated[bytes, _HASH]
    fuel: Annotated[int, U64]
    memory_bytes: Annotated[int, U64]
    output_bytes_max: Annotated[int, U32]
    state_write_bytes_max: Annotated[int, U32]
    host_calls_max: Annotated[int, U32]
    log_bytes_max: Annotated[int, U32]
    wall_ms: Annotated[int | None, Option(U32)]


@dataclass(frozen=True, slots=True)
class Ready:
    """The child is up."""


@dataclass(frozen=True, slots=True)
class NeedSource:
    """The child has not, or no longer, the code of the job."""


@dataclass(frozen=True, slots=True)
class Done:
    ok: Annotated[bool, BOOL]
    result: Annotated[bytes, Bytes(FRAME_BYTES_MAX)]
    error: Annotated[str, Text(16)]  # of an ErrorKind; empty for none
    text: Annotated[str, Text(4 * TEXT_BYTES_MAX)]
    events: Annotated[tuple[Event, ...], Vector(struct_of(Event, {}), ITEMS_MAX)]
    logs: Annotated[tuple[str, ...], Vector(Text(2 * TEXT_BYTES_MAX), ITEMS_MAX)]
    changes: Annotated[tuple[Item, ...], _ITEMS]
    fuel_used: Annotated[int, U64]


def _frame(*kinds: type) -> Enum:
    records: list[Struct[Any]] = [struct_of(kind, {}) for kind in kinds]
    return Enum(("Frame",), tuple(enumerate(records)))


FRAME: Final = _frame(Apply, Drop, Run, Ready, NeedSource, Done)


class Gone(Unavailable):
    """The other side closed the pipe."""

    def __init__(self) -> None:
        super().__init__("the other side of an engine's pipe is gone", mend="ask again")


def encoded(frame: object) -> bytes:
    """As it goes through the pipe."""
    data = FRAME.encode(frame)
    return len(data).to_bytes(LENGTH_BYTES, "little") + data


def size_of(front: bytes | bytearray) -> int:
    """How long the frame is that begins like this, its length included. Raises `Unavailable`."""
    if len(front) < LENGTH_BYTES:
        return LENGTH_BYTES
    size_bytes = int.from_bytes(front[:LENGTH_BYTES], "little")
    if size_bytes > FRAME_BYTES_MAX:
        raise Unavailable(f"a frame of {size_bytes} bytes", mend="start the engine child anew")
    return LENGTH_BYTES + size_bytes


def send(pipe: socket.socket, frame: object) -> None:
    pipe.sendall(encoded(frame))


def receive(pipe: socket.socket) -> object:
    """The next frame.

    Raises:
        Gone: the other side is.
        TimeoutError: as the socket was told.
        Malformed: what came is no frame.
    """
    return FRAME.decode(_take(pipe, size_of(_take(pipe, LENGTH_BYTES)) - LENGTH_BYTES))


def _take(pipe: socket.socket, size_bytes: int) -> bytes:
    data = bytearray(size_bytes)
    view, at = memoryview(data), 0
    while at < size_bytes:
        got = pipe.recv_into(view[at:])
        if not got:
            raise Gone
        at += got
    return bytes(data)


def run_of(job: Job, *, with_source: bool) -> Run:
    limits = job.limits
    return Run(
        job.kind, job.contract, job.code_id, job.source if with_source else None, job.request,
        job.caller, job.block.number, job.block.time_ms, job.block.hash, job.seed,
        limits.fuel, limits.memory_bytes, limits.output_bytes_max, limits.state_write_bytes_max,
        limits.host_calls_max, limits.log_bytes_max, limits.wall_ms,
    )  # fmt: skip


def job_of(run: Run) -> Job:
    return Job(
        kind=run.kind,  # type: ignore[arg-type] # the pool checked it
        contract=ContractId(run.contract),
        code_id=CodeId(run.code_id),
        source=run.source or b"",
        request=run.request,
        caller=run.caller,
        block=BlockInfo(run.number, run.time_ms, run.hash),
        limits=Limits(
            run.fuel, run.memory_bytes, run.output_bytes_max, run.state_write_bytes_max,
            run.host_calls_max, run.log_bytes_max, run.wall_ms,
        ),
        seed=run.seed,
    )  # fmt: skip


def done_of(outcome: Outcome) -> Done:
    return Done(
        outcome.ok,
        outcome.result,
        outcome.error or "",
        outcome.text,
        tuple(Event(name, data) for name, data in outcome.events),
        outcome.logs,
        tuple(Item(key, value) for key, value in outcome.changes.items()),
        outcome.fuel_used,
    )


def outcome_of(done: Done) -> Outcome:
    return Outcome(
        ok=done.ok,
        result=done.result,
        error=ErrorKind(done.error) if done.error else None,
        text=done.text,
        events=tuple((event.name, event.data) for event in done.events),
        logs=done.logs,
        changes={item.key: item.value for item in done.changes},
        fuel_used=done.fuel_used,
    )
