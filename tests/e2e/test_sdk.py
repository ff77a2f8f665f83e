"""The SDK on a whole network: what it finds out by itself, and whom it refuses to talk to."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.e2e.network import Network as Running
from tests.e2e.network import running

from phala.attest import AttestationError
from phala.errors import PhalaError, Refused
from phala.messages.calls import ERROR_FUEL, CommandEnvelope
from phala.messages.fuel import FUEL_DEFAULT, FUEL_MAX, FUEL_MIN, FUEL_REF_TIME
from phala.messages.types import ContractId
from phala.pallets.transaction_payment import weight_to_fee
from phala.primitives.types import Hash
from phala.sdk.calls import CallFailed, encode_arguments, seal_command
from phala.sdk.chain import Call
from phala.sdk.keyring import KeyType, dev_pair
from phala.sdk.light import load_light_start
from phala.sdk.network import COMMAND_BLOCKS, Network, Sent
from phala.sdk.sync import Phala
from phala.sdk.trust import Trust, chosen, load_trust
from phala.sdk.verify import verify_bundle
from phala.tee.simulated_key import create_simulated_key

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

SOURCE = """
from phala.phat import Contract, command, query


class Counter(Contract):
    total: int = 0

    @command
    def add(self, n: int) -> int:
        self.total += n
        return self.total

    @query
    def value(self) -> int:
        return self.total
"""
LOOP = """
from phala.phat import Contract, command


class Loop(Contract):
    def __init__(self, turns: int = 0):
        for _ in range(turns):
            pass

    @command
    def loop(self) -> None:
        while True:
            pass
