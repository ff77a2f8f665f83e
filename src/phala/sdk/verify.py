"""Checks a receipt bundle offline: no word of it counts until somebody trusted stands behind it.

Trusted are the genesis hash and the roots of `Trust`, and nothing else. `verify_bundle` lists what
is checked, in this order; each check in the code carries its number.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from phala.attest import Verdict
from phala.codec import Descriptor
from phala.crypto.hashes import blake2_256, twox_64
from phala.crypto.signatures import sr25519_verify
from phala.errors import Invalid, PhalaError, Refused
from phala.finality import light
from phala.finality.light import LightHead
from phala.messages.bus import TOPIC_STATE, TopicState, cluster_topic, topic_key
from phala.messages.calls import COMMAND_REQUEST, OUTCOME, SIGNED_QUERY, Outcome, deploy_id
from phala.messages.receipts import (
    KIND_COMMAND,
    KIND_DEPLOY,
    KIND_QUERY,
    RECEIPT,
    RECEIPT_VERSION,
    Receipt,
    blinded,
)
from phala.messages.registration import Registration
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.state import (
    CLUSTER_STATE,
    CONTRACT_INFO,
    TIMESTAMP_KEY,
    WORKER_INFO,
    ClusterState,
    ContractInfo,
    WorkerInfo,
    cluster_key,
    contract_key,
    worker_key,
    worker_state,
)
from phala.primitives.keys import storage_prefix
from phala.primitives.types import BLOCK_NUMBER, HASH, MOMENT, BlockNumber, Hash, Moment
from phala.sdk.bundle import Bundle
from phala.sdk.judge import (
    ensure_serving,
    time_of,
    verify_binding,
    verify_listed,
    verify_registered,
    verify_signatures,
)
from phala.sdk.trust import Trust

T = TypeVar("T")

KINDS: Final = {KIND_QUERY: "query", KIND_COMMAND: "command", KIND_DEPLOY: "deployment"}


class CheckFailed(PhalaError):
    """A check of `verify_bundle` did not pass; those in `passed` did."""

    def __init__(
        self, number: int, name: str, what: str, *, mend: str, passed: tuple["Check", ...]
    ) -> None:
        super().__init__(f"check {number} ({name}): {what}", mend=mend)
        self.check = number
        self.name = name
        self.passed = passed


class CheckInvalid(CheckFailed, Invalid):
    """Something in the bundle is forged or altered."""


class CheckRefused(CheckFailed, Refused):
    """The bundle is whole, and what it proves is not enough here."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check that passed: what now holds, and on whose word."""

    number: int
    name: str
    what: str
    word: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a bundle proves."""

    checks: tuple[Check, ...]
    trust: Trust
    receipt: Receipt
    verdict: Verdict
    method: str | None  # None: a deployment
    outcome: Outcome
    proven_height: BlockNumber
    proven_time: Moment

    @property
    def kind(self) -> str:
        return KINDS[self.receipt.kind]


@dataclass(slots=True)
class _Audit:
    """Counts the checks as they pass, and names the one that does not."""

    passed: list[Check] = field(default_factory=list)

    @contextmanager
    def check(self, number: int, name: str) -> Iterator[None]:
        assert number == len(self.passed) + 1, "checks stand in their order"
        try:
            yield
        except PhalaError as error:
            kind = CheckRefused if isinstance(error, Refused) else CheckInvalid
            raise kind(
                number, name, error.what, mend=error.mend, passed=tuple(self.passed)
            ) from error
        assert number == len(self.passed), "a check that passed says what it found"

    def found(self, name: str, what: str, word: str) -> None:
        self.passed.append(Check(len(self.passed) + 1, name, what, word))


@dataclass(frozen=True, slots=True)
class _Proven:
    """What the chain's state holds of everything that the receipt names."""

    time: Moment
    worker: WorkerInfo
    contract: ContractInfo
    cluster: ClusterState
    topic: TopicState
    block_hash: Hash | None  # of the receipt's height; None for the proven block itself


