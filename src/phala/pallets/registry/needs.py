"""What the registry needs of others, and what they tell it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from phala.messages.bus import Sender
from phala.messages.collateral import CollateralKey
from phala.messages.registration import Device, Evidence
from phala.messages.types import ClusterId, Count, Generation, WorkerId
from phala.primitives.types import BlockNumber, Hash, Moment


@dataclass(frozen=True, slots=True)
class Judgement:
    """What accepted evidence proves."""

    platform: int
    measurement: bytes
    report_data: bytes
    evidence_id: Hash
    confidence: int
    product: bytes = b""
    platform_id: bytes = b""
    signer: bytes = b""  # who vouches for the code, where the platform tells
    signer_product: int = 0
    signer_svn: int = 0


@dataclass(frozen=True, slots=True)
class DeviceJudgement:
    """What a GPU's or switch's evidence proves."""

    device: bytes  # SHA-256 of its key
    evidence_id: Hash


class Verifier(Protocol):
    """Judges evidence: `attest` does. All raise `PhalaError` for less than acceptance."""

    def need(self, evidence: Evidence, /) -> CollateralKey | None:
        """Which collateral the evidence is judged by; None where the platform has none."""
        ...

    def verify(
        self, evidence: Evidence, policy: bytes, collateral: Mapping[str, bytes], now: Moment, /
    ) -> Judgement: ...

    def verify_device(
        self,
        device: Device,
        manifests: tuple[bytes, ...],
        policy: bytes,
        nonce: bytes,
        now: Moment,
        /,
    ) -> DeviceJudgement:
        """A GPU's or switch's evidence, made for this nonce."""
        ...

    def platforms(self, policy: bytes, /) -> tuple[int, ...]:
        """Those that a policy's text accepts, ascending."""
        ...


class Collateral(Protocol):
    """What the chain knows of vendors' platforms."""

    def kept(self, of: CollateralKey, /) -> tuple[tuple[int, Mapping[str, bytes]], ...]:
        """What a product's evidence may be judged by, the latest evaluation first."""
        ...

    def manifests_of(self, hashes: tuple[Hash, ...], /) -> tuple[bytes, ...]:
        """Vendors' manifests of devices. Raises `PhalaError` where one is not kept."""
        ...

    def least_number(self, of: CollateralKey, /) -> int: ...
    def coming_number(self, of: CollateralKey, /) -> int: ...
    def stage(self, of: CollateralKey, /) -> int:
        """0: it counts; 1: it has expired; 2: so long ago that it suspends."""
        ...


class Chain(Protocol):
    """Which chain this is, and its past."""

    def genesis_hash(self) -> Hash: ...
    def hash_of(self, number: BlockNumber) -> Hash | None: ...


class Clock(Protocol):
    """The time of this block."""

    def time(self) -> Moment: ...


class Bus(Protocol):
    """Who numbers messages."""

    def push(self, topic: bytes, sender: Sender, payload: bytes) -> Count: ...


class Clusters(Protocol):
    """Who gives workers their clusters."""

    def enlist(self, worker: WorkerId, confidence: int) -> tuple[tuple[ClusterId, Generation], ...]:
        """Give a worker a free seat, if it has none. Returns its clusters, each with the
        generation of its keys."""
        ...

    def expel(
        self, workers: tuple[WorkerId, ...]
    ) -> tuple[tuple[ClusterId, Generation, tuple[WorkerId, ...]], ...]:
        """Take workers out of their clusters, whose keys change. Returns each with its new
        generation and those who stay."""
        ...
