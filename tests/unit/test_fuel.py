"""A call's fuel: its sender names a class, pays for it, and the cluster has room for it."""

from dataclasses import replace

import pytest
from tests.unit.test_phat_contracts import (
    ALICE,
    CLUSTER,
    FIRST,
    RUNTIME_ID,
    SECOND,
    Around,
    deployed,
    keys,
    ready,
)

from phala.frame import Block, DispatchInfo, Signed
from phala.messages.calls import COMMAND_ENVELOPE, CommandEnvelope, code_id, contract_id
from phala.messages.fuel import (
    FUEL_DEFAULT,
    FUEL_MAX,
    FUEL_MIN,
    FUEL_OWED_MAX,
    FUEL_PER_MS,
    FUEL_REF_TIME,
)
from phala.messages.payloads.cluster import ContractDeployed
from phala.messages.types import ContractId, Generation, SealKey
from phala.pallets.phat_contracts import PhalaPhatContracts
from phala.pallets.phat_contracts.errors import ClusterBusy, FuelUnknown
from phala.primitives.types import BlockNumber, Moment
from phala.runtime.version import NORMAL_REF_TIME_MAX
from phala.runtime.weights import BASE_REF_TIME
from phala.runtime.world import CALLS
from phala.testing.pallets import refused
from phala.wasm.job import COMMAND_LIMITS

ENVELOPE = CommandEnvelope(2, Generation(1), None, BlockNumber(9), FUEL_DEFAULT, b"sealed")
FULL = FUEL_OWED_MAX >> FUEL_MAX  # commands of the largest class that a cluster takes at once


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
    ready(made)
    return made


@pytest.fixture
def contract(contracts: PhalaPhatContracts, around: Around) -> ContractId:
    """Live, in a cluster that owes nothing any more."""
    made = deployed(contracts)
    for worker in (FIRST, SECOND):
        contracts.announce_key(worker, keys(made))
    around.now = Moment(1_000_000)
    return made


def push(contracts: PhalaPhatContracts, contract: ContractId, fuel: int) -> None:
    contracts.push_command(Signed(ALICE), contract, replace(ENVELOPE, fuel=fuel))


def info_of(fuel: int) -> DispatchInfo:
    envelope = COMMAND_ENVELOPE.encode(replace(ENVELOPE, fuel=fuel))
    return CALLS.decode(bytes([86, 21]) + bytes(32) + envelope).info


def deploy_info(fuel: int) -> DispatchInfo:
    lists = b"\4x" + bytes(32) + b"\x08{}"
    call = bytes([86, 20]) + CLUSTER + b"\0" + lists + bytes(32) + bytes([fuel])
    return CALLS.decode(call).info


@pytest.mark.parametrize("info", [info_of, deploy_info])
def test_a_call_weighs_and_so_pays_what_it_may_burn(info: object) -> None:
    assert callable(info)
    least = info(FUEL_MIN).weight.ref_time
    for fuel in range(FUEL_MIN, FUEL_MAX + 1):
        more = info(fuel).weight.ref_time - least
        assert more == FUEL_REF_TIME * (2**fuel - 2**FUEL_MIN)


@pytest.mark.parametrize("info", [info_of, deploy_info])
def test_the_largest_class_fits_a_block(info: object) -> None:
    assert callable(info)
    assert info(FUEL_MAX).weight.ref_time + BASE_REF_TIME <= NORMAL_REF_TIME_MAX
    assert COMMAND_LIMITS.fuel == 2**FUEL_MAX


def test_a_class_that_there_is_not_is_refused(
    contracts: PhalaPhatContracts, contract: ContractId, block: Block
) -> None:
    for fuel in (0, FUEL_MIN - 1, FUEL_MAX + 1, 255):
        with refused(FuelUnknown, block):
            push(contracts, contract, fuel)
        with refused(FuelUnknown, block):
            contracts.deploy(
                Signed(ALICE), CLUSTER, 0, b"s", bytes(32), b"{}", SealKey(bytes(32)), fuel
            )


def test_a_cluster_takes_no_more_than_it_can_burn_in_a_minute(
    contracts: PhalaPhatContracts, contract: ContractId, around: Around, block: Block
) -> None:
    for _ in range(FULL):
        push(contracts, contract, FUEL_MAX)
    for fuel in (FUEL_MIN, FUEL_MAX):
        with refused(ClusterBusy, block):
            push(contracts, contract, fuel)
    with refused(ClusterBusy, block):
        deployed(contracts, b"another".ljust(32))

    around.now = Moment(around.now + 2**FUEL_MIN // FUEL_PER_MS + 1)
    push(contracts, contract, FUEL_MIN)
    with refused(ClusterBusy, block):
        push(contracts, contract, FUEL_MIN + 4)
    around.now = Moment(around.now + 60_000)
    push(contracts, contract, FUEL_MAX)


def test_what_was_not_burnt_while_idle_is_not_saved(
    contracts: PhalaPhatContracts, contract: ContractId, around: Around, block: Block
) -> None:
    around.now = Moment(around.now + 86_400_000)
    for _ in range(FULL):
        push(contracts, contract, FUEL_MAX)
    with refused(ClusterBusy, block):
        push(contracts, contract, FUEL_MIN)


def test_a_refused_command_takes_nothing(
    contracts: PhalaPhatContracts, contract: ContractId, block: Block
) -> None:
    before = contracts.fuel_owed.get(CLUSTER)
    with pytest.raises(FuelUnknown):
        push(contracts, contract, FUEL_MAX + 1)
    for _ in range(FULL):
        push(contracts, contract, FUEL_MAX)
    full = contracts.fuel_owed.get(CLUSTER)
    with refused(ClusterBusy, block):
        push(contracts, contract, FUEL_MAX)

    assert contracts.fuel_owed.get(CLUSTER) == full != before


def test_what_instantiate_may_burn_is_said_in_the_topic(
    contracts: PhalaPhatContracts, around: Around
) -> None:
    contracts.deploy(
        Signed(ALICE), CLUSTER, 0, b"source", bytes(32), b"{}", SealKey(bytes(32)), FUEL_MIN
    )

    said = around.said[-1][2]
    assert isinstance(said, ContractDeployed)
    assert said.contract == contract_id(ALICE, code_id(RUNTIME_ID, b"source"), CLUSTER, bytes(32))
    assert said.fuel == FUEL_MIN


def test_a_call_in_a_batch_weighs_no_less() -> None:
    pushed = bytes([86, 21]) + bytes(32) + COMMAND_ENVELOPE.encode(replace(ENVELOPE, fuel=30))
    for index in (0, 2, 4):  # of Utility's
        batch = CALLS.decode(bytes([8, index]) + b"\x08" + pushed + pushed)
        assert batch.info.weight.ref_time > 2 * info_of(30).weight.ref_time
    as_other = CALLS.decode(bytes([8, 1]) + bytes(2) + pushed)
    assert as_other.info.weight.ref_time > info_of(30).weight.ref_time
