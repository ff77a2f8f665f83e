"""What the pallet of clusters and contracts needs of others."""

from typing import Protocol

from phala.messages.bus import Sender
from phala.messages.types import ContractId, Count, WorkerId
from phala.primitives.types import Hash, Moment


class Chain(Protocol):
    """Which chain this is."""

    def genesis_hash(self) -> Hash: ...


class Clock(Protocol):
    """The time of this block."""

    def time(self) -> Moment: ...


class Bus(Protocol):
    """Who numbers messages."""

    def push(self, topic: bytes, sender: Sender, payload: bytes) -> Count: ...


class Gatekeeper(Protocol):
    """A seat."""

    @property
    def period(self) -> int: ...
    @property
    def index(self) -> int: ...


class Workers(Protocol):
    """Who is registered, and who holds shares of keys."""

    def seat_of(self, worker: WorkerId) -> Gatekeeper | None: ...
    def key_threshold(self) -> int: ...
    def runtime_id(self) -> Hash: ...
    def is_registered(self, worker: WorkerId) -> bool: ...
    def show_contract_key(self, contract: ContractId, signing_key: bytes) -> None: ...