def block_hash_key(number: BlockNumber) -> bytes:
    """`System.BlockHash`, Twox64Concat."""
    key = BLOCK_NUMBER.encode(number)
    return storage_prefix("System", "BlockHash") + twox_64(key) + key


def proven_keys(receipt: Receipt, height: BlockNumber) -> tuple[bytes, ...]:
    """What a bundle's storage proof is of, at block `height`: not before the receipt's block."""
    keys = (
        TIMESTAMP_KEY,
        worker_key(receipt.worker),
        contract_key(receipt.contract),
        cluster_key(receipt.cluster),
        topic_key(cluster_topic(receipt.cluster)),
    )
    return keys if receipt.height == height else (*keys, block_hash_key(receipt.height))


def verify_bundle(bundle: Bundle, trust: Trust) -> Report:
    """Everything that a receipt claims, from the genesis hash up.

    The chain:
    1. The genesis header is that of the trusted genesis hash.
    2. Its state names the first authorities.
    3. They, and those they handed over to, finalized the last header.
    4. Its state holds the time, the worker, the contract and its cluster.
    The worker:
    5. It signed its registration and its encryption key.
    6. Its evidence satisfies the policy at that time.
    7. The evidence binds the worker's key, manifest and block.
    8. The chain accepted exactly this registration, and has not suspended the worker.
    The call:
    9. The worker signed the receipt.
    10. Contract, code, cluster and worker belong together as the state says.
    11. The receipt's block is one of this chain's.
    12. The receipt's place in the cluster's topic is one that the chain has reached.
    13. Request and response are those of the receipt.
    14. Both read as a call of the receipt's contract and its outcome.
    And last:
    15. The genesis hash is pinned on this machine or named by hand.

    Raises:
        CheckFailed: `check` and `name` say which, its family who can mend it.
    """
    audit = _Audit()
    head = _verify_chain(bundle, trust, audit)
    proven = _verify_state(bundle, head, audit)
    verdict = _verify_worker(bundle, trust, proven, audit)
    _verify_receipt(bundle, head, proven, audit)
    method, outcome = _verify_call(bundle, audit)
    with audit.check(15, "pinned"):
        if not trust.pinned:
            raise Refused(
                f"the genesis 0x{trust.genesis.hex()} is pinned nowhere on this machine",
                mend="get the network's genesis hash from somebody you trust, give it by --genesis",
            )
        audit.found("pinned", f"the genesis is that of {trust.name}", trust.origin)
    return Report(
        checks=tuple(audit.passed),
        trust=trust,
        receipt=bundle.receipt.body,
        verdict=verdict,
        method=method,
        outcome=outcome,
        proven_height=head.number,
        proven_time=proven.time,
    )


def _verify_chain(bundle: Bundle, trust: Trust, audit: _Audit) -> LightHead:
    header = bundle.genesis_header
    with audit.check(1, "genesis"):
        if blake2_256(header) != trust.genesis:
            raise Invalid(
                f"the bundle begins at the genesis 0x{blake2_256(header).hex()},"
                f" 0x{trust.genesis.hex()} is trusted",
                mend="verify the bundle against its own network, if you trust that one",
            )
        audit.found("genesis", f"the genesis is 0x{trust.genesis.hex()}", trust.origin)
    with audit.check(2, "authorities"):
        head = light.start(trust.genesis, header, bundle.genesis_proof)
        ensure_connected(head.state_root, bundle.genesis_proof)
        first = len(head.authorities.authorities)
        audit.found("authorities", f"{first} authorities begin", "the genesis state")
    with audit.check(3, "finality"):
        if not bundle.headers:
            raise Invalid("the bundle holds no finalized header", mend="give the whole bundle")
        for each in bundle.headers:
            head = light.advance(head, each.header, each.justification)
        audit.found(
            "finality",
            f"block {head.number} 0x{head.hash.hex()} is final",
            f"GRANDPA authorities, set {head.authorities.id}",
        )
    return head


