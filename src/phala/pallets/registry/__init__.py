"""PhalaRegistry: which workers hold evidence that the chain accepted; gatekeepers and their key.

Source: DESIGN §4; ARCHITECTURE, "What happens at registration".
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Protocol

from phala.codec import (
    U8,
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
from phala.crypto.signatures import BadSignature, sr25519_verify
from phala.errors import PhalaError
from phala.frame import (
    MICROSECOND,
    Block,
    Case,
    Constant,
    Hasher,
    Origin,
    Pallet,
    Pays,
    StorageMap,
    StorageOption,
    StorageValue,
    call,
    cases_type,
    ensure_unsigned,
    event,
)
from phala.messages.bus import SYSTEM_TOPIC, PalletSender, Sender
from phala.messages.payloads import system
from phala.messages.payloads.enclave import GroupKeyAnnounced
from phala.messages.payloads.system import GROUP_KEY_BYTES, SYSTEM_PAYLOAD, SystemPayload
from phala.messages.registration import (
    ENCRYPTION_KEY,
    MEASUREMENT_BYTES_MAX,
    PURPOSE_REGISTER,
    REGISTRATION,
    REGISTRATION_VERSION,
    SIGNED_REGISTRATION,
    Evidence,
    Registration,
    SignedRegistration,
    manifest_hash,
    report_data,
)
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.state import STATE_VERSION, WORKER_INFO, WorkerInfo
from phala.messages.types import (
    DESCRIPTORS,
    ClusterId,
    ContractId,
    Count,
    Epoch,
    Generation,
    SealKey,
    WorkerId,
    scale,
)
from phala.pallets.registry.errors import (
    EncryptionKeyRefused,
    EvidenceRefused,
    EvidenceUsed,
    GroupKeyKnown,
    GroupKeyMalformed,
    HeightOutOfWindow,
    MeasurementNotAllowed,
    NotGatekeeper,
    NotSignedByWorker,
    OtherChain,
    OtherFork,
    PlatformNotAccepted,
    RefreshedTooOften,
    ReportDataDiffers,
    RuntimeNotAllowed,
    UnknownVersion,
)
from phala.primitives.types import HASH, BlockNumber, Hash, Moment

WINDOW_BLOCKS: Final = 600  # how old the block may be that evidence binds
LIST_ITEMS_MAX: Final = 64
POLICY_BYTES_MAX: Final = 16 * 1024  # attest.policy has the same
ENDPOINTS_MAX: Final = 4
FIRST_PERIOD: Final = 1
REFRESHES_MAX: Final = 5  # of one worker in `REFRESH_BLOCKS`: they are free, but restarts need some
REFRESH_BLOCKS: Final = 100
PRUNED_MAX: Final = 4  # by one registration; it adds one

SENDER: Final = PalletSender(b"PhalaRegistry")


# ---- events, records


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
    period: Annotated[int, U32]
    public: Annotated[bytes, Bytes(bytes_max=GROUP_KEY_BYTES)]


@dataclass(frozen=True, slots=True)
class Refreshes:
    """How often a worker was listed anew since a block."""

    since: BlockNumber
    count: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class EvidenceQueue:
    """The ends of the used evidence, in the order in which it came."""

    first: Annotated[int, U64]
    next: Annotated[int, U64]


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


ADDRESSES: Final = Vector(Text(bytes_max=256), items_max=ENDPOINTS_MAX)
MEASUREMENTS: Final = Vector(Bytes(bytes_max=MEASUREMENT_BYTES_MAX), items_max=LIST_ITEMS_MAX)


# ---- what it needs


@dataclass(frozen=True, slots=True)
class Judgement:
    """What accepted evidence proves."""

    platform: int
    measurement: bytes
    report_data: bytes
    evidence_id: Hash
    confidence: int


class Verifier(Protocol):
    """Judges evidence: `attest` does."""

    def verify(self, evidence: Evidence, policy: bytes, now: Moment) -> Judgement:
        """Raises `PhalaError` for less than acceptance."""
        ...


class Chain(Protocol):
    """Which chain this is, and its past."""

    def genesis_hash(self) -> Hash: ...
    def hash_of(self, number: BlockNumber) -> Hash | None: ...


class Clock(Protocol):
    """The time of this block."""

    def time(self) -> Moment: ...


class Bus(Protocol):
    """Who numbers messages."""

    def push(self, topic: bytes, sender: Sender, payload: bytes) -> Count: ...


class Clusters(Protocol):
    """Who gives workers their clusters."""

    def enlist(self, worker: WorkerId) -> tuple[tuple[ClusterId, Generation], ...]:
        """Give a worker a free seat, if it has none. Returns its clusters, each with the
        generation of its keys."""
        ...


class PhalaRegistry(Pallet):
    """Workers whose evidence the chain accepted; gatekeepers and their key."""

    name = "PhalaRegistry"
    words = DESCRIPTORS
    enclaves = StorageMap(
        Hasher.BLAKE2_128_CONCAT, WorkerId, WORKER_INFO, doc="Workers with accepted evidence."
    )
    used_evidence = StorageMap(
        Hasher.BLAKE2_128_CONCAT,
        Hash,
        BlockNumber,
        doc="Evidence handed in, and when; forgotten once the block that it binds is too old.",
    )
    evidence_order: StorageMap[int, Hash] = StorageMap(
        Hasher.TWOX_64_CONCAT, U64, HASH, doc="Used evidence as it came."
    )
    evidence_queue = StorageValue(
        EvidenceQueue, default=EvidenceQueue(0, 0), doc="Ends of `EvidenceOrder`."
    )
    refreshes = StorageMap(
        Hasher.TWOX_64_CONCAT, WorkerId, Refreshes, doc="How often workers were listed of late."
    )
    policy = StorageValue(
        Bytes(bytes_max=POLICY_BYTES_MAX), default=b"", doc="How evidence is judged: attest.policy."
    )
    accepted_platforms: StorageValue[tuple[int, ...]] = StorageValue(
        Vector(U8, items_max=LIST_ITEMS_MAX), default=(), doc="Numbers of accepted platforms."
    )
    allowed_measurements: StorageValue[tuple[bytes, ...]] = StorageValue(
        MEASUREMENTS, default=(), doc="Code that workers may be."
    )
    allowed_runtimes: StorageValue[tuple[Hash, ...]] = StorageValue(
        Vector(HASH, items_max=LIST_ITEMS_MAX),
        default=(),
        doc="Runtime modules that workers may have; new contracts run on the last.",
    )
    gatekeepers: StorageValue[tuple[Gatekeeper, ...]] = StorageValue(
        Vector(scale(Gatekeeper), items_max=LIST_ITEMS_MAX), default=(), doc="Seats taken."
    )
    gatekeeper_seats = StorageValue(Seats, default=Seats(1, 1), doc="Seats of a period.")
    group_key = StorageOption(GroupKey, doc="The period's group key, once it is announced.")
    endpoints: StorageMap[WorkerId, tuple[str, ...]] = StorageMap(
        Hasher.TWOX_64_CONCAT, WorkerId, Endpoints(), doc="Where a worker answers."
    )
    contract_keys = StorageMap(
        Hasher.TWOX_64_CONCAT, ContractId, SealKey, doc="Signing keys, where `@phala/sdk` looks."
    )

    def __init__(
        self,
        block: Block,
        *,
        chain: Chain,
        clock: Clock,
        bus: Bus,
        clusters: Clusters,
        verifier: Verifier,
    ) -> None:
        super().__init__(block)
        self.chain = chain
        self.clock = clock
        self.bus = bus
        self.clusters = clusters
        self.verifier = verifier

    # ---- for other pallets

    def is_registered(self, worker: WorkerId) -> bool:
        return worker in self.enclaves

    def encryption_key(self, worker: WorkerId) -> tuple[SealKey, Epoch]:
        info = self.enclaves.get(worker)
        assert info is not None, "asked of registered workers only"
        return info.encryption_key, info.epoch

    def seat_of(self, worker: WorkerId) -> Gatekeeper | None:
        """The gatekeeper's seat that a worker holds, if any."""
        return next((each for each in self.gatekeepers.get() if each.worker == worker), None)

    def key_threshold(self) -> int:
        """How many partials make a key."""
        return self.gatekeeper_seats.get().threshold

    def runtime_id(self) -> Hash:
        """The runtime module that new contracts run on."""
        return self.allowed_runtimes.get()[-1]

    # ---- registration

    def check(self, signed: SignedRegistration) -> Judgement:
        """Whether the chain may list this worker.

        1 version; 2 genesis hash; 3 the bound height is at most `WINDOW_BLOCKS` old; 4 the bound
        block is of this chain; 5 the worker signed the registration; 6 and its encryption key, of
        a later epoch than the present one, or the present one itself; 7 a listed worker was not
        refreshed too often; 8 the chain accepts the platform; 9 evidence, under the chain's policy
        at the block's time; 10 it was made for this manifest and block; 11 measurement and
        12 runtime id are allowed; 13 the evidence was not used before.
        """
        body = signed.body
        manifest, key = body.manifest, body.encryption_key
        versions = (body.version, manifest.version, key.version)
        if any(version != REGISTRATION_VERSION for version in versions):  # 1
            raise UnknownVersion
        genesis = self.chain.genesis_hash()
        if manifest.genesis != genesis:  # 2
            raise OtherChain
        age = self.block.number - body.height
        if not 0 < age <= WINDOW_BLOCKS:  # 3
            raise HeightOutOfWindow
        if self.chain.hash_of(body.height) != body.block_hash:  # 4
            raise OtherFork
        self._check_signatures(signed, genesis)  # 5, 6
        self._refreshes(manifest.worker)  # 7
        if body.evidence.platform not in self.accepted_platforms.get():  # 8
            raise PlatformNotAccepted
        try:
            judged = self.verifier.verify(body.evidence, self.policy.get(), self.clock.time())  # 9
        except PhalaError as error:
            raise EvidenceRefused from error
        expected = report_data(PURPOSE_REGISTER, manifest, body.block_hash, body.height)
        if judged.report_data != expected:  # 10
            raise ReportDataDiffers
        if judged.measurement not in self.allowed_measurements.get():  # 11
            raise MeasurementNotAllowed
        if manifest.runtime_id not in self.allowed_runtimes.get():  # 12
            raise RuntimeNotAllowed
        if judged.evidence_id in self.used_evidence:  # 13
            raise EvidenceUsed
        return judged

    def _check_signatures(self, signed: SignedRegistration, genesis: Hash) -> None:
        body = signed.body
        worker, key = body.manifest.worker, body.encryption_key
        whole = signed_bytes(Purpose.REGISTRATION, genesis, REGISTRATION.encode(body))
        try:
            sr25519_verify(worker, whole, signed.signature)  # 5
        except BadSignature:
            raise NotSignedByWorker from None
        known = self.enclaves.get(worker)
        if key.worker != worker:  # 6
            raise EncryptionKeyRefused
        if known is not None:
            same = (key.epoch, key.public) == (known.epoch, known.encryption_key)
            if key.epoch <= known.epoch and not same:  # 6
                raise EncryptionKeyRefused
        part = signed_bytes(Purpose.ENCRYPTION_KEY, genesis, ENCRYPTION_KEY.encode(key))
        try:
            sr25519_verify(worker, part, body.key_signature)  # 6
        except BadSignature:
            raise EncryptionKeyRefused from None

    def _refreshes(self, worker: WorkerId) -> Refreshes | None:
        """What is noted once a worker is refreshed; None for one that is new.

        A worker that lost its files needs to register at once, and again where that is lost too;
        so some are allowed in a row, whatever their key's epoch: anyone who runs one raises that.
        """
        if worker not in self.enclaves:
            return None
        now = self.block.number
        noted = self.refreshes.get(worker)
        if noted is None or now >= noted.since + REFRESH_BLOCKS:
            return Refreshes(now, 1)
        if noted.count >= REFRESHES_MAX:
            raise RefreshedTooOften
        return Refreshes(noted.since, noted.count + 1)

    def _use_evidence(self, evidence: Hash) -> None:
        """Remember it; forget what binds blocks that check 3 refuses from now on."""
        now, queue = self.block.number, self.evidence_queue.get()
        first = queue.first
        for _ in range(PRUNED_MAX):
            oldest = self.evidence_order.get(first)
            used_at = None if oldest is None else self.used_evidence.get(oldest)
            # It binds a block before the one in which it was used.
            if oldest is None or used_at is None or now - used_at < WINDOW_BLOCKS:
                break
            self.used_evidence.delete(oldest)
            self.evidence_order.delete(first)
            first += 1
        self.used_evidence.put(evidence, now)
        self.evidence_order.put(queue.next, evidence)
        self.evidence_queue.put(EvidenceQueue(first, queue.next + 1))

    @call(5_000 * MICROSECOND, pays_fee=Pays.NO)
    def register_enclave(
        self, origin: Origin, registration: Annotated[SignedRegistration, SIGNED_REGISTRATION]
    ) -> None:
        """List a worker whose evidence is good, or refresh it: its evidence, its encryption key."""
        ensure_unsigned(origin)
        judged = self.check(registration)
        body = registration.body
        refreshes = self._refreshes(body.manifest.worker)
        if refreshes is not None:
            self.refreshes.put(body.manifest.worker, refreshes)
        self._use_evidence(judged.evidence_id)
        self._list(body, judged)
        self._appoint(body.manifest.worker)
        self._ask_for_keys(body.manifest.worker)

    def _list(self, body: Registration, judged: Judgement) -> None:
        manifest, key = body.manifest, body.encryption_key
        worker = manifest.worker
        self.enclaves.put(
            worker,
            WorkerInfo(
                version=STATE_VERSION,
                operator=manifest.operator,
                platform=judged.platform,
                measurement=judged.measurement,
                runtime_id=manifest.runtime_id,
                manifest_hash=manifest_hash(manifest),
                evidence_id=judged.evidence_id,
                attested_height=body.height,
                attested_hash=body.block_hash,
                confidence=judged.confidence,
                registered_at=self.block.number,
                encryption_key=key.public,
                epoch=key.epoch,
            ),
        )
        if manifest.endpoints:
            self.endpoints.put(worker, manifest.endpoints)
        else:
            self.endpoints.delete(worker)
        self._say(
            system.WorkerRegistered(
                worker,
                manifest.operator,
                manifest.runtime_id,
                judged.confidence,
                key.public,
                key.epoch,
            )
        )
        self.emit(WorkerRegistered(worker, judged.confidence))

    def _appoint(self, worker: WorkerId) -> None:
        """Give a worker a free gatekeeper's seat, if it has none."""
        taken, seats = self.gatekeepers.get(), self.gatekeeper_seats.get()
        if len(taken) >= seats.seats or self.seat_of(worker) is not None:
            return
        seat = Gatekeeper(worker, FIRST_PERIOD, len(taken) + 1)
        self.gatekeepers.put((*taken, seat))
        self._say(system.GatekeeperAppointed(worker, seat.period, seats.threshold, seat.index))
        self.emit(GatekeeperAppointed(worker, seat.period, seat.index))

    def _ask_for_keys(self, worker: WorkerId) -> None:
        key, epoch = self.encryption_key(worker)
        for cluster, generation in self.clusters.enlist(worker):
            self._say(system.KeyDue(cluster, generation, worker, key, epoch))

    def _say(self, payload: SystemPayload) -> None:
        self.bus.push(SYSTEM_TOPIC, SENDER, SYSTEM_PAYLOAD.encode(payload))

    # ---- what enclaves say

    def announce_group_key(self, worker: WorkerId, said: GroupKeyAnnounced) -> None:
        """Set the period's group key: once, for keys derive from it."""
        seat = self.seat_of(worker)
        if seat is None or seat.period != said.period:
            raise NotGatekeeper
        if len(said.public) != GROUP_KEY_BYTES:
            raise GroupKeyMalformed
        if self.group_key.get() is not None:
            raise GroupKeyKnown
        self.group_key.put(GroupKey(said.period, said.public))
        self._say(system.GroupKeySet(said.period, said.public))
        self.emit(GroupKeySet(said.period, said.public))

    def show_contract_key(self, contract: ContractId, signing_key: bytes) -> None:
        self.contract_keys.put(contract, SealKey(signing_key))

    calls: ClassVar = {20: register_enclave}  # below: the original's
    events: ClassVar = {0: WorkerRegistered, 1: GatekeeperAppointed, 2: GroupKeySet}
    errors: ClassVar = dict(
        enumerate(
            (
                UnknownVersion,
                OtherChain,
                HeightOutOfWindow,
                OtherFork,
                NotSignedByWorker,
                EncryptionKeyRefused,
                PlatformNotAccepted,
                EvidenceRefused,
                ReportDataDiffers,
                MeasurementNotAllowed,
                RuntimeNotAllowed,
                EvidenceUsed,
                NotGatekeeper,
                GroupKeyKnown,
                GroupKeyMalformed,
                RefreshedTooOften,
            )
        )
    )
    constants: ClassVar = (
        Constant(
            "WindowBlocks", U32, WINDOW_BLOCKS, "How old the block may be that evidence binds."
        ),
    )
