"""A chain in one process, for whoever follows chains: real headers, justifications and proofs.

It knows as much of the pallets' rules as enclaves can see: topics, registration, group key,
contracts. One authority finalizes each block at once.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from phala.crypto.signatures import ed25519_from_seed, ed25519_sign, sr25519_verify
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
from phala.messages.bus import (
    BATCH_ITEMS_MAX,
    ENVELOPE,
    ENVELOPE_VERSION,
    SYSTEM_TOPIC,
    TOPIC_STATE,
    Envelope,
    GatekeeperSender,
    PalletSender,
    Sender,
    TopicState,
    cluster_topic,
    first_head,
    ingress_key,
    next_head,
    topic_key,
)
from phala.messages.calls import (
    COMMAND_ENVELOPE,
    CommandEnvelope,
    code_id,
    command_id,
    contract_id,
    deploy_id,
)
from phala.messages.fuel import FUEL_DEFAULT
from phala.messages.host import Advance, FinalizedHeader, StatusReply, TopicBatch, Wanted
from phala.messages.payloads.cluster import (
    CLUSTER_PAYLOAD,
    KIND_PY_SOURCE,
    ClusterPayload,
    CommandQueued,
    ContractDeployed,
    PartialGiven,
    WorkerAdded,
)
from phala.messages.payloads.enclave import (
    EGRESS_BODY,
    ContractFailed,
    ContractKeyAnnounced,
    EnclaveMessage,
    GroupKeyAnnounced,
    SignedMessage,
)
from phala.messages.payloads.system import (
    SYSTEM_PAYLOAD,
    GatekeeperAppointed,
    GroupKeySet,
    KeyDue,
    SystemPayload,
    WorkerRegistered,
)
from phala.messages.registration import SignedRegistration, manifest_hash
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.state import (
    AUTHORITIES_KEY,
    TIMESTAMP_KEY,
    WORKER_INFO,
    WORKER_VERSION,
    WorkerInfo,
    worker_key,
)
from phala.messages.types import (
    CallId,
    ClusterId,
    CodeId,
    ContractId,
    Count,
    Generation,
    SealKey,
    WorkerId,
)
from phala.primitives.header import HEADER, DigestItem, Header
from phala.primitives.types import MOMENT, AccountId, BlockNumber, Hash, Moment
from phala.trie.encoding import Layout
from phala.trie.merkle import Trie
from phala.trie.state import DictBase

BLOCK_MS: Final = 3_000
START_MS: Final = 1_800_000_000_000
PERIOD: Final = 1
GENERATION: Final = Generation(1)
NO_RUNTIME: Final = Hash(bytes(32))
REGISTRY: Final = PalletSender(b"PhalaRegistry")
CONTRACTS: Final = PalletSender(b"PhalaPhatContracts")


@dataclass(frozen=True, slots=True)
class SimBlock:
    header: Header
    justification: bytes
    trie: Trie
    state: DictBase


@dataclass
class SimTopic:
    state: TopicState
    bodies: list[bytes] = field(default_factory=list)


class SimChain:
    """`queue` messages, then `seal` a block; `feed` is what an enclave is to be told."""

    def __init__(self, *, seed: bytes = b"sim", runtime_id: Hash = NO_RUNTIME) -> None:
        self.runtime_id = runtime_id
        self.cluster = ClusterId(hashlib.sha256(seed + b"cluster").digest())
        self.generation = GENERATION
        self._pair = ed25519_from_seed(hashlib.sha256(seed + b"authority").digest())
        self._set_id = 0
        self._state: dict[bytes, bytes] = {
            AUTHORITIES_KEY: AUTHORITIES.encode((Authority(self._pair.public, 1),)),
            TIMESTAMP_KEY: MOMENT.encode(Moment(START_MS)),
        }
        trie = Trie.build(sorted(self._state.items()), Layout.V1)
        header = Header(Hash(bytes(32)), BlockNumber(0), trie.root, Hash(bytes(32)))
        self.genesis = header.hash()
        self.blocks = [SimBlock(header, b"", trie, DictBase(dict(self._state)))]
        self.set_changes: list[int] = []
        self.topics: dict[bytes, SimTopic] = {}
        self.codes: dict[CodeId, bytes] = {}
        self.group_public = b""
        self.keys: dict[ContractId, ContractKeyAnnounced] = {}
        self.failed: list[ContractId] = []
        self.taken: list[EnclaveMessage] = []
        self.gatekeeper: WorkerId | None = None
        self._index = 0
        self._changed = False

    # ---- blocks

    @property
    def number(self) -> int:
        return len(self.blocks) - 1

    @property
    def time(self) -> Moment:
        """Of the block that is being made."""
        return Moment(START_MS + (self.number + 1) * BLOCK_MS)

    @property
    def unsealed(self) -> bool:
        """Whether messages wait for the next block."""
        return self._changed

    def seal(self, *, logs: tuple[DigestItem, ...] = ()) -> SimBlock:
        """Finish the block and finalize it."""
        self._state[TIMESTAMP_KEY] = MOMENT.encode(self.time)
        trie = Trie.build(sorted(self._state.items()), Layout.V1)
        parent = self.blocks[-1].header
        number = BlockNumber(parent.number + 1)
        header = Header(parent.hash(), number, trie.root, Hash(bytes(32)), logs)
        block = SimBlock(header, self._justify(header), trie, DictBase(dict(self._state)))
        self.blocks.append(block)
        self._index, self._changed = 0, False
        return block

    def seal_many(self, count: int) -> None:
        for _ in range(count):
            self.seal()

    def change_authority(self, seed: bytes) -> None:
        """Seal a block after which another key finalizes."""
        pair = ed25519_from_seed(hashlib.sha256(seed).digest())
        self._state[AUTHORITIES_KEY] = AUTHORITIES.encode((Authority(pair.public, 1),))
        self.seal(logs=(encode_scheduled_change((Authority(pair.public, 1),)),))
        self.set_changes.append(self.number)
        self._pair = pair
        self._set_id += 1

    def _justify(self, header: Header) -> bytes:
        round_, block_hash = header.number + 1, header.hash()
        message = signed_precommit(header.number, block_hash, round_, SetId(self._set_id))
        vote = Precommit(
            block_hash, header.number, ed25519_sign(self._pair, message), self._pair.public
        )
        return JUSTIFICATION.encode(Justification(round_, block_hash, header.number, (vote,)))

    def start(self) -> tuple[bytes, tuple[bytes, ...]]:
        """Genesis header and the proof of its authorities: what `light.json` holds."""
        first = self.blocks[0]
        return HEADER.encode(first.header), first.trie.prove([AUTHORITIES_KEY], first.state)

    # ---- topics

    def queue(self, topic: bytes, payload: bytes, sender: Sender = CONTRACTS) -> None:
        known = self.topics.setdefault(
            topic, SimTopic(TopicState(Count(0), first_head(self.genesis, topic)))
        )
        number = BlockNumber(self.number + 1)
        envelope = ENVELOPE.encode(
            Envelope(ENVELOPE_VERSION, number, self._index, self.time, sender, topic, payload)
        )
        self._index, self._changed = self._index + 1, True
        known.bodies.append(envelope)
        count = Count(known.state.count + 1)
        known.state = TopicState(count, next_head(known.state.head, envelope))
        self._state[topic_key(topic)] = TOPIC_STATE.encode(known.state)

    def say(self, payload: SystemPayload) -> None:
        self.queue(SYSTEM_TOPIC, SYSTEM_PAYLOAD.encode(payload), REGISTRY)

    def tell(self, payload: ClusterPayload, sender: Sender = CONTRACTS) -> None:
        self.queue(cluster_topic(self.cluster), CLUSTER_PAYLOAD.encode(payload), sender)

    # ---- what the pallets would do

    def register(self, signed: SignedRegistration, *, join: bool = True) -> None:
        """List a worker, evidence unjudged; the first one becomes gatekeeper."""
        body = signed.body
        manifest, key = body.manifest, body.encryption_key
        worker = manifest.worker
        known = worker_key(worker) in self._state
        info = WorkerInfo(
            version=WORKER_VERSION,
            operator=manifest.operator,
            platform=body.evidence.platform,
            measurement=b"",
            runtime_id=manifest.runtime_id,
            manifest_hash=manifest_hash(manifest),
            evidence_id=Hash(hashlib.sha256(body.evidence.blob).digest()),
            attested_height=body.height,
            attested_hash=body.block_hash,
            confidence=5,
            registered_at=BlockNumber(self.number + 1),
            encryption_key=key.public,
            epoch=key.epoch,
            attested_at=self.time,
        )
        self._state[worker_key(worker)] = WORKER_INFO.encode(info)
        self.say(
            WorkerRegistered(
                worker, manifest.operator, manifest.runtime_id, 5, key.public, key.epoch
            )
        )
        if self.gatekeeper is None:
            self.gatekeeper = worker
            self.say(GatekeeperAppointed(worker, PERIOD, 1, 1))
        if join:
            if not known:
                self.tell(WorkerAdded(self.cluster, worker, self.generation))
            self.say(KeyDue(self.cluster, self.generation, worker, key.public, key.epoch))

    def take(self, messages: Sequence[SignedMessage]) -> int:
        """What workers signed, each in its turn; returns how many were new."""
        new = 0
        for message in messages:
            body = message.body
            key = ingress_key(body.worker)
            expected = int.from_bytes(self._state.get(key, b""), "little")
            if body.sequence != expected or body.genesis != self.genesis:
                continue
            signed = signed_bytes(Purpose.EGRESS, self.genesis, EGRESS_BODY.encode(body))
            sr25519_verify(body.worker, signed, message.signature)
            self._state[key] = (expected + 1).to_bytes(8, "little")
            self._changed = True
            self.taken.append(body.message)
            self._act(body.worker, body.message)
            new += 1
        return new

    def _act(self, worker: WorkerId, message: EnclaveMessage) -> None:
        match message:
            case GroupKeyAnnounced(period, public):
                if worker == self.gatekeeper and not self.group_public:
                    self.group_public = public
                    self.say(GroupKeySet(period, public))
            case PartialGiven():
                self.tell(message, GatekeeperSender(worker))
            case ContractKeyAnnounced(contract):
                self.keys[contract] = message
            case ContractFailed(contract):
                self.failed.append(contract)

    def deploy(
        self,
        deployer: AccountId,
        source: bytes,
        *,
        arguments: bytes = b"{}",
        reply_to: SealKey,
        salt: bytes = b"",
        kind: int = KIND_PY_SOURCE,
        runtime_id: Hash | None = None,
        fuel: int = FUEL_DEFAULT,
    ) -> tuple[ContractId, CallId]:
        runtime = self.runtime_id if runtime_id is None else runtime_id
        code = code_id(runtime, source)
        self.codes[code] = source
        contract = contract_id(deployer, code, self.cluster, salt)
        call = deploy_id(self.genesis, contract)
        self.tell(
            ContractDeployed(
                contract, call, deployer, code, kind, runtime, arguments, reply_to, fuel
            )
        )
        return contract, call

    def command(self, sender: AccountId, contract: ContractId, envelope: CommandEnvelope) -> CallId:
        call = command_id(self.genesis, contract, sender, envelope)
        self.tell(CommandQueued(contract, call, sender, COMMAND_ENVELOPE.encode(envelope)))
        return call

    # ---- for an honest carrier

    def feed(self, status: StatusReply, wanted: Wanted | None = None) -> Advance:
        """What brings an enclave from where it stands to the newest block."""
        topics = {each.topic: each.count for each in status.topics}
        if wanted is not None:
            topics |= {each.topic: each.count for each in wanted.topics}
        block = self.blocks[-1]
        keys = [
            TIMESTAMP_KEY,
            worker_key(status.worker),
            ingress_key(status.worker),
            *(topic_key(topic) for topic in topics),
        ]
        numbers = [each for each in self.set_changes if each > status.height]
        if not numbers or numbers[-1] != self.number:
            numbers.append(self.number)
        return Advance(
            headers=tuple(self.finalized(number) for number in numbers),
            proof=block.trie.prove(keys, block.state),
            batches=tuple(
                batch for topic, count in topics.items() for batch in self._batches(topic, count)
            ),
            codes=tuple(self.codes[code] for code in wanted.codes) if wanted else (),
        )

    def finalized(self, number: int) -> FinalizedHeader:
        block = self.blocks[number]
        return FinalizedHeader(HEADER.encode(block.header), block.justification)

    def _batches(self, topic: bytes, start: Count) -> list[TopicBatch]:
        known = self.topics.get(topic)
        bodies = known.bodies[start:] if known else []
        return [
            TopicBatch(topic, Count(start + at), tuple(bodies[at : at + BATCH_ITEMS_MAX]))
            for at in range(0, len(bodies), BATCH_ITEMS_MAX)
        ]