"""
ALICE, BOB = dev_pair("Alice"), dev_pair("Bob")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("sdk")) as started:
        yield started


def trust_of(up: Running) -> Trust:
    return load_trust(up.folder / "trust.json")


@asynccontextmanager
async def connected(up: Running, trust: Trust | None = None) -> AsyncIterator[Network]:
    trust = trust or trust_of(up)
    began = load_light_start(up.folder / "light.json", trust.genesis)
    node, worker = up.ready["node"], up.ready["worker"]
    async with await Network.connect(node, worker, trust, began=began) as network:
        yield network


@pytest.fixture(scope="module")
def contract(up: Running) -> ContractId:
    async def deploy() -> ContractId:
        async with connected(up) as network:
            return (await network.deploy(SOURCE, signer=ALICE)).contract

    return asyncio.run(deploy())


async def value(network: Network, contract: ContractId) -> int:
    return int((await network.query(contract, "value")).value())


async def test_what_was_commanded_is_seen_by_the_next_query(
    up: Running, contract: ContractId
) -> None:
    async with connected(up) as network:
        before = await value(network, contract)
        answer = await network.command(contract, "add", {"n": 3}, signer=BOB)

        assert answer.value() == before + 3
        assert await value(network, contract) == before + 3


async def test_many_commands_take_effect_in_their_order(up: Running, contract: ContractId) -> None:
    async with connected(up) as network:
        before = await value(network, contract)
        calls = [("add", {"n": n}) for n in range(1, 11)]

        answers = await network.command_many(contract, calls, signer=ALICE)

        sums = [before + n * (n + 1) // 2 for n in range(1, 11)]
        assert [not isinstance(each, PhalaError) and each.value() for each in answers] == sums


async def test_a_call_burns_its_class_alone_and_its_sender_pays_for_that(up: Running) -> None:
    async with connected(up) as network:
        loop = (await network.deploy(LOOP, signer=ALICE, fuel=FUEL_MIN + 4)).contract
        fees = []
        for fuel in (FUEL_MIN, FUEL_DEFAULT):
            sent = await network.send_command(loop, "loop", signer=ALICE, fuel=fuel)
            answer = await network.outcome_of(sent)

            assert answer.outcome.error_kind == ERROR_FUEL
            assert answer.outcome.fuel_class == fuel
            with pytest.raises(CallFailed, match="--fuel"):
                answer.value()
            paid = sent.submitted.find("TransactionPayment", "TransactionFeePaid")
            fees.append(paid["actual_fee"])
        more = FUEL_REF_TIME * (2**FUEL_DEFAULT - 2**FUEL_MIN)
        assert abs(fees[1] - fees[0] - weight_to_fee(more)) <= 1

        with pytest.raises(CallFailed, match="--fuel"):
            await network.deploy(LOOP, {"turns": 10**6}, signer=ALICE, fuel=FUEL_MIN)
        with pytest.raises(PhalaError, match="no such class of fuel"):
            await network.send_command(loop, "loop", signer=ALICE, fuel=FUEL_MAX + 1)


async def test_an_ed25519_account_commands_too(up: Running, contract: ContractId) -> None:
    signer = dev_pair("Dave", KeyType.ED25519)
    async with connected(up) as network:
        money = {"dest": {"Id": signer.account}, "value": 10**12}
        await network.chain.submit(Call("Balances", "transfer_keep_alive", money), ALICE)

        answer = await network.command(contract, "add", {"n": 1}, signer=signer)

        assert answer.outcome.ok


async def test_an_answer_is_proven_offline_by_its_bundle(up: Running, contract: ContractId) -> None:
    async with connected(up) as network:
        query = await network.query(contract, "value", signer=ALICE)
        command = await network.command(contract, "add", {"n": 1}, signer=ALICE)
        for answer, kind in ((query, "query"), (command, "command")):
            report = verify_bundle(await network.collect_bundle(answer), trust_of(up))

            assert report.kind == kind
            assert report.outcome == answer.outcome


async def test_a_copy_of_a_command_by_another_account_does_nothing(
    up: Running, contract: ContractId
) -> None:
    async with connected(up) as network:
        before = await value(network, contract)
        place, info, key = await network.view.contract_with_key(contract)
        envelope, pending = seal_command(
            place,
            key,
            contract,
            "add",
            encode_arguments({"n": 1000}),
            sender=ALICE.account,
            cluster=info.cluster,
            expires=type(place.height)(place.height + COMMAND_BLOCKS),
        )
        submitted = await network.chain.submit(push(contract, envelope), BOB)
        assert submitted is not None
        copied = submitted.find("PhalaPhatContracts", "CommandQueued")["call"]
        sent = Sent(replace(pending, call=copied), submitted, info.cluster)
        with pytest.raises(PhalaError, match="does not open"):
            await network.outcome_of(sent)

        assert await value(network, contract) == before
        # The original is Alice's, and takes effect once however often it is sent.
        submitted = await network.chain.submit(push(contract, envelope), ALICE)
        assert submitted is not None
        await network.outcome_of(Sent(pending, submitted, info.cluster))
        await network.chain.submit(push(contract, envelope), ALICE)
        await network.command(contract, "add", {"n": 0}, signer=ALICE)
        assert await value(network, contract) == before + 1000


def push(contract: ContractId, envelope: CommandEnvelope) -> Call:
    command = {name: getattr(envelope, name) for name in CommandEnvelope.__slots__}
    arguments = {"contract": contract, "command": command}
    return Call("PhalaPhatContracts", "push_command", arguments)


async def test_a_worker_that_another_policy_refuses_gets_no_query(
    up: Running, contract: ContractId, tmp_path: Path
) -> None:
    genesis = trust_of(up).genesis
    other = create_simulated_key(tmp_path / "other.key").public_root
    async with connected(up, chosen(genesis, simulated_root=other)) as network:
        with pytest.raises(AttestationError):
            await network.query(contract, "value")
        with pytest.raises(AttestationError):
            await network.command(contract, "add", {"n": 1}, signer=ALICE)


async def test_one_source_is_not_enough_for_another_policy_than_dev(up: Running) -> None:
    with pytest.raises(Refused, match="one source"):
        async with connected(up, chosen(trust_of(up).genesis)):
            pass


async def test_another_chain_than_the_pinned_one_is_refused(up: Running) -> None:
    with pytest.raises(PhalaError, match="genesis"):
        async with connected(up, replace(trust_of(up), genesis=Hash(bytes(32)))):
            pass


async def test_what_the_chain_does_not_have_is_refused(up: Running) -> None:
    nothing = ContractId(bytes(32))
    async with connected(up) as network:
        with pytest.raises(Refused, match="the chain has no contract"):
            await network.command(nothing, "add", signer=ALICE)
        with pytest.raises(CallFailed, match="the enclave refused"):
            (await network.query(nothing, "value")).value()


def test_a_program_without_asyncio_does_the_same(up: Running, contract: ContractId) -> None:
    trust = trust_of(up)
    began = load_light_start(up.folder / "light.json", trust.genesis)
    with Phala.connect(up.ready["node"], up.ready["worker"], trust, began=began) as phala:
        before = phala.query(contract, "value", signer=ALICE).value()
        sent = phala.send_command(contract, "add", {"n": 2}, signer=ALICE)

        assert phala.outcome_of(sent).value() == before + 2
        assert phala.verify_worker().verdict.hardware is False
