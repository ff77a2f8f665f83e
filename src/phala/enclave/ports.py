"""What the enclave's rules need of whoever runs them. `sealed` hands each in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from phala.messages.registration import Device
from phala.messages.types import CodeId, ContractId, Count
from phala.primitives.types import AccountId, Hash

CallKind: TypeAlias = Literal["instantiate", "command", "query"]

Changes: TypeAlias = Mapping[bytes, bytes | None]  # None deletes


class Entropy(Protocol):
    def random_bytes(self, size: int) -> bytes:
        """Nobody else can guess or repeat them, not even after a restart from old files."""
        ...


class Devices(Protocol):
    def evidence(self, nonce: bytes) -> tuple[Device, ...]:
        """Of the GPUs that this enclave may use, said of this nonce; nothing where there are none.

        Raises:
            Unavailable: a device did not answer.
        """
        ...


class NoDevices:
    """A machine without GPUs, or one whose GPUs the enclave does not use."""

    def evidence(self, nonce: bytes) -> tuple[Device, ...]:
        del nonce
        return ()


class Journal(Protocol):
    def append(self, changes: Changes) -> None:
        """Keep one step. When this returns, a kill cannot lose it.

        Raises:
            Unavailable: it could not be kept; the step must not count.
        """
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """What a contract may know of where it runs. A command's is the same on every replica."""

    number: int
    time_ms: int
    hash: Hash  # a query: of the finalized block; a command: the topic's head after it


@dataclass(frozen=True, slots=True)
class EngineCall:
    kind: CallKind
    contract: ContractId
    code_id: CodeId
    source: bytes
    method: str
    arguments: bytes  # JSON, unchecked
    caller: AccountId | None
    place: Place
    seed: bytes  # 32 bytes: the call's randomness
    fuel: int | None  # it may burn; None, for a query: what queries may


@dataclass(frozen=True, slots=True)
class Position:
    """A contract's state as of one step of its cluster's topic."""

    count: Count
    head: Hash
    root: Hash


@dataclass(frozen=True, slots=True)
class EngineResult:
    """What a call did. On an error, `changes` count for nothing."""

    ok: bool
    result: bytes  # JSON
    error_kind: int  # of `messages.calls`
    error: str
    events: tuple[tuple[str, bytes], ...]
    changes: Changes
    fuel_class: int
    position: Position | None = None  # the state that it ran on, where the engine knows


class Engine(Protocol):
    """Runs contracts on replicas of their states."""

    def run(self, call: EngineCall) -> EngineResult:
        """For `instantiate` and `command`: the outcome is the same wherever it runs.

        Raises:
            Unavailable: nothing was decided; run it again.
        """
        ...

    def replace(self, contract: ContractId, state: Mapping[bytes, bytes], at: Position) -> None:
        """The contract's whole state, as its next calls see it."""
        ...

    def apply(self, contract: ContractId, changes: Changes, at: Position) -> None:
        """What a call changed, now that it counts."""
        ...
