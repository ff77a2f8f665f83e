"""PhalaRegistry: which workers hold evidence that the chain accepted; gatekeepers and their key.

Source: DESIGN §4; ARCHITECTURE, "What happens at registration" and "A worker's life".
"""

from typing import Annotated, ClassVar, Final

from phala.codec import U8, U16, U32, U64, Bytes, Vector
from phala.crypto.hashes import blake2_256
from phala.errors import PhalaError
from phala.frame import (
    MICROSECOND,
    Block,
    Constant,
    DefaultMap,
    Hasher,
    Origin,
    Pallet,
    Pays,
    StorageDoubleMap,
    StorageMap,
    StorageOption,
    StorageValue,
    call,
    ensure_root,
    ensure_unsigned,
)
from phala.messages.bus import SYSTEM_TOPIC, PalletSender
from phala.messages.collateral import COLLATERAL_KEY, CollateralKey
from phala.messages.payloads import system
from phala.messages.payloads.enclave import GroupKeyAnnounced
from phala.messages.payloads.system import GROUP_KEY_BYTES, SYSTEM_PAYLOAD, SystemPayload
from phala.messages.registration import (
    MEASUREMENT_BYTES_MAX,
    PLATFORM_SIMULATED,
    SIGNED_REGISTRATION,
    SignedRegistration,
)
from phala.messages.state import (
    WORKER_INFO,
    WORKER_SUSPENDED,
)
from phala.messages.types import DESCRIPTORS, ContractId, Epoch, SealKey, WorkerId, scale
from phala.pallets.registry import judging, life, listing
from phala.pallets.registry.errors import (
    ERRORS,
    BlockMalformed,
    GroupKeyKnown,
    GroupKeyMalformed,
    LastOfList,
    ListUnchanged,
    NotGatekeeper,
    PolicyRefused,
    TermsRefused,
    TooManyChanges,
)
from phala.pallets.registry.judging import REFRESHES_MAX, Judged, judging_time
from phala.pallets.registry.lists import LIST_ITEMS_MAX, added, removed
from phala.pallets.registry.needs import (
    Bus,
    Chain,
    Clock,
    Clusters,
    Collateral,
    DeviceJudgement,
    Judgement,
    Verifier,
)
from phala.pallets.registry.records import (
    BLOCK_KINDS,
    GROUP_COLLATERAL,
    Attested,
    Blocked,
    Endpoints,
    Ends,
    Gatekeeper,
    GatekeeperAppointed,
    GroupKey,
    GroupKeySet,
    MeasurementAllowed,
    MeasurementDisallowed,
    Place,
    PlatformBlocked,
    PlatformUnblocked,
    PolicyChange,
    PolicySet,
    Refreshes,
    RuntimeAllowed,
    RuntimeDisallowed,
    Seats,
    Signer,
    SignerAllowed,
    SignerDisallowed,
    Sweep,
    TermsSet,
    WorkerFresh,
    WorkerRegistered,
    WorkerStale,
    WorkerSuspended,
)
from phala.primitives.types import HASH, BlockNumber, Hash, Moment

WINDOW_BLOCKS: Final = 600  # how old the block may be that evidence binds
POLICY_BYTES_MAX: Final = 16 * 1024  # attest.policy has the same
FIRST_PERIOD: Final = 1
REFRESH_BLOCKS: Final = 100  # in which a worker is refreshed `REFRESHES_MAX` times
DAY_MS: Final = 24 * 60 * 60 * 1000
ATTESTATION_AGE_MS_MAX: Final = 7 * DAY_MS  # until governance says otherwise: tee.md §5.1
AGE_MS_LEAST, AGE_MS_MOST = 60 * 60 * 1000, 90 * DAY_MS
GRACE_MS_MAX: Final = 90 * DAY_MS
CHANGES_MAX: Final = 8  # of the policy, whose grace runs
LIFE_REF_TIME: Final = (life.SWEPT_MAX + life.AGED_MAX) * 150 * MICROSECOND

SENDER: Final = PalletSender(b"PhalaRegistry")
MEASUREMENT: Final = Bytes(bytes_max=MEASUREMENT_BYTES_MAX)
FIRST: Final = Ends(0, 0)
IDLE_REF_TIME: Final = 20 * MICROSECOND
CONFIDENCE_WORST: Final = 5  # attest.verdict has the same

