"""How workers stand as time goes by: age, policy, the block-list; and what their clusters do."""

import random
from dataclasses import replace

import pytest
from tests.unit.hardware import DAY_MS, HOUR_MS, RUNTIME_ID, Ground, ground

from phala.attest import PRODUCTION
from phala.frame import BadOrigin, Root, Signed
from phala.messages.bus import cluster_topic
from phala.messages.calls import CommandEnvelope, code_id, contract_id
from phala.messages.payloads.cluster import GenerationRaised, PartialGiven, WorkerAdded
from phala.messages.payloads.enclave import ContractKeyAnnounced, GroupKeyAnnounced
from phala.messages.payloads.system import KeyDue, WorkerRemoved
from phala.messages.state import (
    CLUSTER_STATE,
    CONTRACT_KEY,
    REASON_AGE,
    REASON_BLOCKED,
    REASON_POLICY,
    WORKER_ACTIVE,
    WORKER_STALE,
    WORKER_SUSPENDED,
    ClusterState,
    cluster_key,
    contract_keys_key,
    worker_state,
)
from phala.messages.types import Generation, SealKey
from phala.pallets.phat_contracts.errors import GenerationPassed, NotOwner, TierUnknown
from phala.pallets.registry import REFRESH_BLOCKS, PhalaRegistry, life
from phala.pallets.registry.errors import (
    BlockMalformed,
    LastOfList,
    ListUnchanged,
    PolicyRefused,
    TermsRefused,
)
from phala.pallets.registry.records import (
    BLOCK_MACHINE,
    BLOCK_MEASUREMENT,
    BLOCK_PRODUCT,
    BLOCK_SIGNER,
    Blocked,
    Signer,
    WorkerSuspended,
)
from phala.primitives.types import AccountId, BlockNumber, Hash
from phala.runtime import DEV_ACCOUNTS, FIRST_CLUSTER, InvalidTransaction
from phala.runtime.world import World
from phala.testing.pallets import refused
from phala.testing.vendors import Hardware, submit_intel
from phala.testing.worker import WorkerKeys

TOPIC = cluster_topic(FIRST_CLUSTER)
GROUP_KEY = b"k" * 48
ALICE, BOB = DEV_ACCOUNTS["Alice"], DEV_ACCOUNTS["Bob"]


def equipped(*, seats: int = 1, k: int = 1) -> Ground:
    site = ground(seats=seats, k=k)
    site.chain.block(
        submit_intel(site.vendors.tdx.collateral()), submit_intel(site.vendors.sgx.collateral())
    )
    return site


@pytest.fixture
def site() -> Ground:
    return equipped()


def machine(site: Ground, seed: int) -> WorkerKeys:
    """A worker on a machine of its own."""
    return site.worker(Hardware(site.vendors.machine(ppid=bytes([seed]) * 16)), seed)


def cluster(site: Ground) -> ClusterState:
    return CLUSTER_STATE.decode(site.chain.pairs[cluster_key(FIRST_CLUSTER)])


# ---- age


def test_old_evidence_suspends_until_the_worker_attests_again(site: Ground) -> None:
    worker = machine(site, 1)
    site.register(worker)
    site.pass_time(7 * DAY_MS - HOUR_MS)
    assert site.info(worker.worker).state == WORKER_ACTIVE

    events = site.pass_time(HOUR_MS)

    assert WorkerSuspended(worker.worker, REASON_AGE) in events
    assert site.info(worker.worker).reason == REASON_AGE
    assert cluster(site).workers == (worker.worker,), "it is late, not broken: it keeps its seat"
    worker.epoch = 2
    assert site.register(worker).state == WORKER_ACTIVE


def test_attesting_again_in_time_starts_the_age_anew(site: Ground) -> None:
    worker = machine(site, 1)
    for _ in range(4):
        site.register(worker)
        worker.epoch += 1
        site.pass_time(6 * DAY_MS)
        assert site.info(worker.worker).state == WORKER_ACTIVE


def test_a_suspended_worker_says_nothing_to_the_chain(site: Ground) -> None:
    worker = machine(site, 1)
    site.register(worker)
    site.pass_time(8 * DAY_MS)

    with pytest.raises(InvalidTransaction) as refusal:
        site.chain.block(worker.say(GroupKeyAnnounced(1, GROUP_KEY)))

    assert refusal.value.custom == 2  # UnknownWorker


def test_many_workers_grow_old_some_a_block(site: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "AGED_MAX", 3)
    workers = [machine(site, seed) for seed in range(1, 11)]
    site.chain.block(*(each.register(site.chain.header) for each in workers))
    gone = [
        sum(isinstance(each, WorkerSuspended) for each in site.pass_time(ms, blocks=1))
        for ms in (8 * DAY_MS, 0, 0, 0, 0, 0)
    ]
    assert gone == [0, 3, 3, 3, 1, 0]  # what a block finds is for the next one


