"""The tables of an enclave, and the records in them. Marks are a format: never reuse one."""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import (
    BOOL,
    U8,
    U32,
    U64,
    Bytes,
    Descriptor,
    FixedBytes,
    Option,
    Reader,
    Registry,
    Vector,
)
from phala.codec.registry import Type
from phala.crypto.secret import Secret
from phala.enclave.store import Table
from phala.messages.bus import TOPIC_STATE
from phala.messages.payloads.enclave import SIGNED_MESSAGE
from phala.messages.registration import SIGNED_REGISTRATION
from phala.messages.state import CODE_BYTES_MAX
from phala.messages.types import (
    ClusterId,
    CodeId,
    Epoch,
    Generation,
    SealKey,
    WorkerId,
    scale,
)
from phala.primitives.types import BLOCK_NUMBER, AccountId, BlockNumber, Hash, Moment


@dataclass(frozen=True, slots=True)
class SecretBytes(Descriptor[Secret]):
    """32 bytes that print as `…` outside the table."""

    def write(self, out: bytearray, value: Secret, /) -> None:
        _KEY32.write(out, value.reveal())

    def read(self, reader: Reader, /) -> Secret:
        return Secret(_KEY32.read(reader))

    def type_info(self, registry: Registry, /) -> Type:
        return _KEY32.type_info(registry)


_KEY32: Final[FixedBytes[bytes]] = FixedBytes(32)
SECRET32: Final = SecretBytes()
DUES_MAX: Final = 1024
OFFERED_MAX: Final = 8  # registrations made and not accepted yet
RECENT_BLOCKS: Final = 2_400  # a client's finalized block may be so old: two hours of blocks

CONTRACT_LIVE: Final = 1
CONTRACT_FAILED: Final = 2


@dataclass(frozen=True, slots=True)
class EpochKey:
    """A short-lived X25519 key of this worker."""

    epoch: Epoch
    public: SealKey
    secret: Annotated[Secret, SECRET32]


EPOCH_KEY: Final = scale(EpochKey)


@dataclass(frozen=True, slots=True)
class EpochKeys:
    """`pending` is in a registration that the chain has not taken yet; `previous` serves what was
    encrypted before the change, until `previous_until`."""

    current: Annotated[EpochKey | None, Option(EPOCH_KEY)]
    previous: Annotated[EpochKey | None, Option(EPOCH_KEY)]
    previous_until: BlockNumber
    pending: Annotated[EpochKey | None, Option(EPOCH_KEY)]


NO_KEYS: Final = EpochKeys(None, None, BlockNumber(0), None)


@dataclass(frozen=True, slots=True)
class Finalized:
    """What the chain's state proved at the block that the enclave has reached."""

    height: BlockNumber
    hash: Hash
    time: Moment
    registered: Annotated[bool, BOOL]
    ingress: Annotated[int, U64]  # the next number that the chain takes
    epoch: Epoch  # of the encryption key that the chain lists; 0: none
    due: Annotated[bool, BOOL] = False  # its evidence is to be renewed, though it still counts


NOWHERE: Final = Finalized(
    height=BlockNumber(0),
    hash=Hash(bytes(32)),
    time=Moment(0),
    registered=False,
    ingress=0,
    epoch=Epoch(0),
)


@dataclass(frozen=True, slots=True)
class Recent:
    """A finalized block that the enclave passed."""

    number: BlockNumber
    hash: Hash


@dataclass(frozen=True, slots=True)
class Group:
    """A period's group key, and how many gatekeepers must give a partial."""

    period: Annotated[int, U32]
    threshold: Annotated[int, U32]
    public: Annotated[bytes, Bytes(bytes_max=48)]  # empty until it is set


@dataclass(frozen=True, slots=True)
class Seat:
    """This enclave's gatekeeper's share of a period."""

    period: Annotated[int, U32]
    threshold: Annotated[int, U32]
    index: Annotated[int, U32]
    secret: Annotated[Secret, SECRET32]
    group_public: Annotated[bytes, Bytes(bytes_max=48)]


@dataclass(frozen=True, slots=True)
class Due:
    """A worker that is to get a partial of a cluster's key."""

    cluster: ClusterId
    generation: Generation
    worker: WorkerId
    encryption_key: SealKey


@dataclass(frozen=True, slots=True)
class Membership:
    """This enclave's part in a cluster."""

    serves: Annotated[bool, BOOL]  # the chain added this worker
    whole: Annotated[bool, BOOL]  # every step of the topic so far was executed here
    generation: Generation  # the newest, whether or not its key is here
    previous: Generation
    previous_until: BlockNumber  # commands of `previous` are good up to this block


OUTSIDE: Final = Membership(
    serves=False,
    whole=True,
    generation=Generation(0),
    previous=Generation(0),
    previous_until=BlockNumber(0),
)


@dataclass(frozen=True, slots=True)
class Partial:
    """A verified partial that waits for others."""

    index: Annotated[int, U32]
    signature: Annotated[bytes, Bytes(bytes_max=96)]


@dataclass(frozen=True, slots=True)
class Contract:
    cluster: ClusterId
    code_id: CodeId
    kind: Annotated[int, U8]
    deployer: AccountId
    deployed_at: BlockNumber
    state: Annotated[int, U8]
    announced: Generation  # its public keys of this generation are sent


@dataclass(frozen=True, slots=True)
class Kept:
    """A call's answer, or why it was refused where nobody's key was known to encrypt that to."""

    block: BlockNumber
    sealed: Annotated[bytes, Bytes(bytes_max=128 * 1024)]
    refusal: Annotated[bytes, Bytes(bytes_max=256)]


EPOCHS: Final = Table(b"E", scale(EpochKeys))
LIGHT: Final = Table(b"L", Bytes(bytes_max=1 << 20))  # `light.encode`
FINALIZED: Final = Table(b"F", scale(Finalized))
RECENT: Final = Table(b"B", scale(Recent))  # by number modulo RECENT_BLOCKS, u32
TOPICS: Final = Table(b"T", TOPIC_STATE)  # by topic
EGRESS: Final = Table(b"M", SIGNED_MESSAGE)  # by sequence, u64 big-endian
EGRESS_NEXT: Final = Table(b"N", U64)
REGISTRATION: Final = Table(b"R", SIGNED_REGISTRATION)  # that the chain accepted
OFFERED: Final = Table(b"r", Vector(SIGNED_REGISTRATION, items_max=OFFERED_MAX))  # newest last
GROUPS: Final = Table(b"G", scale(Group))  # by period
SEATS: Final = Table(b"A", scale(Seat))  # by period
DUES: Final = Table(b"D", Vector(scale(Due), items_max=DUES_MAX))
MEMBERSHIPS: Final = Table(b"C", scale(Membership))  # by cluster
PARTIALS: Final = Table(b"P", Vector(scale(Partial), items_max=256))  # by cluster, generation
CLUSTER_KEYS: Final = Table(b"K", SECRET32)  # by cluster, generation
CONTRACTS: Final = Table(b"I", scale(Contract))  # by contract
CODES: Final = Table(b"Y", Bytes(bytes_max=CODE_BYTES_MAX))  # by code id
SEEN: Final = Table(b"V", BLOCK_NUMBER)  # by call: the block that it expires in
OUTCOMES: Final = Table(b"O", scale(Kept))  # by call
