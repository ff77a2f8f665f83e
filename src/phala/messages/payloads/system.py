"""Payloads of the `system` topic: registry, policy and keys, for every enclave."""

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from phala.codec import U8, U32, Bytes, Enum, Option, struct_of
from phala.messages.types import DESCRIPTORS, ClusterId, Epoch, Generation, SealKey, WorkerId
from phala.primitives.types import ACCOUNT_ID, AccountId, Hash

GROUP_KEY_BYTES: Final = 48  # a compressed point of BLS12-381's G1


@dataclass(frozen=True, slots=True)
class WorkerRegistered:
    """Evidence was accepted; a second one of the same worker is a refresh."""

    worker: WorkerId
    operator: Annotated[AccountId | None, Option(ACCOUNT_ID)]
    runtime_id: Hash
    confidence: Annotated[int, U8]  # 1 best .. 5
    encryption_key: SealKey
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class GatekeeperAppointed:
    """A worker takes part in holding the group key of a period."""

    worker: WorkerId
    period: Annotated[int, U32]
    threshold: Annotated[int, U32]
    index: Annotated[int, U32]  # of its share, from 1


@dataclass(frozen=True, slots=True)
class GroupKeySet:
    """The group key of a period, as its gatekeepers announced it."""

    period: Annotated[int, U32]
    public: Annotated[bytes, Bytes(bytes_max=GROUP_KEY_BYTES)]


@dataclass(frozen=True, slots=True)
class KeyDue:
    """A worker is listed for a cluster: each gatekeeper gives it a partial of the cluster's key."""

    cluster: ClusterId
    generation: Generation
    worker: WorkerId
    encryption_key: SealKey
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class WorkerRemoved:
    worker: WorkerId


SystemPayload: TypeAlias = (
    WorkerRegistered | GatekeeperAppointed | GroupKeySet | KeyDue | WorkerRemoved
)

SYSTEM_PAYLOAD: Final = Enum(
    ("phala", "messages", "SystemPayload"),
    tuple(
        (index, struct_of(kind, DESCRIPTORS))
        for index, kind in enumerate(
            (WorkerRegistered, GatekeeperAppointed, GroupKeySet, KeyDue, WorkerRemoved)
        )
    ),
)
