"""A client of an enclave, in tests: seals commands and queries as an SDK does, opens answers."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from phala.crypto import hpke
from phala.crypto.secret import Secret
from phala.crypto.signatures import sr25519_from_seed, sr25519_sign
from phala.enclave.door import Enclave
from phala.messages.calls import (
    CALL_VERSION,
    CERTIFICATE,
    COMMAND_CONTEXT,
    COMMAND_REQUEST,
    COMMAND_TAG,
    COMMAND_VERSION,
    QUERY_CONTEXT,
    QUERY_ENVELOPE,
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
    SignedCertificate,
    SignedQuery,
    deploy_id,
)
from phala.messages.fuel import FUEL_DEFAULT
from phala.messages.padding import pad
from phala.messages.replies import open_deployed, open_reply
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.types import (
    CallId,
    CodeId,
    ContractId,
    Count,
    Epoch,
    Generation,
    SealKey,
    Signature64,
    WorkerId,
)
from phala.primitives.types import AccountId, BlockNumber, Moment
from phala.testing.enclave import HashEntropy, SimWorker
from phala.testing.sim_chain import SimChain


@dataclass(frozen=True, slots=True)
class Sent:
    """A command on the chain, and the key to its outcome."""

    call: CallId
    reply_key: bytes
    envelope: CommandEnvelope


@dataclass(frozen=True, slots=True)
class Addressee:
    """A worker and the key that queries are encrypted to."""

    worker: WorkerId
    epoch: Epoch
    public: SealKey


def addressee(to: SimWorker | Addressee) -> Addressee:
    if isinstance(to, Addressee):
        return to
    current = to.enclave.view.epochs.current
    if current is None:  # nobody can encrypt to it, but what it was asked can be signed
        return Addressee(to.identity.worker, Epoch(0), SealKey(bytes(32)))
    return Addressee(to.identity.worker, current.epoch, current.public)


class Caller:
    """An account with the keys of its calls."""

    def __init__(self, chain: SimChain, name: bytes) -> None:
        self.chain = chain
        self.entropy = HashEntropy(name)
        self.pair = sr25519_from_seed(hashlib.sha256(name).digest())
        self.session = sr25519_from_seed(hashlib.sha256(name + b"session").digest())
        self.account = AccountId(self.pair.public)
        self.private = Secret(hashlib.sha256(name + b"private").digest())

    # ---- deployments

    def deploy(self, source: bytes, *, arguments: bytes = b"{}", salt: bytes = b"") -> ContractId:
        reply_to = SealKey(hpke.public_of(self.private))
        return self.chain.deploy(
            self.account, source, arguments=arguments, reply_to=reply_to, salt=salt
        )[0]

    def deployed(self, enclave: Enclave, contract: ContractId) -> Outcome:
        call = deploy_id(self.chain.genesis, contract)
        sealed = enclave.outcome(call).sealed
        assert sealed is not None, "the deployment was executed"
        found = SEALED_REPLY.decode(sealed)
        return open_deployed(self.private, self.chain.genesis, found).outcome

    # ---- commands

    def command(
        self,
        contract: ContractId,
        method: str,
        arguments: bytes,
        *,
        expires: int | None = None,
        generation: int = 1,
        code_id: CodeId | None = None,
        version: int = COMMAND_VERSION,
        fuel: int = FUEL_DEFAULT,
    ) -> Sent:
        """Sealed, not yet on the chain."""
        reply_key = self.entropy.random_bytes(32)
        until = BlockNumber(self.chain.number + 100 if expires is None else expires)
        context = CommandContext(
            tag=COMMAND_TAG,
            genesis=self.chain.genesis,
            cluster=self.chain.cluster,
            contract=contract,
            sender=self.account,
            generation=Generation(generation),
            code_id=code_id,
            expires=until,
            fuel=fuel,
        )
        request = COMMAND_REQUEST.encode(CommandRequest(reply_key, method, arguments))
        key = self.chain.keys[contract].command_key
        sealed = hpke.seal(key, pad(request), COMMAND_CONTEXT.encode(context))
        envelope = CommandEnvelope(version, Generation(generation), code_id, until, fuel, sealed)
        return Sent(CallId(bytes(32)), reply_key, envelope)

    def submit(self, contract: ContractId, sent: Sent) -> Sent:
        call = self.chain.command(self.account, contract, sent.envelope)
        return Sent(call, sent.reply_key, sent.envelope)

    def send(self, contract: ContractId, method: str, **arguments: Any) -> Sent:
        return self.submit(contract, self.command(contract, method, json.dumps(arguments).encode()))

    def reply(self, enclave: Enclave, sent: Sent) -> Reply:
        sealed = enclave.outcome(sent.call).sealed
        assert sealed is not None, "the command was executed"
        return open_reply(sent.reply_key, SEALED_REPLY.decode(sealed))

    def outcome(self, enclave: Enclave, sent: Sent) -> Outcome:
        return self.reply(enclave, sent).outcome

    # ---- queries

    def request(
        self, contract: ContractId, method: str, arguments: bytes = b"{}", **changed: Any
    ) -> QueryRequest:
        block = self.chain.blocks[-1].header
        fields: dict[str, Any] = {
            "contract": contract,
            "code_id": None,
            "id": CallId(self.entropy.random_bytes(32)),
            "method": method,
            "arguments": arguments,
            "reply_key": self.entropy.random_bytes(32),
            "height": block.number,
            "block_hash": block.hash(),
            "count": Count(0),
            "expires": Moment(self.chain.time + 60_000),
        }
        return QueryRequest(**{**fields, **changed})

    def certificate(self, *, expires: int | None = None) -> SignedCertificate:
        until = Moment(self.chain.time + 600_000 if expires is None else expires)
        body = Certificate(self.account, self.session.public, until)
        message = signed_bytes(Purpose.CERTIFICATE, self.chain.genesis, CERTIFICATE.encode(body))
        return SignedCertificate(body, Signature64(sr25519_sign(self.pair, message)))

    def signed(self, worker: SimWorker | Addressee, request: QueryRequest) -> SignedQuery:
        body = addressee(worker).worker + QUERY_REQUEST.encode(request)
        message = signed_bytes(Purpose.QUERY, self.chain.genesis, body)
        signature = Signature64(sr25519_sign(self.session, message))
        return SignedQuery(request, self.certificate(), signature)

    def seal(self, worker: SimWorker | Addressee, query: SignedQuery) -> bytes:
        """SCALE of a `QueryEnvelope` to the worker's current key."""
        to = addressee(worker)
        context = QueryContext(QUERY_TAG, self.chain.genesis, to.worker, to.epoch)
        sealed = hpke.seal(
            to.public, pad(SIGNED_QUERY.encode(query)), QUERY_CONTEXT.encode(context)
        )
        return QUERY_ENVELOPE.encode(QueryEnvelope(CALL_VERSION, to.epoch, sealed))

    def ask(
        self, worker: SimWorker, contract: ContractId, method: str, **arguments: Any
    ) -> Outcome:
        request = self.request(contract, method, json.dumps(arguments).encode())
        return self.answer(worker, self.signed(worker, request)).outcome

    def answer(self, worker: SimWorker, query: SignedQuery) -> Reply:
        found = SEALED_REPLY.decode(worker.ask(self.seal(worker, query)))
        return open_reply(query.request.reply_key, found)
