"""Commands, queries and deployments: sealed on the way out, opened and checked on the way back.

No network here. Whoever is encrypted to was verified before (`sdk.worker`), or read by proof.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from phala.crypto import hpke
from phala.crypto.secret import Secret
from phala.crypto.signatures import BadSignature, sr25519_verify
from phala.errors import Invalid, Refused
from phala.messages import replies
from phala.messages.calls import (
    CALL_VERSION,
    CERTIFICATE,
    COMMAND_CONTEXT,
    COMMAND_REQUEST,
    COMMAND_TAG,
    COMMAND_VERSION,
    ERROR_FUEL,
    ERROR_REFUSED,
    OUTCOME,
    QUERY_CONTEXT,
    QUERY_REQUEST,
    QUERY_TAG,
    SEALED_REPLY,
    SIGNED_QUERY,
    Certificate,
    CommandContext,
    CommandEnvelope,
    CommandRequest,
    Outcome,
    QueryContext,
    QueryEnvelope,
    QueryRequest,
    Reply,
    SealedReply,
    SignedCertificate,
    SignedQuery,
    command_id,
    deploy_id,
    expiry,
)
from phala.messages.fuel import FUEL_DEFAULT, FUEL_MAX
from phala.messages.padding import pad
from phala.messages.receipts import (
    KIND_COMMAND,
    KIND_DEPLOY,
    KIND_QUERY,
    RECEIPT,
    Receipt,
    SignedReceipt,
    blinded,
)
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.state import ContractKey
from phala.messages.types import (
    CallId,
    ClusterId,
    CodeId,
    ContractId,
    Count,
    Epoch,
    SealKey,
    Signature64,
    WorkerId,
)
from phala.primitives.types import AccountId, BlockNumber, Hash, Moment
from phala.sdk.keyring import Keypair, KeyType, random_pair

NO_COUNT: Final = Count(0)
SESSION_MS: Final = 30 * 60 * 1000  # how long a session key speaks for its account
SESSION_LEFT_MS_MIN: Final = 5 * 60 * 1000  # a new one is made before the old one ends

ERROR_WORDS: Final = {
    1: "the contract refused",
    2: "the contract takes other arguments",
    3: "the call used up its fuel",
    4: "the call used up its memory",
    5: "the call nested too deep",
    6: "the call put out too much",
    7: "the call wrote too much, or a query wrote",
    8: "the query took too long",
    9: "the enclave refused",
    10: "the source does not load",
    11: "the contract crashed",
}


class CallFailed(Refused):
    """The call ran, or was refused inside the enclave; `kind` is a number of `messages.calls`."""

    def __init__(self, outcome: Outcome) -> None:
        words = ERROR_WORDS.get(outcome.error_kind, f"error {outcome.error_kind}")
        mend = "change the call as the text says"
        if outcome.error_kind == ERROR_FUEL:
            mend = f"do less in one call, or send it with more fuel: --fuel, up to {FUEL_MAX}"
        super().__init__(f"{words}: {outcome.error}", mend=mend)
        self.kind = outcome.error_kind


class ReceiptRefused(Refused):
    """An answer does not fit what was asked, or is not the verified worker's."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the receipt is refused: {what}", mend="ask another worker")


@dataclass(frozen=True, slots=True)
class Answer:
    """An outcome whose receipt was checked, and what the receipt is about."""

    outcome: Outcome
    receipt: SignedReceipt
    blinder: bytes
    request: bytes  # what the receipt's request hash covers
    response: bytes  # SCALE of the outcome

    def value(self) -> Any:
        """The result, parsed. Raises `CallFailed`."""
        if not self.outcome.ok:
            raise CallFailed(self.outcome)
        try:
            return json.loads(self.outcome.result)
        except ValueError:
            raise Invalid("the result is no JSON", mend="tell the contract's author") from None


@dataclass(frozen=True, slots=True)
class Pending:
    """What is known of a call before its answer: what the receipt must say."""

    kind: int
    call: CallId
    genesis: Hash
    contract: ContractId
    request: bytes
    opens_with: Secret  # the reply key; for a deployment the X25519 private key
    code_id: CodeId | None  # None: any
    cluster: ClusterId | None
    worker: WorkerId | None  # None: any worker that the chain lists
    epoch: Epoch | None
    height: BlockNumber  # an answer from before it is stale
    count: Count