def test_a_block_without_events_costs_the_same_with_many_workers(site: Ground) -> None:
    few = time_free_reads(site)
    site.chain.block(*(machine(site, seed).register(site.chain.header) for seed in range(1, 60)))
    assert time_free_reads(site) == few


def time_free_reads(site: Ground) -> int:
    """How many keys the registry's hooks read in a block where nothing happens."""
    read: set[bytes] = set()

    def act(world: World) -> None:
        before = world.block.state.looked_at()
        registry = PhalaRegistry(
            world.block,
            chain=world.system,
            clock=world.timestamp,
            bus=world.mq,
            clusters=world,
            collateral=world.collateral,
            verifier=site.vendors.verifier,
        )
        registry.on_initialize()
        registry.on_finalize()
        read.update(world.block.state.looked_at() - before)

    site.govern(act)
    return len(read)


# ---- policy and terms


def test_a_changed_policy_gives_workers_time_to_attest_again(site: Ground) -> None:
    worker, other = machine(site, 1), machine(site, 2)
    site.register(worker)
    site.register(other)
    policy = replace(PRODUCTION, evaluation_number_min=19).encode()
    site.govern(lambda world: world.registry.set_policy(Root(), policy, 2 * DAY_MS))
    other.epoch = 2
    assert site.register(other).state == WORKER_ACTIVE

    events = site.pass_time(2 * DAY_MS)

    assert WorkerSuspended(worker.worker, REASON_POLICY) in events
    assert site.info(other.worker).state == WORKER_ACTIVE


def test_a_policy_that_asks_more_than_a_platform_has_refuses_it(site: Ground) -> None:
    policy = replace(PRODUCTION, evaluation_number_min=21).encode()
    site.govern(lambda world: world.registry.set_policy(Root(), policy, 0))

    with pytest.raises(InvalidTransaction) as refusal:
        site.chain.block(machine(site, 1).register(site.chain.header))

    assert refusal.value.custom == 7  # EvidenceRefused


def test_governance_alone_changes_policy_terms_and_lists(site: Ground) -> None:
    anyone = Signed(AccountId(bytes(32)))
    policy = PRODUCTION.encode()

    def act(world: World) -> None:
        registry = world.registry
        for call, arguments in (
            (registry.set_policy, (policy, 0)),
            (registry.set_terms, (DAY_MS,)),
            (registry.allow_measurement, (b"m",)),
            (registry.disallow_measurement, (b"m",)),
            (registry.allow_signer, (Signer(b"s", 0, 0),)),
            (registry.disallow_signer, (b"s", 0)),
            (registry.allow_runtime, (RUNTIME_ID,)),
            (registry.disallow_runtime, (RUNTIME_ID,)),
            (registry.block_platform, (Blocked(0, b"x"),)),
            (registry.unblock_platform, (Blocked(0, b"x"),)),
        ):
            with pytest.raises(BadOrigin):
                call(anyone, *arguments)

    site.govern(act)


def test_lists_and_terms_have_bounds(site: Ground) -> None:
    def act(world: World) -> None:
        registry, block = world.registry, world.block
        registry.allow_measurement(Root(), b"m")
        with refused(ListUnchanged, block):
            registry.allow_measurement(Root(), b"m")
        registry.disallow_measurement(Root(), b"m")
        with refused(ListUnchanged, block):
            registry.disallow_measurement(Root(), b"m")
        with refused(LastOfList, block):
            registry.disallow_runtime(Root(), RUNTIME_ID)
        registry.allow_runtime(Root(), Hash(b"n" * 32))
        registry.disallow_runtime(Root(), RUNTIME_ID)
        assert registry.runtime_id() == b"n" * 32
        with refused(ListUnchanged, block):
            registry.disallow_signer(Root(), b"s", 0)
        registry.allow_signer(Root(), Signer(b"s", 0, 1))
        registry.allow_signer(Root(), Signer(b"s", 0, 2))
        assert registry.allowed_signers.get() == (Signer(b"s", 0, 2),)
        registry.disallow_signer(Root(), b"s", 0)
        for age in (HOUR_MS - 1, 91 * DAY_MS):
            with refused(TermsRefused, block):
                registry.set_terms(Root(), age)
        registry.set_terms(Root(), DAY_MS)
        with refused(PolicyRefused, block):
            registry.set_policy(Root(), b"{}", 0)
        with refused(TermsRefused, block):
            registry.set_policy(Root(), PRODUCTION.encode(), 91 * DAY_MS)
        for what in (Blocked(9, b"x"), Blocked(0, b"")):
            with refused(BlockMalformed, block):
                registry.block_platform(Root(), what)
        with refused(ListUnchanged, block):
            registry.unblock_platform(Root(), Blocked(0, b"x"))

    site.govern(act)


