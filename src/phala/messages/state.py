"""What light clients read of the chain's state by proof: keys and values, versioned.

The pallets declare the same items; a test holds their keys against these.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import U8, U16, U32, Bytes, Descriptor, Option, Vector
from phala.crypto.hashes import blake2_128
from phala.messages.registration import MEASUREMENT_BYTES_MAX
from phala.messages.types import (
    ClusterId,
    CodeId,
    ContractId,
    Epoch,
    Generation,
    SealKey,
    WorkerId,
    scale,
)
from phala.primitives.keys import storage_prefix
from phala.primitives.types import ACCOUNT_ID, AccountId, BlockNumber, Hash

STATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """`PhalaRegistry.Enclaves`: a worker whose evidence the chain accepted."""

    version: Annotated[int, U8]
    operator: Annotated[AccountId | None, Option(ACCOUNT_ID)]
    platform: Annotated[int, U8]
    measurement: Annotated[bytes, Bytes(bytes_max=MEASUREMENT_BYTES_MAX)]
    runtime_id: Hash
    manifest_hash: Hash
    evidence_id: Hash  # SHA-256 of the evidence's signed bytes
    attested_height: BlockNumber
    attested_hash: Hash
    confidence: Annotated[int, U8]
    registered_at: BlockNumber
    encryption_key: SealKey
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class ClusterState:
    """`PhalaPhatContracts.ClusterStates`: beside the original's `Clusters` of other shape."""

    version: Annotated[int, U8]
    k: Annotated[int, U16]  # replicas that must agree
    seats: Annotated[int, U16]  # workers that may serve
    generation: Generation
    ready: Annotated[int, U8]  # 1 when partials of the generation were given
    workers: Annotated[tuple[WorkerId, ...], Vector(scale(WorkerId), items_max=64)]


@dataclass(frozen=True, slots=True)
class ContractInfo:
    """`PhalaPhatContracts.ContractInfos`."""

    version: Annotated[int, U8]
    cluster: ClusterId
    deployer: AccountId
    code_id: CodeId
    kind: Annotated[int, U8]
    deployed_at: BlockNumber
    state: Annotated[int, U8]  # 0 queued, 1 live (its keys are announced by k), 2 failed


@dataclass(frozen=True, slots=True)
class ContractKey:
    """`PhalaPhatContracts.ContractKeys`: commands are encrypted to it."""

    version: Annotated[int, U8]
    generation: Generation
    command_key: SealKey
    signing_key: Annotated[bytes, Bytes(bytes_max=32)]
    signers: Annotated[int, U32]


WORKER_INFO: Final[Descriptor[WorkerInfo]] = scale(WorkerInfo)
CLUSTER_STATE: Final[Descriptor[ClusterState]] = scale(ClusterState)
CONTRACT_INFO: Final[Descriptor[ContractInfo]] = scale(ContractInfo)
CONTRACT_KEY: Final[Descriptor[ContractKey]] = scale(ContractKey)

CODE_BYTES_MAX: Final = 256 * 1024
TIMESTAMP_KEY: Final = storage_prefix("Timestamp", "Now")
AUTHORITIES_KEY: Final = storage_prefix("Grandpa", "Authorities")


def _map_key(pallet: str, item: str, key: bytes) -> bytes:
    return storage_prefix(pallet, item) + blake2_128(key) + key


def worker_key(worker: WorkerId) -> bytes:
    return _map_key("PhalaRegistry", "Enclaves", worker)


def cluster_key(cluster: ClusterId) -> bytes:
    return _map_key("PhalaPhatContracts", "ClusterStates", cluster)


def contract_key(contract: ContractId) -> bytes:
    return _map_key("PhalaPhatContracts", "ContractInfos", contract)


def contract_keys_key(contract: ContractId) -> bytes:
    return _map_key("PhalaPhatContracts", "ContractKeys", contract)


def code_key(code: CodeId) -> bytes:
    """The value is `Bytes(bytes_max=CODE_BYTES_MAX)`."""
    return _map_key("PhalaPhatContracts", "Codes", code)