@dataclass(frozen=True, slots=True)
class Session:
    """A key that speaks for an account for a while, so that wallets sign once."""

    certificate: SignedCertificate
    pair: Keypair

    @property
    def expires(self) -> Moment:
        return self.certificate.body.expires


@dataclass(frozen=True, slots=True)
class Place:
    """Where the client stands: a finalized block, its time, and what it knows of the topic."""

    genesis: Hash
    height: BlockNumber
    block_hash: Hash
    now: Moment
    count: Count = NO_COUNT


@dataclass(frozen=True, slots=True)
class Addressee:
    """A verified worker's current key."""

    worker: WorkerId
    epoch: Epoch
    public: SealKey


def encode_arguments(arguments: Mapping[str, Any]) -> bytes:
    """JSON; a number that is none (NaN) is refused."""
    try:
        text = json.dumps(
            dict(arguments), separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode()
    except (TypeError, ValueError) as error:
        raise Invalid(f"the arguments are no JSON: {error}", mend="pass plain values") from None


def open_session(pair: Keypair, genesis: Hash, now: Moment) -> Session:
    """Certify a fresh session key. Accounts of other kinds than sr25519 cannot, so far."""
    if pair.type is not KeyType.SR25519:
        raise Invalid(
            f"a {pair.type.value} account cannot sign queries", mend="use an sr25519 account"
        )
    session = random_pair()
    body = Certificate(pair.account, session.public, expiry(now, SESSION_MS))
    message = signed_bytes(Purpose.CERTIFICATE, genesis, CERTIFICATE.encode(body))
    return Session(SignedCertificate(body, Signature64(pair.sign(message))), session)


def seal_query(
    place: Place,
    to: Addressee,
    contract: ContractId,
    method: str,
    arguments: bytes,
    *,
    session: Session | None,
    code_id: CodeId | None = None,
) -> tuple[QueryEnvelope, Pending]:
    """Encrypt a query to a verified worker. Without a session its caller is anonymous."""
    reply_key = Secret(secrets.token_bytes(32))
    request = QueryRequest(
        contract=contract,
        code_id=code_id,
        id=CallId(secrets.token_bytes(32)),
        method=method,
        arguments=arguments,
        reply_key=reply_key.reveal(),
        height=place.height,
        block_hash=place.block_hash,
        count=place.count,
        expires=expiry(place.now),
    )
    signature = None
    if session is not None:
        # The worker is signed too: whoever opens a query cannot pass it on to another one.
        body = to.worker + QUERY_REQUEST.encode(request)
        message = signed_bytes(Purpose.QUERY, place.genesis, body)
        signature = Signature64(session.pair.sign(message))
    signed = SIGNED_QUERY.encode(
        SignedQuery(request, session.certificate if session else None, signature)
    )
    info = QUERY_CONTEXT.encode(QueryContext(QUERY_TAG, place.genesis, to.worker, to.epoch))
    sealed = hpke.seal(to.public, pad(signed), info)
    pending = Pending(
        kind=KIND_QUERY,
        call=request.id,
        genesis=place.genesis,
        contract=contract,
        request=signed,
        opens_with=reply_key,
        code_id=code_id,
        cluster=None,
        worker=to.worker,
        epoch=to.epoch,
        height=place.height,
        count=place.count,
    )
    return QueryEnvelope(CALL_VERSION, to.epoch, sealed), pending


def seal_command(
    place: Place,
    key: ContractKey,
    contract: ContractId,
    method: str,
    arguments: bytes,
    *,
    sender: AccountId,
    cluster: ClusterId,
    expires: BlockNumber,
    code_id: CodeId | None = None,
    fuel: int = FUEL_DEFAULT,
) -> tuple[CommandEnvelope, Pending]:
    """Encrypt a command to a contract's key, for one sender: a copy by another one is refused.
    It may burn 2**fuel, and pays for that."""
    reply_key = Secret(secrets.token_bytes(32))
    request = COMMAND_REQUEST.encode(CommandRequest(reply_key.reveal(), method, arguments))
    context = CommandContext(
        tag=COMMAND_TAG,
        genesis=place.genesis,
        cluster=cluster,
        contract=contract,
        sender=sender,
        generation=key.generation,
        code_id=code_id,
        expires=expires,
        fuel=fuel,
    )
    sealed = hpke.seal(key.command_key, pad(request), COMMAND_CONTEXT.encode(context))
    envelope = CommandEnvelope(COMMAND_VERSION, key.generation, code_id, expires, fuel, sealed)
    pending = Pending(
        kind=KIND_COMMAND,
        call=command_id(place.genesis, contract, sender, envelope),
        genesis=place.genesis,
        contract=contract,
        request=request,
        opens_with=reply_key,
        code_id=code_id,
        cluster=cluster,
        worker=None,
        epoch=None,
        height=place.height,
        count=Count(0),
    )
    return envelope, pending


def prepare_deploy(
    place: Place,
    contract: ContractId,
    code_id: CodeId,
    arguments: bytes,
    *,
    cluster: ClusterId,
) -> tuple[SealKey, Pending]:
    """The key that the outcome will be encrypted to, and what the receipt must say."""
    private = Secret(secrets.token_bytes(32))
    pending = Pending(
        kind=KIND_DEPLOY,
        call=deploy_id(place.genesis, contract),
        genesis=place.genesis,
        contract=contract,
        request=arguments,
        opens_with=private,
        code_id=code_id,
        cluster=cluster,
        worker=None,
        epoch=None,
        height=place.height,
        count=Count(0),
    )
    return SealKey(hpke.public_of(private)), pending


def open_reply(pending: Pending, data: bytes) -> Answer:
    """Open what came back and check its receipt.

    1. The reply is of this call, and opens with the key made for it.
    2. The receipt is of this chain, kind, call, contract, code and cluster.
    3. Its hashes are of what was asked and of what is answered here.
    4. It is not older than what was asked for.
    5. Its worker, and its epoch, are the ones asked.
    6. That worker signed it.

    Whether the chain lists the worker, and its evidence, is the caller's to check for a command
    (`sdk.worker`): there any worker of the cluster may answer.

    Raises:
        ReceiptRefused, Invalid: any of these.
    """
    sealed = SEALED_REPLY.decode(data)
    if sealed.version != CALL_VERSION or sealed.call != pending.call:  # 1
        raise ReceiptRefused("it answers another call")
    reply = _opened(pending, sealed)
    response = OUTCOME.encode(reply.outcome)
    check_receipt(pending, reply, response)
    return Answer(reply.outcome, reply.receipt, reply.blinder, pending.request, response)


def _opened(pending: Pending, sealed: SealedReply) -> Reply:
    if pending.kind == KIND_DEPLOY:
        return replies.open_deployed(pending.opens_with, pending.genesis, sealed)
    return replies.open_reply(pending.opens_with.reveal(), sealed)


def check_receipt(pending: Pending, reply: Reply, response: bytes) -> None:
    """Checks 2 to 6 of `open_reply`."""
    body = reply.receipt.body
    said = (body.kind, body.genesis, body.call, body.contract)
    if said != (pending.kind, pending.genesis, pending.call, pending.contract):  # 2
        raise ReceiptRefused("it is of another chain, call or contract")
    # What was refused before it ran names no code, cluster or place in a topic.
    ran = reply.outcome.ok or reply.outcome.error_kind != ERROR_REFUSED
    if ran and pending.code_id not in (None, body.code_id):
        raise ReceiptRefused("the contract runs other code")
    if ran and pending.cluster not in (None, body.cluster):
        raise ReceiptRefused("it is of another cluster")
    asked = blinded(reply.blinder, pending.request)
    if (body.request, body.response) != (asked, blinded(reply.blinder, response)):  # 3
        raise ReceiptRefused("its hashes are of another request or response")
    if body.height < pending.height:  # 4
        raise ReceiptRefused(f"it is of block {body.height}, before {pending.height}")
    if ran and body.count < pending.count:
        raise ReceiptRefused(f"it is of message {body.count}, before {pending.count}")
    if pending.worker not in (None, body.worker) or pending.epoch not in (None, body.epoch):  # 5
        raise ReceiptRefused("another worker answered")
    check_receipt_signature(reply.receipt)  # 6


def check_receipt_signature(receipt: SignedReceipt) -> Receipt:
    """The receipt's body, signed by the worker that it names."""
    body = receipt.body
    message = signed_bytes(Purpose.RECEIPT, body.genesis, RECEIPT.encode(body))
    try:
        sr25519_verify(body.worker, message, receipt.signature)
    except BadSignature:
        raise ReceiptRefused("its worker did not sign it") from None
    return body