# ---- what is known to be broken


def blocked_of(site: Ground, worker: WorkerKeys, kind: int) -> Blocked:
    info = site.info(worker.worker)
    value = {
        BLOCK_MACHINE: info.platform_id,
        BLOCK_PRODUCT: info.product,
        BLOCK_MEASUREMENT: info.measurement,
        BLOCK_SIGNER: info.signer,
    }[kind]
    return Blocked(kind, value)


@pytest.mark.parametrize("kind", [BLOCK_MACHINE, BLOCK_PRODUCT, BLOCK_MEASUREMENT, BLOCK_SIGNER])
def test_wiretap_and_tee_fail_what_is_blocked_is_out_in_the_same_block(kind: int) -> None:
    site = equipped(seats=3)
    hardware = [
        Hardware(site.vendors.machine(tdx=False, ppid=b"\x01" * 16)),
        Hardware(site.vendors.machine(tdx=False, ppid=b"\x02" * 16)),
    ]
    broken, other = (site.worker(each, seed) for seed, each in enumerate(hardware, 1))
    for each in (broken, other):
        site.register(each)
    assert cluster(site).workers == (broken.worker, other.worker)
    what = blocked_of(site, broken, kind)

    events = site.govern(lambda world: world.registry.block_platform(Root(), what))

    assert WorkerSuspended(broken.worker, REASON_BLOCKED) in events
    assert site.info(broken.worker).state == WORKER_SUSPENDED
    assert WorkerRemoved(broken.worker) in site.said()
    state = cluster(site)
    assert (state.generation, state.ready) == (2, 0)
    assert isinstance(site.said(TOPIC)[-1], GenerationRaised)
    if kind == BLOCK_MACHINE:
        assert state.workers == (other.worker,)
        due = site.said()[-1]
        assert isinstance(due, KeyDue)
        assert (due.worker, due.generation) == (other.worker, 2)
    else:
        assert state.workers == ()
    broken.epoch = 2
    with pytest.raises(InvalidTransaction) as refusal:
        site.chain.block(broken.register(site.chain.header))
    assert refusal.value.custom == 17  # PlatformIsBlocked
    site.govern(lambda world: world.registry.unblock_platform(Root(), what))
    assert site.register(broken).state == WORKER_ACTIVE
    assert cluster(site).workers[-1] == broken.worker


def test_a_broken_gatekeeper_says_nothing_more(site: Ground) -> None:
    worker = machine(site, 1)
    site.register(worker)
    what = blocked_of(site, worker, BLOCK_MACHINE)
    said = worker.say(GroupKeyAnnounced(1, GROUP_KEY))
    site.chain.validator().validate(said)

    site.govern(lambda world: world.registry.block_platform(Root(), what))

    with pytest.raises(InvalidTransaction) as refusal:
        site.chain.block(said)
    assert refusal.value.custom == 2  # UnknownWorker


def test_more_than_a_block_holds_are_swept_and_refused_meanwhile(
    site: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "AT_ONCE_MAX", 2)
    monkeypatch.setattr(life, "SWEPT_MAX", 3)
    workers = [machine(site, seed) for seed in range(1, 9)]
    site.chain.block(*(each.register(site.chain.header) for each in workers))
    what = blocked_of(site, workers[0], BLOCK_PRODUCT)

    def act(world: World) -> None:
        world.registry.block_platform(Root(), what)
        assert not any(world.registry.is_registered(each.worker) for each in workers)

    events = site.govern(act)
    blocks = [events, *(site.pass_time(0, blocks=1) for _ in range(4))]
    gone = [sum(isinstance(each, WorkerSuspended) for each in block) for block in blocks]
    assert gone == [2, 3, 3, 0, 0]


