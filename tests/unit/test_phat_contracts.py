"""Clusters of several workers: seats, keys by enough gatekeepers, contracts by enough replicas."""

from dataclasses import dataclass

import pytest

from phala.frame import BadOrigin, Block, Root, Signed, Unsigned
from phala.messages.bus import GatekeeperSender, PalletSender, Sender, cluster_topic
from phala.messages.calls import CommandEnvelope, code_id, contract_id
from phala.messages.payloads.cluster import CLUSTER_PAYLOAD, PartialGiven, WorkerAdded
from phala.messages.payloads.enclave import ContractFailed as FailureAnnounced
from phala.messages.payloads.enclave import ContractKeyAnnounced
from phala.messages.types import ClusterId, ContractId, Count, Generation, SealKey, WorkerId
from phala.pallets.phat_contracts import (
    ContractFailed,
    ContractLive,
    PhalaPhatContracts,
)
from phala.pallets.phat_contracts.errors import (
    AlreadySettled,
    ClusterNotFound,
    ClusterNotReady,
    ContractExists,
    ContractNotFound,
    ContractNotLive,
    GenerationPassed,
    KeyMalformed,
    KindUnknown,
    NotGatekeeper,
    NotOfCluster,
    SourceEmpty,
)
from phala.primitives.types import AccountId, BlockNumber, Hash, Moment
from phala.testing.pallets import refused

CLUSTER, OTHER = ClusterId(b"1" * 32), ClusterId(b"2" * 32)
ALICE = AccountId(b"a" * 32)
RUNTIME_ID = Hash(b"r" * 32)
FIRST, SECOND, THIRD, STRANGER = (WorkerId(letter * 32) for letter in (b"x", b"y", b"z", b"s"))
ONE = Generation(1)


@dataclass(frozen=True)
class Seat:
    period: int
    index: int


class Around:
    """What contracts need of others: two gatekeepers, both of whom make a key."""

    def __init__(self) -> None:
        self.said: list[tuple[bytes, Sender, object]] = []
        self.seats = {FIRST: Seat(1, 1), SECOND: Seat(1, 2)}
        self.shown: dict[ContractId, bytes] = {}
        self.now = Moment(1_000)

    def time(self) -> Moment:
        return self.now

    def genesis_hash(self) -> Hash:
        return Hash(b"g" * 32)

    def push(self, topic: bytes, sender: Sender, payload: bytes) -> Count:
        self.said.append((topic, sender, CLUSTER_PAYLOAD.decode(payload)))
        return Count(len(self.said) - 1)

    def seat_of(self, worker: WorkerId) -> Seat | None:
        return self.seats.get(worker)

    def key_threshold(self) -> int:
        return 2

    def runtime_id(self) -> Hash:
        return RUNTIME_ID

    def is_registered(self, worker: WorkerId) -> bool:
        return worker != STRANGER

    def show_contract_key(self, contract: ContractId, signing_key: bytes) -> None:
        self.shown[contract] = signing_key


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(5))


@pytest.fixture
def around() -> Around:
    return Around()


@pytest.fixture
def contracts(block: Block, around: Around) -> PhalaPhatContracts:
    made = PhalaPhatContracts(block, chain=around, clock=around, bus=around, workers=around)
    made.found(CLUSTER, ALICE, k=2, seats=2)
    return made


def partial(index: int, *, worker: WorkerId = FIRST, generation: int = 1) -> PartialGiven:
    return PartialGiven(
        CLUSTER,
        Generation(generation),
        1,
        index,
        worker,
        BlockNumber(4),
        Hash(b"h" * 32),
        b"sealed",
    )


def ready(contracts: PhalaPhatContracts) -> None:
    for worker in (FIRST, SECOND):
        contracts.enlist(worker, 1)
    contracts.give_partial(FIRST, partial(1))
    contracts.give_partial(SECOND, partial(2))


def deployed(contracts: PhalaPhatContracts, salt: bytes = bytes(32)) -> ContractId:
    contracts.deploy(Signed(ALICE), CLUSTER, 0, b"source", salt, b"{}", SealKey(b"r" * 32), 28)
    return contract_id(ALICE, code_id(RUNTIME_ID, b"source"), CLUSTER, salt)


def keys(contract: ContractId, key: bytes = b"k" * 32) -> ContractKeyAnnounced:
    return ContractKeyAnnounced(contract, ONE, SealKey(b"c" * 32), key)


def test_workers_take_seats_until_there_are_none(
    contracts: PhalaPhatContracts, around: Around
) -> None:
    assert [contracts.enlist(worker, 1) for worker in (FIRST, SECOND, THIRD)] == [
        ((CLUSTER, ONE),),
        ((CLUSTER, ONE),),
        (),
    ]
    assert contracts.enlist(FIRST, 1) == ((CLUSTER, ONE),)
    state = contracts.cluster_states.get(CLUSTER)
    assert state is not None
    assert state.workers == (FIRST, SECOND)
    assert around.said == [
        (
            cluster_topic(CLUSTER),
            PalletSender(b"PhalaPhatContracts"),
            WorkerAdded(CLUSTER, worker, ONE),
        )
        for worker in (FIRST, SECOND)
    ]


