"""Chain to enclave: numbered messages in topics, each topic one hash chain.

The state keeps `TopicState(count, head)` for a topic, so one storage proof checks any batch:
`head' = blake2_256(head ‖ SCALE(envelope))`, from `first_head(genesis, topic)` at count 0.
Source: DESIGN §3.
"""

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from phala.codec import U8, U32, Bytes, Descriptor, Enum, struct_of
from phala.crypto.hashes import blake2_128, blake2_256
from phala.messages.types import DESCRIPTORS, ClusterId, ContractId, Count, WorkerId, scale
from phala.primitives.keys import storage_prefix
from phala.primitives.types import AccountId, BlockNumber, Hash, Moment

ENVELOPE_VERSION: Final = 1
TOPIC_BYTES_MAX: Final = 96
PAYLOAD_BYTES_MAX: Final = 128 * 1024  # a command of the largest padding class, and its frame
HEADS_EVERY: Final = 256  # counts between two kept heads
BATCH_ITEMS_MAX: Final = 1024  # envelopes in one feed of one topic

SYSTEM_TOPIC: Final = b"system"


@dataclass(frozen=True, slots=True)
class PalletSender:
    name: Annotated[bytes, Bytes(bytes_max=32)]


@dataclass(frozen=True, slots=True)
class ContractSender:
    contract: ContractId


@dataclass(frozen=True, slots=True)
class WorkerSender:
    worker: WorkerId


@dataclass(frozen=True, slots=True)
class AccountSender:
    account: AccountId


@dataclass(frozen=True, slots=True)
class GatekeeperSender:
    worker: WorkerId


@dataclass(frozen=True, slots=True)
class ClusterSender:
    cluster: ClusterId


Sender: TypeAlias = (
    PalletSender | ContractSender | WorkerSender | AccountSender | GatekeeperSender | ClusterSender
)

# The numbers are the original's `MessageOrigin`; 4 was MultiLocation.
SENDER: Final = Enum(
    ("phala", "messages", "Sender"),
    tuple(
        (index, struct_of(kind, DESCRIPTORS))
        for index, kind in (
            (0, PalletSender),
            (1, ContractSender),
            (2, WorkerSender),
            (3, AccountSender),
            (5, GatekeeperSender),
            (6, ClusterSender),
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message as the chain wrote it. `index` counts messages of all topics in its block."""

    version: Annotated[int, U8]
    block: BlockNumber
    index: Annotated[int, U32]
    time: Moment
    sender: Annotated[Sender, SENDER]
    topic: Annotated[bytes, Bytes(bytes_max=TOPIC_BYTES_MAX)]
    payload: Annotated[bytes, Bytes(bytes_max=PAYLOAD_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class TopicState:
    """What the chain's state holds of a topic."""

    count: Count
    head: Hash


ENVELOPE: Final[Descriptor[Envelope]] = scale(Envelope)
ENVELOPE_BYTES: Final = Bytes(bytes_max=PAYLOAD_BYTES_MAX + 256)
TOPIC_STATE: Final[Descriptor[TopicState]] = scale(TopicState)
TOPIC: Final = Bytes(bytes_max=TOPIC_BYTES_MAX)


def cluster_topic(cluster: ClusterId) -> bytes:
    """The one topic that orders everything for a cluster."""
    return b"cluster/" + cluster.hex().encode()


def first_head(genesis: Hash, topic: bytes) -> Hash:
    return Hash(blake2_256(genesis + topic))


def next_head(head: Hash, envelope: bytes) -> Hash:
    """The head after one more envelope, given as its SCALE bytes."""
    return Hash(blake2_256(head + envelope))


def topic_key(topic: bytes) -> bytes:
    """Where the chain's state keeps a topic's `TopicState`: `PhalaMq.Topics`, Blake2_128Concat."""
    encoded = TOPIC.encode(topic)
    return storage_prefix("PhalaMq", "Topics") + blake2_128(encoded) + encoded


def ingress_key(worker: WorkerId) -> bytes:
    """Where the state keeps the next sequence number (u64) of a worker's signed messages."""
    return storage_prefix("PhalaMq", "Ingress") + blake2_128(worker) + worker
