"""A small chain with one attested worker, to make receipt bundles of: genuine ones, and others.

Everything in them is real, signatures and proofs too; only nobody ran anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from phala.attest import DEV, Evidence, verify
from phala.crypto.hashes import blake2_256
from phala.crypto.signatures import (
    Keypair,
    ed25519_from_seed,
    ed25519_sign,
    sr25519_from_seed,
    sr25519_sign,
)
from phala.finality.grandpa import (
    AUTHORITIES,
    JUSTIFICATION,
    Authority,
    Justification,
    Precommit,
    SetId,
    encode_scheduled_change,
    signed_precommit,
)
from phala.messages.bus import TOPIC_STATE, TopicState, cluster_topic, topic_key
from phala.messages.calls import (
    COMMAND_REQUEST,
    OUTCOME,
    SIGNED_QUERY,
    CommandRequest,
    Outcome,
    QueryRequest,
    SignedQuery,
    deploy_id,
)
from phala.messages.host import FinalizedHeader
from phala.messages.receipts import (
    KIND_COMMAND,
    KIND_DEPLOY,
    KIND_QUERY,
    RECEIPT,
    RECEIPT_VERSION,
    Receipt,
    SignedReceipt,
    blinded,
)
from phala.messages.registration import (
    ENCRYPTION_KEY,
    PURPOSE_REGISTER,
    REGISTRATION,
    REGISTRATION_VERSION,
    EncryptionKey,
    Manifest,
    Registration,
    SignedRegistration,
    manifest_hash,
    report_data,
)
from phala.messages.registration import Evidence as WireEvidence
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.state import (
    AUTHORITIES_KEY,
    CLUSTER_STATE,
    CONTRACT_INFO,
    STATE_VERSION,
    TIMESTAMP_KEY,
    WORKER_INFO,
    WORKER_VERSION,
    ClusterState,
    ContractInfo,
    WorkerInfo,
    cluster_key,
    contract_key,
    worker_key,
)
from phala.messages.types import (
    CallId,
    ClusterId,
    CodeId,
    ContractId,
    Count,
    Epoch,
    Generation,
    SealKey,
    Signature64,
    WorkerId,
)
from phala.primitives.header import HEADER, DigestItem, Header
from phala.primitives.types import HASH, MOMENT, AccountId, BlockNumber, Hash, Moment
from phala.sdk.bundle import Bundle
from phala.sdk.trust import Trust
from phala.sdk.verify import block_hash_key, proven_keys
from phala.tee.platform import ReportData
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import SimulatedKey
from phala.trie import DictBase, Layout, Trie

KEY: Final = SimulatedKey(bytes(31) + b"\7", b"m" * 32)
CONTRACT: Final = ContractId(b"\x0c" * 32)
CLUSTER: Final = ClusterId(b"\x01" * 32)
CODE: Final = CodeId(b"\x0d" * 32)
NOW: Final = Moment(1_790_000_000_000)
OUTCOME_MADE: Final = Outcome(
    ok=True, result=b'{"n": 2}', error_kind=0, error="", events=(), fuel_class=20
)
CHANGE_HEIGHT, RECEIPT_HEIGHT, PROOF_HEIGHT = BlockNumber(5), BlockNumber(7), BlockNumber(9)


@dataclass(frozen=True, slots=True)
class ReceiptChain:
    """Two authority sets, one worker, one contract. Equal arguments make equal chains."""

    key: SimulatedKey = KEY
    worker: Keypair = field(default_factory=lambda: sr25519_from_seed(b"w" * 32))
    first: Keypair = field(default_factory=lambda: ed25519_from_seed(b"a" * 32))
    second: Keypair = field(default_factory=lambda: ed25519_from_seed(b"b" * 32))

    @property
    def genesis_header(self) -> Header:
        return self.header(BlockNumber(0), self.genesis_state())

    @property
    def genesis(self) -> Hash:
        return self.genesis_header.hash()

    @property
    def trust(self) -> Trust:
        return Trust(self.genesis, "testnet", DEV.trusting(self.key.public_root), "dev/trust.json")

    @property
    def platform(self) -> SimulatedPlatform:
        return SimulatedPlatform(measurement=measure(b"enclave"), key=self.key)

    def genesis_state(self) -> dict[bytes, bytes]:
        authorities = AUTHORITIES.encode((Authority(self.first.public, 1),))
        return {AUTHORITIES_KEY: authorities, **_filling()}

    def header(
        self, number: BlockNumber, state: Mapping[bytes, bytes], *digest: DigestItem
    ) -> Header:
        return Header(
            parent_hash=Hash(bytes([number]) * 32),
            number=number,
            state_root=_trie(state).root,
            extrinsics_root=Hash(bytes(32)),
            digest=digest,
        )

    def finalized(self, header: Header, signer: Keypair, set_id: int) -> FinalizedHeader:
        round_ = header.number + 1
        message = signed_precommit(header.number, header.hash(), round_, SetId(set_id))
        vote = Precommit(header.hash(), header.number, ed25519_sign(signer, message), signer.public)
        found = Justification(round_, header.hash(), header.number, (vote,))
        return FinalizedHeader(HEADER.encode(header), JUSTIFICATION.encode(found))

    def sign(self, purpose: Purpose, body: bytes) -> Signature64:
        return Signature64(sr25519_sign(self.worker, signed_bytes(purpose, self.genesis, body)))

    def registration(self, **changes: Any) -> SignedRegistration:
        """Signed, with evidence made for it. `changes` are of the body, after the evidence."""
        worker = WorkerId(self.worker.public)
        manifest = Manifest(
            version=REGISTRATION_VERSION,
            worker=worker,
            operator=AccountId(b"\x0a" * 32),
            genesis=self.genesis,
            software=1 << 8,
            runtime_id=Hash(b"\x0e" * 32),
            cores=2,
            endpoints=("http://127.0.0.1:8000",),
        )
        height, block_hash = BlockNumber(3), Hash(b"\3" * 32)
        said = report_data(PURPOSE_REGISTER, manifest, block_hash, height)
        key = EncryptionKey(REGISTRATION_VERSION, worker, Epoch(2), SealKey(b"\x0f" * 32))
        body = Registration(
            version=REGISTRATION_VERSION,
            manifest=manifest,
            height=height,
            block_hash=block_hash,
            evidence=WireEvidence(0, self.platform.quote(ReportData(said))),
            encryption_key=key,
            key_signature=self.sign(Purpose.ENCRYPTION_KEY, ENCRYPTION_KEY.encode(key)),
        )
        body = replace(body, **changes)
        return SignedRegistration(body, self.sign(Purpose.REGISTRATION, REGISTRATION.encode(body)))

    def worker_info(self, signed: SignedRegistration) -> WorkerInfo:
        """As the chain keeps it after accepting the registration."""
        body = signed.body
        evidence = Evidence(body.evidence.platform, body.evidence.blob)
        verdict = verify(evidence, self.trust.policy, {}, NOW)
        return WorkerInfo(
            version=WORKER_VERSION,
            operator=body.manifest.operator,
            platform=verdict.platform,
            measurement=verdict.measurement,
            runtime_id=body.manifest.runtime_id,
            manifest_hash=manifest_hash(body.manifest),
            evidence_id=verdict.signed_hash,
            attested_height=body.height,
            attested_hash=body.block_hash,
            confidence=verdict.confidence,
            registered_at=BlockNumber(4),
            encryption_key=body.encryption_key.public,
            epoch=body.encryption_key.epoch,
            attested_at=NOW,
        )

    def state(self, info: WorkerInfo) -> dict[bytes, bytes]:
        """What is proven of the last block."""
        worker = WorkerId(self.worker.public)
        contract = ContractInfo(
            version=STATE_VERSION,
            cluster=CLUSTER,
            deployer=AccountId(b"\x0a" * 32),
            code_id=CODE,
            kind=0,
            deployed_at=BlockNumber(4),
            state=1,
        )
        cluster = ClusterState(
            version=STATE_VERSION,
            k=1,
            seats=1,
            generation=Generation(1),
            ready=1,
            workers=(worker,),
        )
        return {
            TIMESTAMP_KEY: MOMENT.encode(NOW),
            worker_key(worker): WORKER_INFO.encode(info),
            contract_key(CONTRACT): CONTRACT_INFO.encode(contract),
            cluster_key(CLUSTER): CLUSTER_STATE.encode(cluster),
            topic_key(cluster_topic(CLUSTER)): TOPIC_STATE.encode(
                TopicState(Count(12), Hash(b"\x12" * 32))
            ),
            block_hash_key(RECEIPT_HEIGHT): HASH.encode(Hash(b"\7" * 32)),
            **_filling(),
        }

    def bundle(
        self,
        kind: int = KIND_QUERY,
        *,
        receipt: Mapping[str, Any] | None = None,
        registration: SignedRegistration | None = None,
        info: Mapping[str, Any] | None = None,
        state: Mapping[bytes, bytes | None] | None = None,
        request: bytes | None = None,
    ) -> Bundle:
        """A bundle that verifies; each argument puts something else in, signed and proven anew."""
        registration = registration or self.registration()
        items = self.state(replace(self.worker_info(registration), **(info or {})))
        items = {
            key: value for key, value in {**items, **(state or {})}.items() if value is not None
        }
        call, plain = self.call(kind)
        plain = plain if request is None else request
        response = OUTCOME.encode(OUTCOME_MADE)
        blinder = b"\x0b" * 32
        body = Receipt(
            version=RECEIPT_VERSION,
            kind=kind,
            genesis=self.genesis,
            cluster=CLUSTER,
            contract=CONTRACT,
            code_id=CODE,
            call=call,
            request=blinded(blinder, plain),
            response=blinded(blinder, response),
            height=RECEIPT_HEIGHT,
            block_hash=Hash(b"\7" * 32),
            count=Count(12),
            head=Hash(b"\x12" * 32),
            root_mac=b"\x13" * 32,
            worker=WorkerId(self.worker.public),
            generation=Generation(1),
            epoch=Epoch(2),
        )
        body = replace(body, **(receipt or {}))
        return Bundle(
            receipt=SignedReceipt(body, self.sign(Purpose.RECEIPT, RECEIPT.encode(body))),
            request=plain,
            response=response,
            blinder=blinder,
            registration=registration,
            genesis_header=HEADER.encode(self.genesis_header),
            genesis_proof=_proof(self.genesis_state(), (AUTHORITIES_KEY,)),
            headers=self.headers(items),
            proof=_proof(items, proven_keys(body, PROOF_HEIGHT)),
        )

    def headers(self, items: Mapping[bytes, bytes]) -> tuple[FinalizedHeader, ...]:
        change = encode_scheduled_change((Authority(self.second.public, 1),))
        return (
            self.finalized(self.header(CHANGE_HEIGHT, items, change), self.first, 0),
            self.finalized(self.header(PROOF_HEIGHT, items), self.second, 1),
        )

    def call(self, kind: int) -> tuple[CallId, bytes]:
        """A call's id and plaintext request."""
        call = CallId(b"\x1d" * 32)
        if kind == KIND_QUERY:
            return call, SIGNED_QUERY.encode(SignedQuery(self.query(call), None, None))
        if kind == KIND_COMMAND:
            request = CommandRequest(b"\x1e" * 32, "add", b'{"n": 2}')
            return call, COMMAND_REQUEST.encode(request)
        assert kind == KIND_DEPLOY
        return deploy_id(self.genesis, CONTRACT), b'{"start": 0}'

    def query(self, call: CallId) -> QueryRequest:
        return QueryRequest(
            contract=CONTRACT,
            code_id=CODE,
            id=call,
            method="value",
            arguments=b"{}",
            reply_key=b"\x1e" * 32,
            height=RECEIPT_HEIGHT,
            block_hash=Hash(b"\7" * 32),
            count=Count(12),
            expires=NOW,
        )


def _filling() -> dict[bytes, bytes]:
    """Other people's items: so that proofs have branches."""
    return {blake2_256(bytes([number])): bytes([number]) * 40 for number in range(32)}


def _trie(state: Mapping[bytes, bytes]) -> Trie:
    return Trie.build(sorted(state.items()), Layout.V1)


def _proof(state: Mapping[bytes, bytes], keys: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return _trie(state).prove(keys, DictBase(dict(state)))