def test_a_machine_brings_no_flood_of_new_workers(
    site: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registering is free, and who is listed fills state for ever: the machine is the price."""
    monkeypatch.setattr("phala.pallets.registry.judging.ARRIVALS_MAX", 3)
    vendor = Hardware(site.vendors.machine(ppid=b"\x07" * 16))
    known = [site.worker(vendor, seed) for seed in (1, 2, 3)]
    for worker in known:
        site.register(worker)
    late = site.worker(vendor, 4)
    with pytest.raises(InvalidTransaction, match="many new workers"):
        site.register(late)

    known[0].epoch += 1
    assert site.register(known[0]).state == WORKER_ACTIVE, "who is known is refreshed as before"
    assert site.register(machine(site, 9)).state == WORKER_ACTIVE, "another machine is not held up"
    site.pass_time(0, blocks=REFRESH_BLOCKS)
    assert site.register(late).state == WORKER_ACTIVE


def test_groups_hold_exactly_the_workers_that_are_of_them(site: Ground) -> None:
    """Workers move between machines at random; the groups are those of a model."""
    chance = random.Random(5)
    workers = [machine(site, seed) for seed in range(1, 7)]
    machines = [Hardware(site.vendors.machine(ppid=bytes([n]) * 16)) for n in range(1, 4)]
    where: dict[bytes, int] = {}
    for _ in range(40):
        worker, number = chance.choice(workers), chance.randrange(3)
        worker.platform = machines[number]
        site.register(worker)
        site.pass_time(0, blocks=25)  # else it registers too often
        worker.epoch += 1
        where[worker.worker] = number
        found: dict[int, list[bytes]] = {}

        def act(world: World, found: dict[int, list[bytes]] = found) -> None:
            registry = world.registry
            for index in range(3):
                name = life.group(BLOCK_MACHINE, bytes([index + 1]) * 16)
                size = registry.group_sizes.get(name)
                members = [registry.group_members.get(name, each) for each in range(size)]
                found[index] = sorted(each for each in members if each is not None)
                assert len(found[index]) == size
                assert registry.group_members.get(name, size) is None

        site.govern(act)
        assert found == {
            index: sorted(each for each, at in where.items() if at == index) for index in range(3)
        }


# ---- clusters


def ready(site: Ground, worker: WorkerKeys, generation: int = 1) -> None:
    """Partials of a generation reach the cluster."""
    head = site.chain.header
    partial = PartialGiven(
        FIRST_CLUSTER, Generation(generation), 1, 1, worker.worker, head.number, head.hash(), b"s"
    )
    site.chain.block(worker.say(partial))
    assert cluster(site).ready == 1


def test_a_raised_generation_goes_on_with_commands_and_gets_new_keys() -> None:
    site = equipped(seats=2, k=1)
    keeper, broken = machine(site, 1), machine(site, 2)
    for each in (keeper, broken):
        site.register(each)
    site.chain.block(keeper.say(GroupKeyAnnounced(1, GROUP_KEY)))
    ready(site, keeper)
    contract = contract_id(ALICE, code_id(RUNTIME_ID, b"x"), FIRST_CLUSTER, bytes(32))

    def signed_deploy(world: World) -> None:
        world.contracts.deploy(
            Signed(ALICE), FIRST_CLUSTER, 0, b"x", bytes(32), b"{}", SealKey(b"r" * 32), 28
        )

    site.govern(signed_deploy)
    first = ContractKeyAnnounced(contract, Generation(1), SealKey(b"c" * 32), b"s" * 32)
    site.chain.block(keeper.say(first))
    what = blocked_of(site, broken, BLOCK_MACHINE)
    site.govern(lambda world: world.registry.block_platform(Root(), what))
    assert cluster(site).generation == 2

    def push(world: World, generation: int) -> None:
        command = CommandEnvelope(
            2, Generation(generation), None, BlockNumber(world.block.number + 9), 28, b"e" * 64
        )
        world.contracts.push_command(Signed(ALICE), contract, command)

    site.govern(lambda world: push(world, 1))  # clients still have the old keys
    ready(site, keeper, 2)
    second = ContractKeyAnnounced(contract, Generation(2), SealKey(b"d" * 32), b"t" * 32)
    site.chain.block(keeper.say(second))
    key = CONTRACT_KEY.decode(site.chain.pairs[contract_keys_key(contract)])
    assert (key.generation, key.command_key) == (2, b"d" * 32)
    site.govern(lambda world: push(world, 2))
    site.pass_time(0, blocks=50)
    with pytest.raises(GenerationPassed):
        site.govern(lambda world: push(world, 1))


def test_a_cluster_demands_a_tier_of_who_joins(site: Ground) -> None:
    def act(world: World) -> None:
        contracts, block = world.contracts, world.block
        with refused(NotOwner, block):
            contracts.set_tier(Signed(BOB), FIRST_CLUSTER, 1)
        for tier in (0, 6):
            with refused(TierUnknown, block):
                contracts.set_tier(Signed(ALICE), FIRST_CLUSTER, tier)
        contracts.set_tier(Signed(ALICE), FIRST_CLUSTER, 2)
        assert contracts.enlist(machine(site, 9).worker, 3) == ()

    site.govern(act)
    worker = machine(site, 1)
    assert site.register(worker).confidence == 1
    assert [each for each in site.said(TOPIC) if isinstance(each, WorkerAdded)] == [
        WorkerAdded(FIRST_CLUSTER, worker.worker, Generation(1))
    ]


def test_stale_and_suspended_are_told_apart_for_people(site: Ground) -> None:
    info = site.register(machine(site, 1))
    assert worker_state(info) == "active"
    stale = replace(info, state=WORKER_STALE, reason=REASON_POLICY)
    assert worker_state(stale).startswith("stale: the chain's policy")