def _verify_state(bundle: Bundle, head: LightHead, audit: _Audit) -> _Proven:
    receipt = bundle.receipt.body
    with audit.check(4, "state"):
        nodes = ensure_connected(head.state_root, bundle.proof)
        keys = proven_keys(receipt, head.number)
        values = light.read(head, nodes, keys)
        time_key, worker, contract, cluster, topic, *block = keys
        proven = _Proven(
            time=_value(values, time_key, MOMENT, "the time"),
            worker=_value(values, worker, WORKER_INFO, f"worker 0x{receipt.worker.hex()}"),
            contract=_value(
                values, contract, CONTRACT_INFO, f"contract 0x{receipt.contract.hex()}"
            ),
            cluster=_value(values, cluster, CLUSTER_STATE, f"cluster 0x{receipt.cluster.hex()}"),
            topic=_value(values, topic, TOPIC_STATE, "the cluster's topic"),
            block_hash=_value(values, block[0], HASH, f"block {receipt.height}") if block else None,
        )
        audit.found(
            "state",
            f"the time is {proven.time} ms, and worker, contract and cluster are in the state",
            f"the state root of block {head.number}",
        )
    return proven


def ensure_connected(root: Hash, nodes: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The nodes of a proof, when the root or another node names each: none is there for nothing."""
    for node in nodes:
        name = blake2_256(node)
        if name != root and not any(name in other for other in nodes):
            raise Invalid(
                f"a proof under root 0x{root.hex()} holds a node of hash 0x{name.hex()} that"
                " nothing names",
                mend="give the proof as the node made it",
            )
    return nodes


def _value(
    values: dict[bytes, bytes | None], key: bytes, descriptor: Descriptor[T], what: str
) -> T:
    value = values[key]
    if value is None:
        raise Refused(f"the state does not hold {what}", mend="prove a block that holds it")
    return descriptor.decode(value)


def _verify_worker(bundle: Bundle, trust: Trust, proven: _Proven, audit: _Audit) -> Verdict:
    worker = bundle.receipt.body.worker
    with audit.check(5, "registration"):
        body: Registration = verify_signatures(bundle.registration, worker, trust.genesis)
        audit.found(
            "registration",
            "registration and encryption key are signed",
            f"the key of worker 0x{worker.hex()}",
        )
    with audit.check(6, "evidence"):
        at = time_of(body, proven.worker, proven.time)
        verdict = verify_registered(body, trust.policy, bundle.collateral, at)
        audit.found(
            "evidence",
            f"code {verdict.measurement.hex()} runs on {verdict.platform.word}"
            f" (policy {trust.policy.name})",
            verdict.anchor,
        )
    with audit.check(7, "binding"):
        verify_binding(body, verdict)
        audit.found(
            "binding", f"the evidence is for this worker and block {body.height}", verdict.anchor
        )
    with audit.check(8, "listed"):
        ensure_serving(proven.worker)
        verify_listed(body, verdict, proven.worker)
        audit.found(
            "listed",
            "the chain accepted this evidence, measurement and encryption key;"
            f" the worker is {worker_state(proven.worker)}",
            "the chain's allow-lists",
        )
    return verdict


def _verify_receipt(bundle: Bundle, head: LightHead, proven: _Proven, audit: _Audit) -> None:
    receipt = bundle.receipt.body
    word = "the chain's state"
    with audit.check(9, "receipt"):
        if receipt.version != RECEIPT_VERSION or receipt.kind not in KINDS:
            raise Invalid(
                f"a receipt of version {receipt.version} and kind {receipt.kind}",
                mend="verify it with the release that made it",
            )
        if receipt.genesis != head.genesis:
            raise Invalid(
                f"the receipt is for the chain 0x{receipt.genesis.hex()}",
                mend="give the bundle of the receipt's own chain",
            )
        message = signed_bytes(Purpose.RECEIPT, receipt.genesis, RECEIPT.encode(receipt))
        sr25519_verify(receipt.worker, message, bundle.receipt.signature)
        audit.found("receipt", "the receipt is signed", "the worker, as attested")
    with audit.check(10, "membership"):
        _check_membership(receipt, proven)
        audit.found("membership", "contract, code, cluster and worker belong together", word)
    with audit.check(11, "block"):
        canonical = head.hash if proven.block_hash is None else proven.block_hash
        if receipt.height > head.number or receipt.block_hash != canonical:
            raise Invalid(
                f"the receipt's block {receipt.height} is 0x{receipt.block_hash.hex()}, the chain"
                f" has 0x{canonical.hex()} up to block {head.number}",
                mend="ask a worker that follows this chain",
            )
        audit.found("block", f"block {receipt.height} is one of this chain's", word)
    with audit.check(12, "order"):
        same = receipt.count == proven.topic.count
        if receipt.count > proven.topic.count or (same and receipt.head != proven.topic.head):
            raise Invalid(
                f"the receipt stands at message {receipt.count}, the chain has"
                f" {proven.topic.count} with another head",
                mend="ask a worker that follows this chain",
            )
        audit.found(
            "order",
            f"the call stands at message {receipt.count} of its cluster",
            word if same else "the worker; the chain has gone on since",
        )


def _check_membership(receipt: Receipt, proven: _Proven) -> None:
    contract, cluster = proven.contract, proven.cluster
    for holds, what in (
        (contract.cluster == receipt.cluster, "the contract is of another cluster"),
        (contract.code_id == receipt.code_id, "the contract has other code"),
        (receipt.worker in cluster.workers, "the worker is not one of the cluster's"),
        (1 <= receipt.generation <= cluster.generation, "the generation has not begun"),
        (receipt.epoch <= proven.worker.epoch, "the worker's epoch has not begun"),
    ):
        if not holds:
            raise Refused(
                f"{what}: contract 0x{receipt.contract.hex()}, code 0x{receipt.code_id.hex()},"
                f" cluster 0x{receipt.cluster.hex()}",
                mend="prove a block at which they belonged together",
            )


def _verify_call(bundle: Bundle, audit: _Audit) -> tuple[str | None, Outcome]:
    receipt = bundle.receipt.body
    with audit.check(13, "plaintext"):
        for what, data, hashed in (
            ("request", bundle.request, receipt.request),
            ("response", bundle.response, receipt.response),
        ):
            if blinded(bundle.blinder, data) != hashed:
                raise Invalid(
                    f"the {what} hashes to 0x{blinded(bundle.blinder, data).hex()}, the receipt"
                    f" has 0x{hashed.hex()}",
                    mend=f"give the {what} and blinder that came with this receipt",
                )
        audit.found(
            "plaintext", "request and response are the receipt's", "the worker, as attested"
        )
    with audit.check(14, "call"):
        method = _verify_request(receipt, bundle.request)
        outcome = OUTCOME.decode(bundle.response)
        result = "succeeded" if outcome.ok else f"failed (kind {outcome.error_kind})"
        audit.found("call", f"the {KINDS[receipt.kind]} {result}", "the worker, as attested")
    return method, outcome


def _verify_request(receipt: Receipt, request: bytes) -> str | None:
    """The method that the request names, when it is the receipt's call."""
    method = None
    if receipt.kind == KIND_QUERY:
        query = SIGNED_QUERY.decode(request).request
        method = query.method
        named = (query.contract, query.id) == (receipt.contract, receipt.call)
        named = named and query.code_id in (None, receipt.code_id)
    elif receipt.kind == KIND_COMMAND:
        method = COMMAND_REQUEST.decode(request).method
        named = True  # a command's id is of its ciphertext, which is not here
    else:
        named = receipt.call == deploy_id(receipt.genesis, receipt.contract)
    if not named:
        raise Invalid(
            f"the request is another call than 0x{receipt.call.hex()} of contract"
            f" 0x{receipt.contract.hex()}",
            mend="give the request that came with this receipt",
        )
    return method
