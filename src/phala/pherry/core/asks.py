"""What a round may ask of the node and of the worker, and what it gets back."""

from dataclasses import dataclass
from typing import TypeAlias

from phala.messages.host import HostRequest
from phala.messages.payloads.enclave import SignedMessage
from phala.messages.registration import SignedRegistration
from phala.messages.types import Count
from phala.primitives.types import BlockNumber, Hash


@dataclass(frozen=True, slots=True)
class Head:
    """A block that the node calls finalized."""

    number: BlockNumber
    hash: Hash


@dataclass(frozen=True, slots=True)
class TellWorker:
    """Answered by a `HostReply`."""

    request: HostRequest


@dataclass(frozen=True, slots=True)
class BlockAt:
    """Answered by the `Head` at a height."""

    number: BlockNumber


@dataclass(frozen=True, slots=True)
class FetchBlock:
    """Answered by a block's `FinalizedHeader`."""

    block: Hash


@dataclass(frozen=True, slots=True)
class ProveFinality:
    """Answered by `(number, FinalizedHeader)`: the last justified block of the authority set that
    decides `number`."""

    number: BlockNumber


@dataclass(frozen=True, slots=True)
class FetchState:
    """Answered by `(proof nodes, values)`: what lies under the keys in a block's state."""

    block: Hash
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FetchMessages:
    """Answered by SCALE envelopes: at most `limit`, from a count on."""

    topic: bytes
    start: Count
    limit: int


@dataclass(frozen=True, slots=True)
class FetchValues:
    """Answered by values, None where nothing lies, without proof."""

    block: Hash
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Submit:
    """Answered by None, or by the node's refusal in words."""

    message: SignedRegistration | SignedMessage


Ask: TypeAlias = (
    TellWorker
    | BlockAt
    | FetchBlock
    | ProveFinality
    | FetchState
    | FetchMessages
    | FetchValues
    | Submit
)
