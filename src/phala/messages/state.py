"""What light clients read of the chain's state by proof: keys and values, versioned.

The pallets declare the same items; a test holds their keys against these.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import U8, U16, U32, Bytes, Descriptor, Option, Vector
from phala.crypto.hashes import blake2_128
from phala.messages.collateral import PRODUCT_BYTES_MAX
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
from phala.primitives.types import ACCOUNT_ID, AccountId, BlockNumber, Hash, Moment

STATE_VERSION: Final = 1
WORKER_VERSION: Final = 2  # of `WorkerInfo`: 2 says how a worker stands, and what by

# `WorkerInfo.state`. A stale worker serves, and says so; a suspended one must attest again.
WORKER_ACTIVE, WORKER_STALE, WORKER_SUSPENDED = 0, 1, 2
# `WorkerInfo.reason`, why it is not active. Numbers are wire format: never reuse one.
REASON_NONE: Final = 0
REASON_AGE: Final = 1  # it did not attest again in time
REASON_COLLATERAL: Final = 2  # nobody brought later collateral of its platform
REASON_FLOOR: Final = 3  # it was judged by an evaluation below the chain's floor
REASON_POLICY: Final = 4  # it was judged by an earlier policy
REASON_BLOCKED: Final = 5  # its machine, product, code or signer is known to be broken
REASONS: Final = (
    "active",
    "its evidence is older than the chain allows",
    "its platform's collateral has expired",
    "its platform was judged by an evaluation below the chain's floor",
    "the chain's policy has changed since it was judged",
    "its machine, product, code or signer is known to be broken",
)
NO_MOMENT: Final = Moment(0)
PLATFORM_ID_BYTES_MAX: Final = 64  # AMD's; attest.policy has the same


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
    state: Annotated[int, U8] = WORKER_ACTIVE
    reason: Annotated[int, U8] = REASON_NONE
    attested_at: Moment = NO_MOMENT  # block time at which the chain judged the evidence
    # Which collateral it was judged by, as `messages.collateral.CollateralKey` says it, and which
    # evaluation; an empty product for platforms that need none.
    issuer: Annotated[int, U8] = 0
    collateral: Annotated[bytes, Bytes(bytes_max=PRODUCT_BYTES_MAX)] = b""
    number: Annotated[int, U32] = 0
    product: Annotated[bytes, Bytes(bytes_max=PRODUCT_BYTES_MAX)] = b""  # Intel's FMSPC, AMD's code
    platform_id: Annotated[bytes, Bytes(bytes_max=PLATFORM_ID_BYTES_MAX)] = b""  # Intel's PPID, ...
    signer: Annotated[bytes, Bytes(bytes_max=MEASUREMENT_BYTES_MAX)] = b""  # of the code, if any
    devices: Annotated[int, U8] = 0  # GPUs and switches whose evidence was accepted, too


def worker_state(info: WorkerInfo) -> str:
    """How a worker stands, for people."""
    word = ("active", "stale", "suspended")[info.state]
    return word if info.state == WORKER_ACTIVE else f"{word}: {REASONS[info.reason]}"


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
