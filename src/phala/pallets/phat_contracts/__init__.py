"""PhalaPhatContracts: clusters, the contracts in them, and the one order of all their commands.

Source: DESIGN §5, §6; ARCHITECTURE, "Keys" and "Deploy".
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, ClassVar, Final

from phala.codec import (
    U8,
    U32,
    U64,
    Bytes,
    FixedBytes,
    Vector,
)
from phala.frame import (
    MICROSECOND,
    Block,
    Constant,
    DefaultMap,
    Hasher,
    Origin,
    Pallet,
    StorageMap,
    StorageValue,
    call,
    ensure_signed,
)
from phala.messages.bus import (
    AccountSender,
    GatekeeperSender,
    PalletSender,
    Sender,
    cluster_topic,
)
from phala.messages.calls import (
    COMMAND_BLOCKS_MAX,
    COMMAND_ENVELOPE,
    COMMAND_VERSION,
    CommandEnvelope,
    code_id,
    command_id,
    contract_id,
    deploy_id,
)
from phala.messages.fuel import (
    FUEL_MAX,
    FUEL_MIN,
    FUEL_OWED_MAX,
    FUEL_PER_MS,
    FUEL_REF_TIME,
    fuel_known,
    fuel_of,
)
from phala.messages.payloads import cluster as payloads
from phala.messages.payloads.cluster import (
    ARGUMENTS_BYTES_MAX,
    CLUSTER_PAYLOAD,
    KIND_PY_SOURCE,
    SEALED_COMMAND_BYTES_MAX,
    ClusterPayload,
    PartialGiven,
)
from phala.messages.payloads.enclave import ContractFailed as FailureAnnounced
from phala.messages.payloads.enclave import ContractKeyAnnounced
from phala.messages.state import (
    CLUSTER_STATE,
    CODE_BYTES_MAX,
    CONTRACT_INFO,
    CONTRACT_KEY,
    STATE_VERSION,
    ClusterState,
    ContractInfo,
    ContractKey,
)
from phala.messages.types import (
    DESCRIPTORS,
    ClusterId,
    CodeId,
    ContractId,
    Count,
    Generation,
    SealKey,
    WorkerId,
    scale,
)
from phala.pallets.phat_contracts.errors import (
    AlreadySettled,
    ClusterBusy,
    ClusterNotFound,
    ClusterNotReady,
    CodeChanged,
    CommandExpired,
    CommandTooLarge,
    CommandVersionUnknown,
    ContractExists,
    ContractNotFound,
    ContractNotLive,
    ExpiryTooFar,
    FuelUnknown,
    GenerationPassed,
    KeyMalformed,
    KindUnknown,
    NotGatekeeper,
    NotOfCluster,
    NotOwner,
    SourceEmpty,
    TierUnknown,
)
from phala.pallets.phat_contracts.events import (
    CommandQueued,
    ContractFailed,
    ContractKeysRenewed,
    ContractLive,
    ContractQueued,
    GenerationRaised,
    TierSet,
)
from phala.pallets.phat_contracts.needs import Bus, Chain, Clock, Workers
from phala.pallets.phat_contracts.records import NOTHING_OWED, ClusterInfo, FuelOwed, Grace, Vote
from phala.primitives.types import AccountId, BlockNumber, Hash

SENDER: Final = PalletSender(b"PhalaPhatContracts")
FIRST_GENERATION: Final = Generation(1)
CLUSTERS_MAX: Final = 64  # that take workers, and of one worker
WORKERS_MAX: Final = 64  # messages.state has the same
KEY_BYTES: Final = 32
GRACE_BLOCKS: Final = 50  # for commands of the generation before: who left can read them
TIER_ANY: Final = 5

__all__ = ["ContractFailed", "ContractLive", "PhalaPhatContracts"]

QUEUED, LIVE, FAILED = 0, 1, 2  # of `ContractInfo.state`


class PhalaPhatContracts(Pallet):
    """Clusters, the contracts in them, and the order of their commands."""

    name = "PhalaPhatContracts"
    words = DESCRIPTORS
    cluster_states = StorageMap(
        Hasher.BLAKE2_128_CONCAT, ClusterId, CLUSTER_STATE, doc="Who serves a cluster."
    )
    contract_infos = StorageMap(
        Hasher.BLAKE2_128_CONCAT, ContractId, CONTRACT_INFO, doc="Contracts."
    )
    contract_keys = StorageMap(
        Hasher.BLAKE2_128_CONCAT, ContractId, CONTRACT_KEY, doc="What commands are encrypted to."
    )
    codes = StorageMap(
        Hasher.BLAKE2_128_CONCAT,
        CodeId,
        Bytes(bytes_max=CODE_BYTES_MAX),
        doc="Sources, by code id.",
    )
    clusters = StorageMap(
        Hasher.TWOX_64_CONCAT, ClusterId, ClusterInfo, doc="Clusters, where `@phala/sdk` looks."
    )
    cluster_workers: StorageMap[ClusterId, tuple[WorkerId, ...]] = StorageMap(
        Hasher.TWOX_64_CONCAT,
        ClusterId,
        Vector(scale(WorkerId), items_max=WORKERS_MAX),
        doc="Workers of a cluster, where `@phala/sdk` looks.",
    )
    open_clusters: StorageValue[tuple[ClusterId, ...]] = StorageValue(
        Vector(scale(ClusterId), items_max=CLUSTERS_MAX),
        default=(),
        doc="Clusters with a free seat.",
    )
    worker_clusters: DefaultMap[WorkerId, tuple[ClusterId, ...]] = DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        WorkerId,
        Vector(scale(ClusterId), items_max=CLUSTERS_MAX),
        default=(),
        doc="Clusters that a worker serves.",
    )
    tiers: DefaultMap[ClusterId, int] = DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        ClusterId,
        U8,
        default=TIER_ANY,
        doc="The least confidence that a cluster's workers have: 1 is the best.",
    )
    graces = StorageMap(
        Hasher.BLAKE2_128_CONCAT,
        ClusterId,
        Grace,
        doc="The generation before the present one, and how long its commands are taken.",
    )
    partials: DefaultMap[ClusterId, tuple[int, ...]] = DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        ClusterId,
        Vector(U32, items_max=WORKERS_MAX),
        default=(),
        doc="Shares that gave a partial of the present generation, until enough did.",
    )
    votes: DefaultMap[ContractId, tuple[Vote, ...]] = DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        ContractId,
        Vector(scale(Vote), items_max=WORKERS_MAX),
        default=(),
        doc="What replicas said of a contract, until enough said the same.",
    )

    fuel_owed: DefaultMap[ClusterId, FuelOwed] = DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        ClusterId,
        FuelOwed,
        default=NOTHING_OWED,
        doc="What a cluster was given to burn, less what it burns with time.",
    )

    def __init__(
        self, block: Block, *, chain: Chain, clock: Clock, bus: Bus, workers: Workers
    ) -> None:
        super().__init__(block)
        self.chain = chain
        self.clock = clock
        self.bus = bus
        self.workers = workers

    # ---- clusters

    def found(self, cluster: ClusterId, owner: AccountId, *, k: int, seats: int) -> None:
        """Make a cluster: genesis alone does."""
        self.cluster_states.put(
            cluster, ClusterState(STATE_VERSION, k, seats, FIRST_GENERATION, 0, ())
        )
        self.clusters.put(cluster, ClusterInfo(owner, None, Hash(bytes(32)), 0, 0, 0))
        self.cluster_workers.put(cluster, ())
        self.open_clusters.put((*self.open_clusters.get(), cluster))

    def enlist(self, worker: WorkerId, confidence: int) -> tuple[tuple[ClusterId, Generation], ...]:
        """Give a registered worker a free seat, if it has none, in a cluster that takes its tier.
        Returns its clusters, but for those whose tier it has lost."""
        mine = self.worker_clusters.get(worker)
        if not mine:
            free = (each for each in self.open_clusters.get() if self._takes(each, confidence))
            cluster = next(free, None)
            if cluster is None:
                return ()
            self._join(cluster, worker)
            mine = (cluster,)
            self.worker_clusters.put(worker, mine)
        return tuple(
            (cluster, self._cluster(cluster).generation)
            for cluster in mine
            if self._takes(cluster, confidence)
        )

    def _takes(self, cluster: ClusterId, confidence: int) -> bool:
        return confidence <= self.tiers.get(cluster)

    def expel(
        self, workers: tuple[WorkerId, ...]
    ) -> tuple[tuple[ClusterId, Generation, tuple[WorkerId, ...]], ...]:
        """Take workers out of their clusters. A cluster's keys change once, however many leave.
        Returns each cluster with its new generation and those who stay, and are due its key."""
        touched: dict[ClusterId, None] = {}
        for worker in workers:
            for cluster in self.worker_clusters.get(worker):
                state = self._cluster(cluster)
                left = tuple(each for each in state.workers if each != worker)
                self.cluster_states.put(cluster, replace(state, workers=left))
                self.cluster_workers.put(cluster, left)
                touched[cluster] = None
            self.worker_clusters.delete(worker)
        return tuple((each, *self._raise_generation(each)) for each in touched)

    def _raise_generation(self, cluster: ClusterId) -> tuple[Generation, tuple[WorkerId, ...]]:
        state = self._cluster(cluster)
        generation = Generation(state.generation + 1)
        self.cluster_states.put(cluster, replace(state, generation=generation, ready=0))
        self.partials.delete(cluster)
        until = BlockNumber(self.block.number + GRACE_BLOCKS)
        self.graces.put(cluster, Grace(state.generation, until))
        free = self.open_clusters.get()
        if cluster not in free and len(state.workers) < state.seats:
            self.open_clusters.put((*free, cluster))
        self._say(cluster, SENDER, payloads.GenerationRaised(cluster, generation, GRACE_BLOCKS))
        self.emit(GenerationRaised(cluster, generation))
        return generation, state.workers

    def _join(self, cluster: ClusterId, worker: WorkerId) -> None:
        state = self._cluster(cluster)
        workers = (*state.workers, worker)
        self.cluster_states.put(
            cluster,
            replace(state, workers=workers),
        )
        self.cluster_workers.put(cluster, workers)
        if len(workers) >= state.seats:
            self.open_clusters.put(
                tuple(each for each in self.open_clusters.get() if each != cluster)
            )
        self._say(cluster, SENDER, payloads.WorkerAdded(cluster, worker, state.generation))

    def _cluster(self, cluster: ClusterId) -> ClusterState:
        state = self.cluster_states.get(cluster)
        if state is None:
            raise ClusterNotFound
        return state

    def _contract(self, contract: ContractId) -> ContractInfo:
        info = self.contract_infos.get(contract)
        if info is None:
            raise ContractNotFound
        return info

    def _say(self, cluster: ClusterId, sender: Sender, payload: ClusterPayload) -> Count:
        return self.bus.push(cluster_topic(cluster), sender, CLUSTER_PAYLOAD.encode(payload))

    # ---- what accounts ask

    def _take_fuel(self, cluster: ClusterId, fuel_class: int) -> None:
        if not fuel_known(fuel_class):
            raise FuelUnknown
        now, before = self.clock.time(), self.fuel_owed.get(cluster)
        burnt = (now - before.at) * FUEL_PER_MS
        owed = max(0, before.fuel - burnt) + fuel_of(fuel_class)
        if owed > FUEL_OWED_MAX:
            raise ClusterBusy
        self.fuel_owed.put(cluster, FuelOwed(now, owed))

    @call(3_000 * MICROSECOND, count=lambda *told: fuel_of(told[-1]), each=FUEL_REF_TIME)
    def deploy(
        self,
        origin: Origin,
        cluster: ClusterId,
        kind: Annotated[int, U8],
        source: Annotated[bytes, Bytes(bytes_max=CODE_BYTES_MAX)],
        salt: Annotated[bytes, FixedBytes(32)],
        arguments: Annotated[bytes, Bytes(bytes_max=ARGUMENTS_BYTES_MAX)],
        reply_to: SealKey,
        fuel: Annotated[int, U8],
    ) -> None:
        """Put a contract into a cluster. It is live when its replicas have announced its keys.
        `instantiate` may burn 2**fuel."""
        deployer = ensure_signed(origin)
        if not self._cluster(cluster).ready:
            raise ClusterNotReady
        if kind != KIND_PY_SOURCE:
            raise KindUnknown
        if not source:
            raise SourceEmpty
        runtime_id = self.workers.runtime_id()
        code = code_id(runtime_id, source)
        contract = contract_id(deployer, code, cluster, salt)
        if contract in self.contract_infos:
            raise ContractExists
        if code not in self.codes:
            self.codes.put(code, source)
        self.contract_infos.put(
            contract,
            ContractInfo(STATE_VERSION, cluster, deployer, code, kind, self.block.number, QUEUED),
        )
        self._take_fuel(cluster, fuel)
        call_id = deploy_id(self.chain.genesis_hash(), contract)
        self._say(
            cluster,
            AccountSender(deployer),
            payloads.ContractDeployed(
                contract, call_id, deployer, code, kind, runtime_id, arguments, reply_to, fuel
            ),
        )
        self.emit(ContractQueued(contract, call_id, deployer))

    @call(
        1_000 * MICROSECOND,
        count=lambda _contract, command: fuel_of(command.fuel),
        each=FUEL_REF_TIME,
    )
    def push_command(
        self,
        origin: Origin,
        contract: ContractId,
        command: Annotated[CommandEnvelope, COMMAND_ENVELOPE],
    ) -> None:
        """Put an encrypted command into the order of the contract's cluster. It may burn
        2**fuel."""
        sender = ensure_signed(origin)
        info = self._contract(contract)
        if info.state != LIVE:
            raise ContractNotLive
        if command.version != COMMAND_VERSION:
            raise CommandVersionUnknown
        if not self._is_current(info.cluster, command.generation):
            raise GenerationPassed
        if command.expires < self.block.number:
            raise CommandExpired
        if command.expires > self.block.number + COMMAND_BLOCKS_MAX:
            raise ExpiryTooFar
        if command.code_id is not None and command.code_id != info.code_id:
            raise CodeChanged
        envelope = COMMAND_ENVELOPE.encode(command)
        if len(envelope) > SEALED_COMMAND_BYTES_MAX:
            raise CommandTooLarge
        self._take_fuel(info.cluster, command.fuel)
        call_id = command_id(self.chain.genesis_hash(), contract, sender, command)
        queued = payloads.CommandQueued(contract, call_id, sender, envelope)
        count = self._say(info.cluster, AccountSender(sender), queued)
        self.emit(CommandQueued(contract, call_id, sender, count))

    def _is_current(self, cluster: ClusterId, generation: Generation) -> bool:
        """Whether commands of a generation are taken: the present one's, and for some blocks those
        of the one before it, whose keys clients still have."""
        if generation == self._cluster(cluster).generation:
            return True
        grace = self.graces.get(cluster)
        return grace is not None and (
            grace.generation == generation and self.block.number <= grace.until
        )

    @call(100 * MICROSECOND)
    def set_tier(self, origin: Origin, cluster: ClusterId, tier: Annotated[int, U8]) -> None:
        """Demand a confidence of the cluster's workers, 1 (best) to 5 (any): its owner may."""
        owner = ensure_signed(origin)
        known = self.clusters.get(cluster)
        if known is None:
            raise ClusterNotFound
        if known.owner != owner:
            raise NotOwner
        if not 1 <= tier <= TIER_ANY:
            raise TierUnknown
        self.tiers.put(cluster, tier)
        self.emit(TierSet(cluster, tier))

    # ---- what enclaves say

    def give_partial(self, gatekeeper: WorkerId, said: PartialGiven) -> None:
        """Pass a partial on to the cluster; its keys are ready when enough gatekeepers gave one."""
        seat = self.workers.seat_of(gatekeeper)
        if seat is None or (seat.period, seat.index) != (said.period, said.index):
            raise NotGatekeeper
        state = self._cluster(said.cluster)
        if said.generation != state.generation:
            raise GenerationPassed
        if said.worker not in state.workers or not self.workers.is_registered(said.worker):
            raise NotOfCluster
        self._say(said.cluster, GatekeeperSender(gatekeeper), said)
        if state.ready:
            return
        given = self.partials.get(said.cluster)
        if said.index not in given:
            given = (*given, said.index)
        if len(given) < self.workers.key_threshold():
            self.partials.put(said.cluster, given)
            return
        self.partials.delete(said.cluster)
        self.cluster_states.put(
            said.cluster,
            replace(state, ready=1),
        )

    def announce_key(self, worker: WorkerId, said: ContractKeyAnnounced) -> None:
        """Count a replica's word for a contract's keys; when k said the same, it is live.

        A live contract gets keys of each later generation in the same way.
        """
        if len(said.signing_key) != KEY_BYTES:
            raise KeyMalformed
        words = said.generation.to_bytes(4, "little") + said.command_key + said.signing_key
        info = self._contract(said.contract)
        if said.generation != self._cluster(info.cluster).generation:
            raise GenerationPassed

        def settle(signers: int) -> None:
            self.contract_keys.put(
                said.contract,
                ContractKey(
                    STATE_VERSION, said.generation, said.command_key, said.signing_key, signers
                ),
            )
            self.workers.show_contract_key(said.contract, said.signing_key)
            if info.state == QUEUED:
                self._settle(said.contract, LIVE)
                self.emit(ContractLive(said.contract))
            else:
                self.emit(ContractKeysRenewed(said.contract, said.generation))

        known = self.contract_keys.get(said.contract)
        settled = info.state == FAILED or (
            known is not None and known.generation >= said.generation
        )
        self._vote(worker, said.contract, words, settle, settled=settled)

    def announce_failure(self, worker: WorkerId, said: FailureAnnounced) -> None:
        """Count a replica's word that a contract failed; when k say so, it has."""

        def settle(_signers: int) -> None:
            self._settle(said.contract, FAILED)
            self.emit(ContractFailed(said.contract))

        settled = self._contract(said.contract).state != QUEUED
        self._vote(worker, said.contract, b"", settle, settled=settled)

    def _vote(
        self,
        worker: WorkerId,
        contract: ContractId,
        said: bytes,
        settle: Callable[[int], None],
        *,
        settled: bool,
    ) -> None:
        info = self._contract(contract)
        cluster = self._cluster(info.cluster)
        if worker not in cluster.workers:
            raise NotOfCluster
        if settled:
            raise AlreadySettled
        others = tuple(vote for vote in self.votes.get(contract) if vote.worker != worker)
        votes = (*others, Vote(worker, said))
        agreed = sum(vote.said == said for vote in votes)
        if agreed >= cluster.k:
            self.votes.delete(contract)
            settle(agreed)
        else:
            self.votes.put(contract, votes)

    def _settle(self, contract: ContractId, state: int) -> None:
        info = self._contract(contract)
        self.contract_infos.put(contract, replace(info, state=state))

    calls: ClassVar = {20: deploy, 21: push_command, 22: set_tier}  # below: the original's
    events: ClassVar = {
        0: ContractQueued,
        1: ContractLive,
        2: ContractFailed,
        3: CommandQueued,
        4: GenerationRaised,
        5: ContractKeysRenewed,
        6: TierSet,
    }
    errors: ClassVar = dict(
        enumerate(
            (
                ClusterNotFound,
                ClusterNotReady,
                KindUnknown,
                SourceEmpty,
                ContractExists,
                ContractNotFound,
                ContractNotLive,
                CommandVersionUnknown,
                GenerationPassed,
                CommandExpired,
                ExpiryTooFar,
                CodeChanged,
                CommandTooLarge,
                NotGatekeeper,
                NotOfCluster,
                AlreadySettled,
                KeyMalformed,
                NotOwner,
                TierUnknown,
                ClusterBusy,
                FuelUnknown,
            )
        )
    )
    constants: ClassVar = (
        Constant(
            "CommandBlocksMax", U32, COMMAND_BLOCKS_MAX, "How far ahead a command may expire."
        ),
        Constant("FuelMin", U8, FUEL_MIN, "The least class of fuel: class n is 2**n."),
        Constant("FuelMax", U8, FUEL_MAX, "The largest class of fuel."),
        Constant("FuelRefTime", U64, FUEL_REF_TIME, "Picoseconds that a unit of fuel weighs."),
        Constant("FuelPerMillisecond", U64, FUEL_PER_MS, "What a cluster burns of what it owes."),
        Constant("FuelOwedMax", U64, FUEL_OWED_MAX, "How much a cluster may owe."),
    )