def test_keys_are_ready_when_enough_gatekeepers_gave_a_partial(
    contracts: PhalaPhatContracts, around: Around, block: Block
) -> None:
    contracts.enlist(FIRST, 1)
    contracts.give_partial(FIRST, partial(1))
    contracts.give_partial(FIRST, partial(1))  # the same share again
    with refused(ClusterNotReady, block):
        deployed(contracts)

    contracts.give_partial(SECOND, partial(2))

    deployed(contracts)
    assert around.said[1] == (cluster_topic(CLUSTER), GatekeeperSender(FIRST), partial(1))


def test_a_partial_is_its_holders_alone(contracts: PhalaPhatContracts) -> None:
    contracts.enlist(FIRST, 1)
    for sender, said, error in (
        (STRANGER, partial(1), NotGatekeeper),
        (FIRST, partial(2), NotGatekeeper),
        (FIRST, partial(1, worker=STRANGER), NotOfCluster),
        (FIRST, partial(1, generation=2), GenerationPassed),
    ):
        with pytest.raises(error):
            contracts.give_partial(sender, said)


def test_a_contract_is_live_when_enough_replicas_announce_the_same(
    contracts: PhalaPhatContracts, around: Around, block: Block
) -> None:
    ready(contracts)
    contract = deployed(contracts)
    contracts.announce_key(FIRST, keys(contract))
    contracts.announce_key(FIRST, keys(contract))  # its word counts once
    contracts.announce_key(SECOND, keys(contract, b"o" * 32))
    assert contracts.contract_keys.get(contract) is None

    contracts.announce_key(SECOND, keys(contract))  # it may think again

    found = contracts.contract_keys.get(contract)
    assert found is not None
    assert (found.signing_key, found.signers) == (b"k" * 32, 2)
    assert around.shown == {contract: b"k" * 32}
    assert block.events[-1] == ContractLive(contract)
    assert contracts.votes.get(contract) == ()
    with pytest.raises(AlreadySettled):
        contracts.announce_failure(FIRST, FailureAnnounced(contract))


def test_a_contract_fails_when_enough_replicas_say_so(
    contracts: PhalaPhatContracts, block: Block
) -> None:
    ready(contracts)
    contract = deployed(contracts)
    contracts.announce_failure(FIRST, FailureAnnounced(contract))
    contracts.announce_failure(SECOND, FailureAnnounced(contract))

    assert block.events[-1] == ContractFailed(contract)
    envelope = CommandEnvelope(2, ONE, None, BlockNumber(9), 28, b"")
    with refused(ContractNotLive, block):
        contracts.push_command(Signed(ALICE), contract, envelope)


def test_who_does_not_serve_the_cluster_has_no_word(contracts: PhalaPhatContracts) -> None:
    ready(contracts)
    contract = deployed(contracts)
    for said, error in (
        (keys(contract), NotOfCluster),
        (keys(contract, b"short"), KeyMalformed),
        (keys(ContractId(bytes(32))), ContractNotFound),
        (
            ContractKeyAnnounced(contract, Generation(2), SealKey(bytes(32)), bytes(32)),
            GenerationPassed,
        ),
    ):
        with pytest.raises(error):
            contracts.announce_key(STRANGER, said)


def test_what_cannot_be_deployed_is_refused(contracts: PhalaPhatContracts, block: Block) -> None:
    ready(contracts)
    deployed(contracts)
    deployed(contracts, b"other salt".ljust(32))
    with refused(ContractExists, block):
        deployed(contracts)
    reply_to = SealKey(b"r" * 32)
    for cluster, kind, source, error in (
        (OTHER, 0, b"source", ClusterNotFound),
        (CLUSTER, 1, b"source", KindUnknown),
        (CLUSTER, 0, b"", SourceEmpty),
    ):
        with refused(error, block):
            contracts.deploy(Signed(ALICE), cluster, kind, source, bytes(32), b"{}", reply_to, 28)


def test_only_accounts_deploy_and_command(contracts: PhalaPhatContracts) -> None:
    envelope = CommandEnvelope(2, ONE, None, BlockNumber(9), 28, b"")
    for origin in (Root(), Unsigned()):
        with pytest.raises(BadOrigin):
            contracts.push_command(origin, ContractId(bytes(32)), envelope)
        with pytest.raises(BadOrigin):
            contracts.deploy(origin, CLUSTER, 0, b"s", bytes(32), b"{}", SealKey(bytes(32)), 28)


def test_a_command_for_no_contract_is_refused(contracts: PhalaPhatContracts, block: Block) -> None:
    envelope = CommandEnvelope(2, ONE, None, BlockNumber(9), 28, b"")

    with refused(ContractNotFound, block):
        contracts.push_command(Signed(ALICE), ContractId(bytes(32)), envelope)
