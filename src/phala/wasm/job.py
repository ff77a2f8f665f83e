"""One call of a contract: what goes into the engine, and what comes out."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, NewType

from phala.errors import Invalid

ContractId = NewType("ContractId", bytes)  # 32 bytes
CodeId = NewType("CodeId", bytes)  # 32 bytes: a hash over runtime id and source

Kind = Literal["instantiate", "query", "command", "describe"]

KEY_BYTES_MAX: Final = 1_024
VALUE_BYTES_MAX: Final = 1 << 20
SOURCE_BYTES_MAX: Final = 256 << 10
REQUEST_BYTES_MAX: Final = 1 << 20
SCAN_ITEMS_MAX: Final = 1_000
TEXT_BYTES_MAX: Final = 4_096  # of an error, or of one line of the log: longer ones are cut


class ErrorKind(StrEnum):
    """Why a call failed. A command's is the same on every replica."""

    REFUSED = "refused"  # the contract's rule: it raised Refused
    RAISED = "raised"  # the contract raised something else
    ARGUMENT = "argument"  # no such method, or an argument of another type
    SOURCE = "source"  # the contract's code does not load
    READ_ONLY = "read_only"  # a query tried to change state
    FUEL = "fuel"
    MEMORY = "memory"
    STACK = "stack"
    OUTPUT = "output"  # result or events too large
    STATE = "state"  # a key, a value or all writes together too large
    HOST_CALLS = "host_calls"
    TIME = "time"  # queries only
    TRAP = "trap"  # the guest broke: it touched what is not there


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use. Whatever it is that runs out, the call ends with that error."""

    fuel: int
    memory_bytes: int
    output_bytes_max: int
    state_write_bytes_max: int  # keys and values together
    host_calls_max: int
    log_bytes_max: int  # what is logged beyond is dropped
    wall_ms: int | None  # None: no clock decides, as for whatever replicas must agree on


COMMAND_LIMITS: Final = Limits(
    fuel=1 << 36,  # a call's own is what was paid for, and not more
    memory_bytes=128 << 20,
    output_bytes_max=1 << 20,
    state_write_bytes_max=8 << 20,
    host_calls_max=100_000,
    log_bytes_max=64 << 10,
    wall_ms=None,
)
QUERY_LIMITS: Final = Limits(
    fuel=25_000_000_000,
    memory_bytes=128 << 20,
    output_bytes_max=1 << 20,
    state_write_bytes_max=0,
    host_calls_max=100_000,
    log_bytes_max=64 << 10,
    wall_ms=5_000,
)
# Turning source into code is paid by nobody and cached, so it has a measure of its own.
COMPILE_LIMITS: Final = Limits(
    fuel=5_000_000_000,
    memory_bytes=128 << 20,
    output_bytes_max=4 << 20,
    state_write_bytes_max=0,
    host_calls_max=1_000,
    log_bytes_max=0,
    wall_ms=None,
)


@dataclass(frozen=True, slots=True)
class BlockInfo:
    number: int
    time_ms: int  # since 1970
    hash: bytes  # 32 bytes


@dataclass(frozen=True, slots=True)
class Job:
    """A call. `request` is JSON, `{"method": "add", "args": {"n": 2}}`; see `phala.phat.entry`."""

    kind: Kind
    contract: ContractId
    code_id: CodeId
    source: bytes
    request: bytes
    caller: bytes | None  # 32 bytes, or None for anybody
    block: BlockInfo
    limits: Limits
    seed: bytes = bytes(32)  # of this call's randomness; a command's is the same on every replica


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call did. On an error nothing of it is to be kept but the log and the fuel used."""

    ok: bool
    result: bytes = b""  # JSON
    error: ErrorKind | None = None
    text: str = ""  # of the error, for the caller
    events: tuple[tuple[str, bytes], ...] = ()
    logs: tuple[str, ...] = ()
    changes: dict[bytes, bytes | None] = field(default_factory=dict)  # None deletes
    fuel_used: int = 0
    at: object = None  # what the pool was told about the state that it ran on


def request_of(method: str, arguments: bytes) -> bytes:
    """A request for `method` with arguments that nobody checked: whatever they are, it stays this.

    Raises:
        Invalid: they are not UTF-8.
    """
    try:
        text = arguments.decode()
    except UnicodeDecodeError as error:
        raise Invalid(
            f"the arguments are not UTF-8 at byte {error.start}", mend="send them as JSON"
        ) from None
    return json.dumps({"method": method, "arguments": text}).encode()


def fuel_class(fuel_used: int) -> int:
    """The least n with 2**n >= `fuel_used`: exact amounts would tell secrets."""
    return max(0, fuel_used - 1).bit_length()
