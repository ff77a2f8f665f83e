"""Commands and queries: what is encrypted to a contract or a worker, and what comes back.

Command: the chain orders it. HPKE to the contract's generation key; `info` is SCALE of
`CommandContext`, so the ciphertext opens for this chain, contract, sender, generation, code and
fuel alone. The outcome is encrypted with the `reply_key` that travels inside.

Query: HPKE to the worker's current encryption key; `info` is SCALE of `QueryContext`.

Both plaintexts are padded (`padding`). HPKE output is `enc ‖ ciphertext` of
`crypto.hpke.seal(public, plaintext, info)`. Source: DESIGN §5.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import BOOL, U8, Bytes, Descriptor, FixedBytes, Option, Text, Vector
from phala.crypto.hashes import blake2_256
from phala.messages.payloads.cluster import SEALED_COMMAND_BYTES_MAX
from phala.messages.receipts import SIGNED_RECEIPT, SignedReceipt
from phala.messages.types import (
    CallId,
    ClusterId,
    CodeId,
    ContractId,
    Count,
    Epoch,
    Generation,
    Signature64,
    WorkerId,
    scale,
)
from phala.primitives.types import AccountId, BlockNumber, Hash, Moment

CALL_VERSION: Final = 1  # of queries and replies
COMMAND_VERSION: Final = 2  # 1 named no fuel
METHOD_BYTES_MAX: Final = 64
ARGUMENTS_BYTES_MAX: Final = 65_536
RESULT_BYTES_MAX: Final = 48_000  # fits the largest padding class with its receipt
SEALED_QUERY_BYTES_MAX: Final = 96 * 1024
EVENTS_MAX: Final = 64
COMMAND_BLOCKS_MAX: Final = 2_400  # an expiry lies at most this far ahead
QUERY_AGE_MS_MAX: Final = 120_000  # of block time: DESIGN §5

CODE_ID: Final = scale(CodeId)


# ---- commands


@dataclass(frozen=True, slots=True)
class CommandEnvelope:
    """The argument of `PhalaPhatContracts.push_command`, and what `CommandQueued` carries."""

    version: Annotated[int, U8]
    generation: Generation
    code_id: Annotated[CodeId | None, Option(CODE_ID)]  # None: any code the contract has then
    expires: BlockNumber  # executed in a block after this one, it is refused
    fuel: Annotated[int, U8]  # class, `messages.fuel`: what it may burn, and pays for
    sealed: Annotated[bytes, Bytes(bytes_max=SEALED_COMMAND_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The `info` of a command's encryption."""

    tag: Annotated[bytes, FixedBytes(16)]
    genesis: Hash
    cluster: ClusterId
    contract: ContractId
    sender: AccountId
    generation: Generation
    code_id: Annotated[CodeId | None, Option(CODE_ID)]
    expires: BlockNumber
    fuel: Annotated[int, U8]


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """The plaintext. Arguments are a JSON object."""

    reply_key: Annotated[bytes, FixedBytes(32)]  # made for this one command
    method: Annotated[str, Text(bytes_max=METHOD_BYTES_MAX)]
    arguments: Annotated[bytes, Bytes(bytes_max=ARGUMENTS_BYTES_MAX)]


# ---- queries


