"""Between an enclave and the untrusted process around it: requests in, replies out.

The same bytes travel over the enclave's pipe (framed by u32 length and u64 request id) and, for
those that `RELAY` names, over the worker's relay door. The enclave trusts none of them.
"""

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from phala.codec import BOOL, U8, U64, Bytes, Enum, Option, Text, Vector, struct_of
from phala.messages.bus import BATCH_ITEMS_MAX, ENVELOPE_BYTES, TOPIC
from phala.messages.calls import SEALED_QUERY_BYTES_MAX
from phala.messages.payloads.enclave import SIGNED_MESSAGE, SignedMessage
from phala.messages.registration import (
    EVIDENCE,
    SIGNED_REGISTRATION,
    Evidence,
    SignedRegistration,
)
from phala.messages.state import CODE_BYTES_MAX
from phala.messages.types import (
    DESCRIPTORS,
    CallId,
    CodeId,
    Count,
    WorkerId,
    scale,
)
from phala.primitives.types import ACCOUNT_ID, AccountId, BlockNumber, Hash

HOST_VERSION: Final = 1
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
HEADER_BYTES_MAX: Final = 64 * 1024
JUSTIFICATION_BYTES_MAX: Final = 256 * 1024
PROOF_NODES_MAX: Final = 4096
PROOF_NODE_BYTES_MAX: Final = 512 * 1024
FEED_HEADERS_MAX: Final = 256
FEED_TOPICS_MAX: Final = 64
FEED_CODES_MAX: Final = 512  # a block has room for fewer deployments, and a feed may be one block
TLS_READ_BYTES_MAX: Final = 64 * 1024
TLS_WRITE_BYTES_MAX: Final = 512 * 1024  # some answers, of which the largest has 112 KiB

PROOF: Final = Vector(Bytes(bytes_max=PROOF_NODE_BYTES_MAX), items_max=PROOF_NODES_MAX)


