"""Payloads of a cluster's topic: all that its replicas execute, in one order."""

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from phala.codec import U8, U32, U64, Bytes, Enum, struct_of
from phala.messages.types import (
    DESCRIPTORS,
    CallId,
    ClusterId,
    CodeId,
    ContractId,
    Generation,
    SealKey,
    WorkerId,
)
from phala.primitives.types import AccountId, BlockNumber, Hash

ARGUMENTS_BYTES_MAX: Final = 16 * 1024
SEALED_COMMAND_BYTES_MAX: Final = 96 * 1024
SEALED_PARTIAL_BYTES_MAX: Final = 512

KIND_PY_SOURCE: Final = 0  # 1 js-source, 2 wasm-core, 3 component, 4 ink: DESIGN §7


@dataclass(frozen=True, slots=True)
class WorkerAdded:
    """A worker serves the cluster from here on; at count 0 it starts with an empty state."""

    cluster: ClusterId
    worker: WorkerId
    generation: Generation


@dataclass(frozen=True, slots=True)
class PartialGiven:
    """A gatekeeper's partial of the cluster's key, encrypted to one worker's short-lived key.

    What is encrypted is 96 bytes, `crypto.bls.partial(share, key_message(...))`. The `info` of the
    encryption is `partial_info(...)`, so it opens for this place alone.
    """

    cluster: ClusterId
    generation: Generation
    period: Annotated[int, U32]
    index: Annotated[int, U32]
    worker: WorkerId
    height: BlockNumber  # finalized block that the gatekeeper saw
    block_hash: Hash
    sealed: Annotated[bytes, Bytes(bytes_max=SEALED_PARTIAL_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class ContractDeployed:
    """Code bytes lie in the chain's state by `code_id`; arguments (JSON) are public."""

    contract: ContractId
    call: CallId
    deployer: AccountId
    code_id: CodeId
    kind: Annotated[int, U8]
    runtime_id: Hash
    arguments: Annotated[bytes, Bytes(bytes_max=ARGUMENTS_BYTES_MAX)]
    reply_to: SealKey  # the outcome is encrypted to it
    fuel: Annotated[int, U8]  # class, `messages.fuel`: what `instantiate` may burn


@dataclass(frozen=True, slots=True)
class CommandQueued:
    """An account's command; `envelope` is a SCALE `CommandEnvelope` that the chain cannot read."""

    contract: ContractId
    call: CallId
    sender: AccountId
    envelope: Annotated[bytes, Bytes(bytes_max=SEALED_COMMAND_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class GenerationRaised:
    """Keys change; commands of the old generation stay valid for `grace_blocks` more blocks."""

    cluster: ClusterId
    generation: Generation
    grace_blocks: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class Skipped:
    """The message that brought the topic to this count crashed replicas: all pass it over."""

    count: Annotated[int, U64]


ClusterPayload: TypeAlias = (
    WorkerAdded | PartialGiven | ContractDeployed | CommandQueued | GenerationRaised | Skipped
)

CLUSTER_PAYLOAD: Final = Enum(
    ("phala", "messages", "ClusterPayload"),
    tuple(
        (index, struct_of(kind, DESCRIPTORS))
        for index, kind in (
            (0, WorkerAdded),
            (1, PartialGiven),
            (3, CommandQueued),  # 2 was a deployment that named no fuel
            (4, GenerationRaised),
            (5, Skipped),
            (6, ContractDeployed),
        )
    ),
)


def key_message(
    genesis: Hash, group_public: bytes, cluster: ClusterId, generation: Generation
) -> bytes:
    """What gatekeepers sign to derive a cluster's key: `derive`, never the beacon (DESIGN §6)."""
    return b"phala/derive/v1" + genesis + group_public + cluster + generation.to_bytes(4, "little")


def partial_info(genesis: Hash, cluster: ClusterId, generation: Generation, index: int) -> bytes:
    """The `info` under which a partial is encrypted."""
    return (
        b"phala/partial/v1"
        + genesis
        + cluster
        + generation.to_bytes(4, "little")
        + index.to_bytes(4, "little")
    )