@dataclass(frozen=True, slots=True)
class QueryEnvelope:
    """What `POST /query` takes."""

    version: Annotated[int, U8]
    epoch: Epoch
    sealed: Annotated[bytes, Bytes(bytes_max=SEALED_QUERY_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class QueryContext:
    """The `info` of a query's encryption."""

    tag: Annotated[bytes, FixedBytes(16)]
    genesis: Hash
    worker: WorkerId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Certificate:
    """An account lends its name to a session key. Signed under `Purpose.CERTIFICATE`, by the
    account itself (bare or as a browser wallet wraps it), sr25519."""

    account: AccountId
    session: Annotated[bytes, FixedBytes(32)]  # sr25519
    expires: Moment  # block time


@dataclass(frozen=True, slots=True)
class SignedCertificate:
    body: Certificate
    signature: Signature64


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """The plaintext of a query, before its caller's signature."""

    contract: ContractId
    code_id: Annotated[CodeId | None, Option(CODE_ID)]
    id: CallId  # random; refused a second time within its age
    method: Annotated[str, Text(bytes_max=METHOD_BYTES_MAX)]
    arguments: Annotated[bytes, Bytes(bytes_max=ARGUMENTS_BYTES_MAX)]
    reply_key: Annotated[bytes, FixedBytes(32)]
    height: BlockNumber  # the client's finalized block: a worker behind it or on a fork refuses
    block_hash: Hash
    count: Count  # of the cluster's topic; a worker that has seen less refuses (0: any)
    expires: Moment  # block time


@dataclass(frozen=True, slots=True)
class SignedQuery:
    """What is padded and encrypted. Without a certificate the caller is anonymous."""

    request: QueryRequest
    certificate: Annotated[SignedCertificate | None, Option(scale(SignedCertificate))]
    # By the session key, under `Purpose.QUERY`: the worker's id and SCALE of the request, so that
    # whoever opens a query cannot pass it on to another worker.
    signature: Annotated[Signature64 | None, Option(scale(Signature64))]


# ---- what comes back, of both


@dataclass(frozen=True, slots=True)
class Event:
    name: Annotated[str, Text(bytes_max=64)]
    data: Annotated[bytes, Bytes(bytes_max=4096)]  # JSON


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call did. An error has a kind of `ErrorKind` and a text for its caller."""

    ok: Annotated[bool, BOOL]
    result: Annotated[bytes, Bytes(bytes_max=RESULT_BYTES_MAX)]  # JSON, when ok
    error_kind: Annotated[int, U8]
    error: Annotated[str, Text(bytes_max=4096)]
    events: Annotated[tuple[Event, ...], Vector(scale(Event), items_max=EVENTS_MAX)]
    fuel_class: Annotated[int, U8]  # log2 of the fuel, rounded up: exact amounts tell secrets


# Kinds of error, wire format.
ERROR_NONE: Final = 0
ERROR_CONTRACT: Final = 1  # the contract raised
ERROR_ARGUMENTS: Final = 2  # no such method, arguments of other types
ERROR_FUEL: Final = 3
ERROR_MEMORY: Final = 4
ERROR_STACK: Final = 5
ERROR_OUTPUT: Final = 6  # result, events or logs too large
ERROR_STATE: Final = 7  # writes too large, or a query that writes
ERROR_TIME: Final = 8  # queries only
ERROR_REFUSED: Final = 9  # the enclave refused before running: expired, copied, stale, permission
ERROR_CODE: Final = 10  # the source does not load
ERROR_CRASH: Final = 11  # the guest trapped


@dataclass(frozen=True, slots=True)
class Reply:
    """The plaintext of a reply, padded, then sealed with `reply_key` (`messages.replies`)."""

    outcome: Outcome
    blinder: Annotated[bytes, FixedBytes(32)]
    receipt: Annotated[SignedReceipt, SIGNED_RECEIPT]


@dataclass(frozen=True, slots=True)
class SealedReply:
    """What a query answers and what an outcome is kept as: `messages.replies` seals and opens it.

    A random nonce of 12 bytes, then AES-256-GCM, key `kdf.derive(reply_key, b"phala/reply/v1")`,
    associated data the call's id. A deployment has no reply key: its outcome is HPKE to its
    `reply_to`."""

    version: Annotated[int, U8]
    call: CallId
    sealed: Annotated[bytes, Bytes(bytes_max=SEALED_QUERY_BYTES_MAX)]


COMMAND_ENVELOPE: Final[Descriptor[CommandEnvelope]] = scale(CommandEnvelope)
COMMAND_CONTEXT: Final[Descriptor[CommandContext]] = scale(CommandContext)
COMMAND_REQUEST: Final[Descriptor[CommandRequest]] = scale(CommandRequest)
QUERY_ENVELOPE: Final[Descriptor[QueryEnvelope]] = scale(QueryEnvelope)
QUERY_CONTEXT: Final[Descriptor[QueryContext]] = scale(QueryContext)
CERTIFICATE: Final[Descriptor[Certificate]] = scale(Certificate)
QUERY_REQUEST: Final[Descriptor[QueryRequest]] = scale(QueryRequest)
SIGNED_QUERY: Final[Descriptor[SignedQuery]] = scale(SignedQuery)
OUTCOME: Final[Descriptor[Outcome]] = scale(Outcome)
REPLY: Final[Descriptor[Reply]] = scale(Reply)
SEALED_REPLY: Final[Descriptor[SealedReply]] = scale(SealedReply)

COMMAND_TAG: Final = b"phala/command/v2"
QUERY_TAG: Final = b"phala/query/v1\0\0"
REPLY_INFO: Final = b"phala/reply/v1"
DEPLOY_INFO: Final = b"phala/deploy-reply/v1"  # HPKE `info` is this, genesis and the call's id


def command_id(
    genesis: Hash, contract: ContractId, sender: AccountId, envelope: CommandEnvelope
) -> CallId:
    """Names a command before it is sent; the same bytes by another sender have another id."""
    body = COMMAND_ENVELOPE.encode(envelope)
    return CallId(blake2_256(b"phala/command-id/v1" + genesis + contract + sender + body))


def contract_id(
    deployer: AccountId, code_id: CodeId, cluster: ClusterId, salt: bytes
) -> ContractId:
    """blake2_256(deployer ‖ code id ‖ cluster ‖ salt), as the original's pallet."""
    return ContractId(blake2_256(deployer + code_id + cluster + salt))


def deploy_id(genesis: Hash, contract: ContractId) -> CallId:
    return CallId(blake2_256(b"phala/deploy-id/v1" + genesis + contract))


def code_id(runtime_id: Hash, source: bytes) -> CodeId:
    return CodeId(blake2_256(runtime_id + source))


def expiry(now: Moment, age_ms: int = QUERY_AGE_MS_MAX) -> Moment:
    return Moment(now + age_ms)