@dataclass(frozen=True, slots=True)
class FinalizedHeader:
    """SCALE of a `Header`, and the GRANDPA justification of exactly that block."""

    header: Annotated[bytes, Bytes(bytes_max=HEADER_BYTES_MAX)]
    justification: Annotated[bytes, Bytes(bytes_max=JUSTIFICATION_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class TopicBatch:
    """Envelopes (SCALE) with counts `start`, `start + 1`, ...: what follows the enclave's count."""

    topic: Annotated[bytes, TOPIC]
    start: Count
    envelopes: Annotated[tuple[bytes, ...], Vector(ENVELOPE_BYTES, items_max=BATCH_ITEMS_MAX)]


@dataclass(frozen=True, slots=True)
class Status:
    """Where does the enclave stand?"""


@dataclass(frozen=True, slots=True)
class Advance:
    """Follow the chain to the last of `headers` (each other one changes the authority set).

    `proof` is of the last one's state: `topic_key` of each topic that the enclave follows (and of
    those it is about to follow), `ingress_key` and `worker_key` of this worker, and
    `TIMESTAMP_KEY`. All batches together bring each topic to its proven count, or the enclave
    answers `Wanted`. `codes` are sources that deployments among the envelopes name.
    """

    headers: Annotated[
        tuple[FinalizedHeader, ...], Vector(scale(FinalizedHeader), items_max=FEED_HEADERS_MAX)
    ]
    proof: Annotated[tuple[bytes, ...], PROOF]
    batches: Annotated[tuple[TopicBatch, ...], Vector(scale(TopicBatch), items_max=FEED_TOPICS_MAX)]
    codes: Annotated[
        tuple[bytes, ...], Vector(Bytes(bytes_max=CODE_BYTES_MAX), items_max=FEED_CODES_MAX)
    ]


@dataclass(frozen=True, slots=True)
class Attest:
    """Make a registration for the chain, bound to the enclave's finalized block."""

    operator: Annotated[AccountId | None, Option(ACCOUNT_ID)]
    endpoints: Annotated[tuple[str, ...], Vector(Text(bytes_max=256), items_max=4)]


@dataclass(frozen=True, slots=True)
class Egress:
    """Signed messages that the chain has not taken yet, by its proven next number."""


@dataclass(frozen=True, slots=True)
class Query:
    envelope: Annotated[bytes, Bytes(bytes_max=SEALED_QUERY_BYTES_MAX + 64)]


@dataclass(frozen=True, slots=True)
class FetchOutcome:
    """The sealed outcome of a command or deployment."""

    call: CallId


@dataclass(frozen=True, slots=True)
class FetchEvidence:
    """The evidence of the last registration: what a client judges again, offline."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What came over a TCP connection of the host's, which cannot read it: TLS ends in the enclave.

    One at a time of each connection. No bytes: the connection has ended.
    """

    connection: Annotated[int, U64]  # the host's number, never used twice
    data: Annotated[bytes, Bytes(bytes_max=TLS_READ_BYTES_MAX)]


HostRequest: TypeAlias = (
    Status | Advance | Attest | Egress | Query | FetchOutcome | FetchEvidence | Tls
)
HOST_REQUEST: Final = Enum(
    ("phala", "messages", "HostRequest"),
    tuple(
        (index, struct_of(kind, DESCRIPTORS))
        for index, kind in enumerate(
            (Status, Advance, Attest, Egress, Query, FetchOutcome, FetchEvidence, Tls)
        )
    ),
)
RELAY: Final = (Status, Advance, Attest, Egress)  # what the relay door lets through


@dataclass(frozen=True, slots=True)
class Followed:
    topic: Annotated[bytes, TOPIC]
    count: Count


@dataclass(frozen=True, slots=True)
class StatusReply:
    version: Annotated[int, U8]
    genesis: Hash
    worker: WorkerId
    height: BlockNumber
    block_hash: Hash
    registered: Annotated[bool, BOOL]  # the chain lists it, with a key that it holds
    topics: Annotated[tuple[Followed, ...], Vector(scale(Followed), items_max=FEED_TOPICS_MAX)]
    runtime_id: Hash
    platform: Annotated[int, U8]
    measurement: Annotated[bytes, Bytes(bytes_max=64)]
    ready: Annotated[bool, BOOL]  # holds the key of a cluster and answers queries
    due: Annotated[bool, BOOL] = False  # registered, and to attest again before that ends


@dataclass(frozen=True, slots=True)
class Advanced:
    height: BlockNumber
    block_hash: Hash


@dataclass(frozen=True, slots=True)
class Wanted:
    """Nothing was applied: send the feed again with these topics and codes in it."""

    topics: Annotated[tuple[Followed, ...], Vector(scale(Followed), items_max=FEED_TOPICS_MAX)]
    codes: Annotated[tuple[CodeId, ...], Vector(scale(CodeId), items_max=FEED_CODES_MAX)]


@dataclass(frozen=True, slots=True)
class Attested:
    registration: Annotated[SignedRegistration, SIGNED_REGISTRATION]


@dataclass(frozen=True, slots=True)
class EgressReply:
    messages: Annotated[tuple[SignedMessage, ...], Vector(SIGNED_MESSAGE, items_max=256)]


@dataclass(frozen=True, slots=True)
class Answer:
    """SCALE `SealedReply` of a query or a kept outcome; None: no such outcome (yet)."""

    sealed: Annotated[bytes | None, Option(Bytes(bytes_max=SEALED_QUERY_BYTES_MAX + 128))]


@dataclass(frozen=True, slots=True)
class EvidenceReply:
    registration: Annotated[SignedRegistration | None, Option(SIGNED_REGISTRATION)]
    evidence: Annotated[Evidence | None, Option(EVIDENCE)]


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of one of the three families, as `phala.errors` tells it."""

    family: Annotated[int, U8]  # 0 Invalid, 1 Refused, 2 Unavailable
    kind: Annotated[str, Text(bytes_max=64)]  # the error's class
    what: Annotated[str, Text(bytes_max=4096)]
    mend: Annotated[str, Text(bytes_max=4096)]


@dataclass(frozen=True, slots=True)
class TlsReply:
    """What goes back over the connection, and whether it is to be kept."""

    data: Annotated[bytes, Bytes(bytes_max=TLS_WRITE_BYTES_MAX)]
    is_open: Annotated[bool, BOOL]


HostReply: TypeAlias = (
    StatusReply
    | Advanced
    | Wanted
    | Attested
    | EgressReply
    | Answer
    | EvidenceReply
    | Failure
    | TlsReply
)
HOST_REPLY: Final = Enum(
    ("phala", "messages", "HostReply"),
    tuple(
        (index, struct_of(kind, DESCRIPTORS))
        for index, kind in enumerate(
            (
                StatusReply,
                Advanced,
                Wanted,
                Attested,
                EgressReply,
                Answer,
                EvidenceReply,
                Failure,
                TlsReply,
            )
        )
    ),
)