__all__ = ["REFRESHES_MAX", "DeviceJudgement", "Judgement", "PhalaRegistry", "Seats", "Verifier"]


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
    evidence_queue = StorageValue(Ends, default=FIRST, doc="Ends of `EvidenceOrder`.")
    refreshes = StorageMap(
        Hasher.TWOX_64_CONCAT, WorkerId, Refreshes, doc="How often workers were listed of late."
    )
    arrivals = StorageMap(
        Hasher.TWOX_64_CONCAT, Hash, Refreshes, doc="How many new workers machines brought of late."
    )
    policy = StorageValue(
        Bytes(bytes_max=POLICY_BYTES_MAX), default=b"", doc="How evidence is judged: attest.policy."
    )
    policy_changes: StorageValue[tuple[PolicyChange, ...]] = StorageValue(
        Vector(scale(PolicyChange), items_max=CHANGES_MAX),
        default=(),
        doc="Until when those that an earlier policy judged must attest again.",
    )
    attestation_age_ms_max = StorageValue(
        U64, default=ATTESTATION_AGE_MS_MAX, doc="How long evidence counts, in milliseconds."
    )
    accepted_platforms: StorageValue[tuple[int, ...]] = StorageValue(
        Vector(U8, items_max=LIST_ITEMS_MAX), default=(), doc="Numbers of accepted platforms."
    )
    allowed_measurements: StorageValue[tuple[bytes, ...]] = StorageValue(
        Vector(MEASUREMENT, items_max=LIST_ITEMS_MAX), default=(), doc="Code that workers may be."
    )
    allowed_signers: StorageValue[tuple[Signer, ...]] = StorageValue(
        Vector(scale(Signer), items_max=LIST_ITEMS_MAX),
        default=(),
        doc="Whose code workers may be, where the platform says who signed it.",
    )
    allowed_runtimes: StorageValue[tuple[Hash, ...]] = StorageValue(
        Vector(HASH, items_max=LIST_ITEMS_MAX),
        default=(),
        doc="Runtime modules that workers may have; new contracts run on the last.",
    )
    blocked = StorageMap(
        Hasher.BLAKE2_128_CONCAT,
        scale(Blocked),
        BlockNumber,
        doc="What is known to be broken, and since which block.",
    )
    attested_order: StorageMap[int, Attested] = StorageMap(
        Hasher.TWOX_64_CONCAT, U64, scale(Attested), doc="Workers as they were judged."
    )
    attested_ends = StorageValue(Ends, default=FIRST, doc="Ends of `AttestedOrder`.")
    group_sizes: DefaultMap[Hash, int] = DefaultMap(
        Hasher.BLAKE2_128_CONCAT, HASH, U32, default=0, doc="How many workers a group has."
    )
    group_members: StorageDoubleMap[Hash, int, WorkerId] = StorageDoubleMap(
        (Hasher.BLAKE2_128_CONCAT, Hasher.TWOX_64_CONCAT),
        (HASH, U32),
        scale(WorkerId),
        doc="Workers of one machine, product, code, signer or collateral.",
    )
    places: DefaultMap[WorkerId, tuple[Place, ...]] = DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        WorkerId,
        Vector(scale(Place), items_max=8),
        default=(),
        doc="Where a worker stands in its groups.",
    )
    sweeps: StorageValue[tuple[Sweep, ...]] = StorageValue(
        Vector(scale(Sweep), items_max=life.SWEEPS_MAX),
        default=(),
        doc="Groups whose workers are looked at again.",
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
        collateral: Collateral,
        verifier: Verifier,
    ) -> None:
        super().__init__(block)
        self.chain = chain
        self.clock = clock
        self.bus = bus
        self.clusters = clusters
        self.collateral = collateral
        self.verifier = verifier
        self._has_room = False  # in this block, for looking at workers again

    # ---- for other pallets

    def is_registered(self, worker: WorkerId) -> bool:
        """Whether a worker is listed, and not suspended; a sweep may still be on its way to it."""
        info = self.enclaves.get(worker)
        if info is None or info.state == WORKER_SUSPENDED:
            return False
        return not self.sweeps.get() or not any(each in self.blocked for each in life.broken(info))

    def confidence(self, worker: WorkerId) -> int:
        """Its tier, 1 to 5; the worst for who is not registered."""
        info = self.enclaves.get(worker)
        return CONFIDENCE_WORST if info is None else info.confidence

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

    def review(self, of: CollateralKey) -> None:
        """A product's collateral stands otherwise than before: look at its workers again."""
        life.sweep(self, life.group(GROUP_COLLATERAL, COLLATERAL_KEY.encode(of)))

    def expel(self, workers: tuple[WorkerId, ...]) -> None:
        """Take workers out of all clusters, whose keys change; those who stay get new ones."""
        if not workers:
            return
        for worker in workers:
            self.say(system.WorkerRemoved(worker))
        for cluster, generation, staying in self.clusters.expel(workers):
            for worker in staying:
                if self.is_registered(worker):
                    key, epoch = self.encryption_key(worker)
                    self.say(system.KeyDue(cluster, generation, worker, key, epoch))

    # ---- registration

    def check(self, signed: SignedRegistration) -> Judged:
        """Whether the chain may list this worker: see `judging.check`."""
        return judging.check(self, signed, WINDOW_BLOCKS, REFRESH_BLOCKS)

    @call(5_000 * MICROSECOND, pays_fee=Pays.NO, weigh=judging_time)
    def register_enclave(
        self, origin: Origin, registration: Annotated[SignedRegistration, SIGNED_REGISTRATION]
    ) -> None:
        """List a worker whose evidence is good, or refresh it: its evidence, its encryption key."""
        ensure_unsigned(origin)
        judged = self.check(registration)
        body = registration.body
        worker = body.manifest.worker
        refreshes = judging.refreshes(self, worker, REFRESH_BLOCKS)
        if refreshes is not None:
            self.refreshes.put(worker, refreshes)
        came = judging.arrivals(self, worker, judged.proves, REFRESH_BLOCKS)
        if came is not None:
            self.arrivals.put(*came)
        listing.use_evidence(self, judged.used, WINDOW_BLOCKS)
        listing.put(self, body, judged)
        self._appoint(worker)
        self._ask_for_keys(worker, judged.proves.confidence)

    def _appoint(self, worker: WorkerId) -> None:
        """Give a worker a free gatekeeper's seat, if it has none."""
        taken, seats = self.gatekeepers.get(), self.gatekeeper_seats.get()
        if len(taken) >= seats.seats or self.seat_of(worker) is not None:
            return
        seat = Gatekeeper(worker, FIRST_PERIOD, len(taken) + 1)
        self.gatekeepers.put((*taken, seat))
        self.say(system.GatekeeperAppointed(worker, seat.period, seats.threshold, seat.index))
        self.emit(GatekeeperAppointed(worker, seat.period, seat.index))

    def _ask_for_keys(self, worker: WorkerId, confidence: int) -> None:
        key, epoch = self.encryption_key(worker)
        for cluster, generation in self.clusters.enlist(worker, confidence):
            self.say(system.KeyDue(cluster, generation, worker, key, epoch))

    def say(self, payload: SystemPayload) -> None:
        """Tell all enclaves."""
        self.bus.push(SYSTEM_TOPIC, SENDER, SYSTEM_PAYLOAD.encode(payload))

    # ---- time

    def on_initialize(self) -> int:
        """Room for what `on_finalize` does: what turns up in a block is for the next one."""
        self._has_room = life.is_pending(self)
        return LIFE_REF_TIME if self._has_room else IDLE_REF_TIME

    def on_finalize(self) -> None:
        """Some of the workers whose evidence grew old, or whose platforms stand otherwise."""
        if self._has_room:
            life.go_on(self)

    # ---- what governance says

    @call(1_000 * MICROSECOND)
    def set_policy(
        self,
        origin: Origin,
        policy: Annotated[bytes, Bytes(bytes_max=POLICY_BYTES_MAX)],
        grace_ms: Annotated[int, U64],
    ) -> None:
        """Judge evidence by another policy; who was judged before attests again in that time.

        Simulated evidence is a chain's from its genesis on, or never.
        """
        ensure_root(origin)
        try:
            platforms = self.verifier.platforms(policy)
        except PhalaError as error:
            raise PolicyRefused from error
        simulated = PLATFORM_SIMULATED in self.accepted_platforms.get()
        if simulated != (PLATFORM_SIMULATED in platforms):
            raise PolicyRefused
        if grace_ms > GRACE_MS_MAX:
            raise TermsRefused
        now = self.clock.time()
        changes = self.policy_changes.get()
        if len(changes) >= CHANGES_MAX:
            if changes[0].effective_at > now:
                raise TooManyChanges
            changes = changes[1:]
        effective_at = Moment(now + grace_ms)
        self.policy.put(policy)
        self.accepted_platforms.put(platforms)
        self.policy_changes.put((*changes, PolicyChange(now, effective_at)))
        self.emit(PolicySet(Hash(blake2_256(policy)), effective_at))

    @call(100 * MICROSECOND)
    def set_terms(self, origin: Origin, attestation_age_ms_max: Annotated[int, U64]) -> None:
        """Say how long evidence counts."""
        ensure_root(origin)
        if not AGE_MS_LEAST <= attestation_age_ms_max <= AGE_MS_MOST:
            raise TermsRefused
        self.attestation_age_ms_max.put(attestation_age_ms_max)
        self.emit(TermsSet(attestation_age_ms_max))

    @call(100 * MICROSECOND)
    def allow_measurement(self, origin: Origin, measurement: Annotated[bytes, MEASUREMENT]) -> None:
        """Let workers be this code."""
        ensure_root(origin)
        self.allowed_measurements.put(added(self.allowed_measurements.get(), measurement))
        self.emit(MeasurementAllowed(measurement))

    @call(100 * MICROSECOND)
    def disallow_measurement(
        self, origin: Origin, measurement: Annotated[bytes, MEASUREMENT]
    ) -> None:
        """Let no worker register as this code; those that are go on until they attest again."""
        ensure_root(origin)
        self.allowed_measurements.put(removed(self.allowed_measurements.get(), measurement))
        self.emit(MeasurementDisallowed(measurement))

    @call(100 * MICROSECOND)
    def allow_signer(self, origin: Origin, signer: Annotated[Signer, scale(Signer)]) -> None:
        """Let workers be what somebody signs, from a security version on; which may be changed."""
        ensure_root(origin)
        known = self.allowed_signers.get()
        kept = tuple(
            each for each in known if (each.signer, each.product) != (signer.signer, signer.product)
        )
        self.allowed_signers.put(added(kept, signer))
        self.emit(SignerAllowed(signer.signer, signer.product, signer.svn_min))

    @call(100 * MICROSECOND)
    def disallow_signer(
        self,
        origin: Origin,
        signer: Annotated[bytes, MEASUREMENT],
        product: Annotated[int, U16],
    ) -> None:
        """Let no worker register as what somebody signs."""
        ensure_root(origin)
        known = self.allowed_signers.get()
        kept = tuple(each for each in known if (each.signer, each.product) != (signer, product))
        if kept == known:
            raise ListUnchanged
        self.allowed_signers.put(kept)
        self.emit(SignerDisallowed(signer, product))

    @call(100 * MICROSECOND)
    def allow_runtime(self, origin: Origin, runtime: Hash) -> None:
        """Let workers have this runtime module, and new contracts run on it."""
        ensure_root(origin)
        self.allowed_runtimes.put(added(self.allowed_runtimes.get(), runtime))
        self.emit(RuntimeAllowed(runtime))

    @call(100 * MICROSECOND)
    def disallow_runtime(self, origin: Origin, runtime: Hash) -> None:
        """Let no worker register with this runtime module."""
        ensure_root(origin)
        left = removed(self.allowed_runtimes.get(), runtime)
        if not left:
            raise LastOfList
        self.allowed_runtimes.put(left)
        self.emit(RuntimeDisallowed(runtime))

    @call(500_000 * MICROSECOND)
    def block_platform(self, origin: Origin, what: Annotated[Blocked, scale(Blocked)]) -> None:
        """Something is known to be broken: who depends on it is out of all clusters at once."""
        ensure_root(origin)
        if what.kind not in BLOCK_KINDS or not what.value:
            raise BlockMalformed
        if what in self.blocked:
            raise ListUnchanged
        self.blocked.put(what, BlockNumber(self.block.number))
        self.emit(PlatformBlocked(what.kind, what.value))
        life.sweep_at_once(self, life.group(what.kind, what.value))

    @call(100 * MICROSECOND)
    def unblock_platform(self, origin: Origin, what: Annotated[Blocked, scale(Blocked)]) -> None:
        """It was not broken, or is mended: who depends on it may register again."""
        ensure_root(origin)
        if what not in self.blocked:
            raise ListUnchanged
        self.blocked.delete(what)
        self.emit(PlatformUnblocked(what.kind, what.value))

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
        self.say(system.GroupKeySet(said.period, said.public))
        self.emit(GroupKeySet(said.period, said.public))

    def show_contract_key(self, contract: ContractId, signing_key: bytes) -> None:
        self.contract_keys.put(contract, SealKey(signing_key))

    calls: ClassVar = {  # below 20: the original's
        20: register_enclave,
        21: set_policy,
        22: set_terms,
        23: allow_measurement,
        24: disallow_measurement,
        25: allow_signer,
        26: disallow_signer,
        27: allow_runtime,
        28: disallow_runtime,
        29: block_platform,
        30: unblock_platform,
    }
    events: ClassVar = dict(
        enumerate(
            (
                WorkerRegistered,
                GatekeeperAppointed,
                GroupKeySet,
                WorkerStale,
                WorkerFresh,
                WorkerSuspended,
                PolicySet,
                TermsSet,
                MeasurementAllowed,
                MeasurementDisallowed,
                SignerAllowed,
                SignerDisallowed,
                RuntimeAllowed,
                RuntimeDisallowed,
                PlatformBlocked,
                PlatformUnblocked,
            )
        )
    )
    errors: ClassVar = dict(enumerate(ERRORS))
    constants: ClassVar = (
        Constant(
            "WindowBlocks", U32, WINDOW_BLOCKS, "How old the block may be that evidence binds."
        ),
    )
