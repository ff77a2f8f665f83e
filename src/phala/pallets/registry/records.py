"""What the registry tells and keeps."""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import (
    U8,
    U16,
    U32,
    U64,
    Bytes,
    Descriptor,
    Malformed,
    Reader,
    Registry,
    Text,
    Vector,
)
from phala.codec.registry import Type
from phala.frame import Case, cases_type, event
from phala.messages.payloads.system import GROUP_KEY_BYTES
from phala.messages.registration import MEASUREMENT_BYTES_MAX
from phala.messages.types import WorkerId
from phala.primitives.types import BlockNumber, Hash, Moment

ENDPOINTS_MAX: Final = 4
BLOCKED_BYTES_MAX: Final = 64

# What is known to be broken: wire format, never reuse one.
BLOCK_MACHINE: Final = 0  # Intel's PPID, AMD's chip id: `WorkerInfo.platform_id`
BLOCK_PRODUCT: Final = 1  # `WorkerInfo.product`
BLOCK_MEASUREMENT: Final = 2
BLOCK_SIGNER: Final = 3
BLOCK_KINDS: Final = (BLOCK_MACHINE, BLOCK_PRODUCT, BLOCK_MEASUREMENT, BLOCK_SIGNER)
GROUP_COLLATERAL: Final = 4  # of workers that were judged by one product's collateral

_MEASUREMENT: Final = Bytes(bytes_max=MEASUREMENT_BYTES_MAX)


# ---- events


@event
class WorkerRegistered:
    """A worker's evidence was accepted; 1 is the best confidence, 5 no hardware protection."""

    worker: WorkerId
    confidence: Annotated[int, U8]


@event
class GatekeeperAppointed:
    """A worker holds a share of the period's group key."""

    worker: WorkerId
    period: Annotated[int, U32]
    index: Annotated[int, U32]


@event
class GroupKeySet:
    """The period's group key is known."""

    period: Annotated[int, U32]
    public: Annotated[bytes, Bytes(bytes_max=GROUP_KEY_BYTES)]


@event
class WorkerStale:
    """What a worker was judged by counts no longer, or soon: it has to attest again."""

    worker: WorkerId
    reason: Annotated[int, U8]  # `REASON_` of messages.state


@event
class WorkerFresh:
    """A stale worker's collateral was renewed."""

    worker: WorkerId


@event
class WorkerSuspended:
    """A worker serves no more, until it attests again and is accepted."""

    worker: WorkerId
    reason: Annotated[int, U8]


@event
class PolicySet:
    """Evidence is judged otherwise; who was judged before attests again until that time."""

    policy: Hash  # blake2_256 of its text
    effective_at: Moment


@event
class TermsSet:
    """How long evidence counts, in milliseconds."""

    attestation_age_ms_max: Annotated[int, U64]


@event
class MeasurementAllowed:
    """Workers may be this code."""

    measurement: Annotated[bytes, _MEASUREMENT]


@event
class MeasurementDisallowed:
    """No worker registers as this code any more."""

    measurement: Annotated[bytes, _MEASUREMENT]


@event
class SignerAllowed:
    """Workers may be what a signer signs, from a security version on."""

    signer: Annotated[bytes, _MEASUREMENT]
    product: Annotated[int, U16]
    svn_min: Annotated[int, U16]


@event
class SignerDisallowed:
    """No worker registers as what this signer signs any more."""

    signer: Annotated[bytes, _MEASUREMENT]
    product: Annotated[int, U16]


@event
class RuntimeAllowed:
    """Workers may have this runtime module; new contracts run on it."""

    runtime: Hash


@event
class RuntimeDisallowed:
    """No worker registers with this runtime module any more."""

    runtime: Hash


@event
class PlatformBlocked:
    """Something is known to be broken: whoever depends on it is suspended from this block on."""

    kind: Annotated[int, U8]
    value: Annotated[bytes, Bytes(bytes_max=BLOCKED_BYTES_MAX)]


@event
class PlatformUnblocked:
    """It was not broken: whoever depends on it may register."""

    kind: Annotated[int, U8]
    value: Annotated[bytes, Bytes(bytes_max=BLOCKED_BYTES_MAX)]


# ---- records


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """A seat: who holds which share of a period's group key."""

    worker: WorkerId
    period: Annotated[int, U32]
    index: Annotated[int, U32]  # of its share, from 1


@dataclass(frozen=True, slots=True)
class Seats:
    """How many gatekeepers a period has, and how many of them make a key."""

    seats: Annotated[int, U32]
    threshold: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class GroupKey:
    """The public key of a period."""

    period: Annotated[int, U32]
    public: Annotated[bytes, Bytes(bytes_max=GROUP_KEY_BYTES)]


@dataclass(frozen=True, slots=True)
class Refreshes:
    """How often a worker was listed anew since a block."""

    since: BlockNumber
    count: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class Ends:
    """Of a queue whose items are numbered as they come."""

    first: Annotated[int, U64]
    next: Annotated[int, U64]


@dataclass(frozen=True, slots=True)
class Attested:
    """A worker was judged at a block's time. Later ones of the same worker replace it."""

    worker: WorkerId
    at: Moment


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """Who was judged before `at`, or in its block, must be judged anew until `effective_at`."""

    at: Moment
    effective_at: Moment


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose code workers may be: SGX's MRSIGNER with product and least security version."""

    signer: Annotated[bytes, _MEASUREMENT]
    product: Annotated[int, U16]
    svn_min: Annotated[int, U16]


@dataclass(frozen=True, slots=True)
class Blocked:
    """One entry of the list of what is broken."""

    kind: Annotated[int, U8]
    value: Annotated[bytes, Bytes(bytes_max=BLOCKED_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker stands in a group of workers."""

    group: Hash
    index: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class Sweep:
    """A group whose workers are looked at again, from the last to the first."""

    group: Hash
    left: Annotated[int, U32]


ADDRESSES: Final = Vector(Text(bytes_max=256), items_max=ENDPOINTS_MAX)


@dataclass(frozen=True, slots=True)
class Endpoints(Descriptor[tuple[str, ...]]):
    """`VersionedWorkerEndpoints::V1(Vec<String>)`, as `@phala/sdk` reads it."""

    def write(self, out: bytearray, value: tuple[str, ...], /) -> None:
        out.append(0)
        ADDRESSES.write(out, value)

    def read(self, reader: Reader, /) -> tuple[str, ...]:
        if reader.take(1) != b"\0":
            raise Malformed("endpoints are of version 1", offset=reader.offset - 1)
        return ADDRESSES.read(reader)

    def type_info(self, registry: Registry, /) -> Type:
        path = ("phala_types", "VersionedWorkerEndpoints")
        return cases_type(path, [Case("V1", 0, (ADDRESSES,))], registry)
