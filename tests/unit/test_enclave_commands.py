"""Each check of a command and of a deployment, and what a refused one leaves behind."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import phala.phat
from phala.crypto import hpke, kdf
from phala.crypto.secret import Secret
from phala.enclave.clusters import keys, settle
from phala.enclave.clusters.commands import CommandRefused
from phala.enclave.ports import EngineCall, EngineResult
from phala.enclave.records import CLUSTER_KEYS, SEEN
from phala.messages.bus import cluster_topic
from phala.messages.calls import (
    COMMAND_BLOCKS_MAX,
    ERROR_ARGUMENTS,
    ERROR_CODE,
    ERROR_CONTRACT,
    ERROR_FUEL,
    ERROR_OUTPUT,
    ERROR_STATE,
    OUTCOME,
)
from phala.messages.fuel import FUEL_MAX, FUEL_MIN
from phala.messages.payloads.cluster import CLUSTER_PAYLOAD, CommandQueued, GenerationRaised
from phala.messages.payloads.system import KeyDue
from phala.messages.receipts import KIND_COMMAND, blinded
from phala.messages.types import CallId, CodeId, ContractId, Generation, SealKey
from phala.primitives.types import BlockNumber, Hash
from phala.testing.caller import Caller, Sent
from phala.testing.enclave import SimWorker
from phala.testing.sim_chain import SimChain

COUNTER = (Path(phala.phat.__file__).parent / "templates" / "counter.py").read_bytes()
NOISY = b"""
from phat import Contract, command, emit, query

class Noisy(Contract):
    total: int = 0

    @command
    def shout(self, size: int) -> str:
        self.total += 1
        return "x" * size

    @command
    def ring(self, times: int) -> int:
        self.total += 1
        for n in range(times):
            emit("Rang", n=n)
        return times

    @query
    def value(self) -> int:
        return self.total
"""


HOARD = b"""
from phat import Contract, Map, command

class Hoard(Contract):
    kept: Map[str, str]

    @command
    def put(self, key: str, size: int) -> None:
        self.kept[key] = "x" * size
"""


class World:
    def __init__(self, source: bytes = COUNTER) -> None:
        self.chain = SimChain()
        self.worker = SimWorker(self.chain)
        self.worker.register()
        self.alice, self.bob = Caller(self.chain, b"alice"), Caller(self.chain, b"bob")
        self.contract = self.alice.deploy(source)
        self.turn()

    def turn(self) -> None:
        self.chain.seal()
        self.worker.settle()

    def refusal(self, sent: Sent) -> str:
        with pytest.raises(CommandRefused) as caught:
            self.worker.enclave.outcome(sent.call)
        return str(caught.value)

    def value(self) -> int:
        found: int = json.loads(self.alice.ask(self.worker, self.contract, "value").result)
        return found


@pytest.fixture
def world() -> World:
    return World()


def test_a_copy_by_another_sender_is_refused_and_its_sender_is_told(world: World) -> None:
    sent = world.alice.send(world.contract, "add", n=2)
    copied = world.bob.submit(world.contract, sent)
    world.turn()

    assert copied.call != sent.call
    assert "copy of another account's command" in world.refusal(copied)
    assert world.alice.outcome(world.worker.enclave, sent).result == b"2"
    assert world.value() == 2


def test_the_same_command_again_is_passed_over_and_its_outcome_stays(world: World) -> None:
    sent = world.alice.send(world.contract, "add", n=2)
    world.turn()
    first = world.worker.enclave.outcome(sent.call)
    world.alice.submit(world.contract, sent)
    world.turn()
    world.alice.submit(world.contract, sent)
    world.alice.submit(world.contract, sent)
    world.turn()

    assert world.worker.enclave.outcome(sent.call) == first
    assert world.value() == 2
    assert len(world.worker.notes) == 3


def test_an_expired_command_is_refused(world: World) -> None:
    now = world.chain.number
    late = world.alice.command(world.contract, "add", b'{"n":1}', expires=now)
    good = world.alice.command(world.contract, "add", b'{"n":1}', expires=now + 1)
    late, good = (world.alice.submit(world.contract, each) for each in (late, good))
    world.turn()

    assert "expires" in world.refusal(late)
    assert world.alice.outcome(world.worker.enclave, good).ok


def test_a_command_that_lives_too_long_is_refused(world: World) -> None:
    last = world.chain.number + 1 + COMMAND_BLOCKS_MAX
    good = world.alice.command(world.contract, "add", b'{"n":1}', expires=last)
    long = world.alice.command(world.contract, "add", b'{"n":1}', expires=last + 1)
    long, good = (world.alice.submit(world.contract, each) for each in (long, good))
    world.turn()

    assert "expires" in world.refusal(long)
    assert world.alice.outcome(world.worker.enclave, good).ok


def test_other_code_other_version_other_generation_are_refused(world: World) -> None:
    make, contract = world.alice.command, world.contract
    code = make(contract, "add", b'{"n":1}', code_id=CodeId(bytes(32)))
    version = make(contract, "add", b'{"n":1}', version=1)
    generation = make(contract, "add", b'{"n":1}', generation=2)
    code, version, generation = (
        world.alice.submit(contract, each) for each in (code, version, generation)
    )
    world.turn()

    assert "other code" in world.refusal(code)
    assert "version 1" in world.refusal(version)
    assert "generation 2" in world.refusal(generation)
    assert world.value() == 0


def test_altered_public_parts_do_not_open(world: World) -> None:
    sent = world.alice.command(world.contract, "add", b'{"n":1}')
    envelope = replace(sent.envelope, expires=BlockNumber(sent.envelope.expires + 1))
    altered = world.alice.submit(world.contract, replace(sent, envelope=envelope))
    flipped = bytearray(sent.envelope.sealed)
    flipped[40] ^= 1
    broken = world.alice.submit(
        world.contract, replace(sent, envelope=replace(sent.envelope, sealed=bytes(flipped)))
    )
    world.turn()

    assert "does not open" in world.refusal(altered)
    assert "does not open" in world.refusal(broken)


def test_a_contract_that_is_not_there_refuses(world: World) -> None:
    world.chain.keys[ContractId(bytes(32))] = world.chain.keys[world.contract]
    sent = world.alice.send(ContractId(bytes(32)), "add", n=1)
    world.turn()

    assert "no live contract" in world.refusal(sent)


def test_a_command_for_one_contract_is_refused_by_another(world: World) -> None:
    other = world.alice.deploy(COUNTER, salt=b"other")
    world.turn()
    sent = world.alice.command(world.contract, "add", b'{"n":1}')
    moved = world.alice.submit(other, sent)
    world.turn()

    assert "does not open" in world.refusal(moved)


def test_garbage_in_an_envelope_is_refused_by_its_id(world: World) -> None:
    call = CallId(bytes(32))
    topic = cluster_topic(world.chain.cluster)
    for envelope in (b"", b"\xff" * 100):
        payload = CommandQueued(world.contract, call, world.alice.account, envelope)
        world.chain.queue(topic, CLUSTER_PAYLOAD.encode(payload))
    world.turn()

    with pytest.raises(CommandRefused):
        world.worker.enclave.outcome(call)
    assert world.value() == 0


def test_a_command_is_given_the_fuel_that_it_was_sealed_for(world: World) -> None:
    given: list[int | None] = []
    run = world.worker.engine.run

    def seen(job: EngineCall) -> EngineResult:
        given.append(job.fuel)
        return run(job)

    world.worker.engine.run = seen  # type: ignore[method-assign]
    for fuel in (FUEL_MIN, FUEL_MAX):
        sent = world.alice.command(world.contract, "add", b'{"n":1}', fuel=fuel)
        world.alice.submit(world.contract, sent)
    world.turn()
    assert given == [2**FUEL_MIN, 2**FUEL_MAX]

    sent = world.alice.command(world.contract, "add", b'{"n":1}', fuel=FUEL_MIN)
    more = replace(sent, envelope=replace(sent.envelope, fuel=FUEL_MAX))
    more = world.alice.submit(world.contract, more)
    none = world.alice.command(world.contract, "add", b'{"n":1}', fuel=FUEL_MAX + 1)
    none = world.alice.submit(world.contract, none)
    world.turn()
    assert "does not open" in world.refusal(more)
    assert "no class 37 of fuel" in world.refusal(none)
    assert len(given) == 2


def test_a_deployment_is_given_the_fuel_that_it_names(world: World) -> None:
    given: list[int | None] = []
    run = world.worker.engine.run

    def seen(job: EngineCall) -> EngineResult:
        given.append(job.fuel)
        return run(job)

    world.worker.engine.run = seen  # type: ignore[method-assign]
    made = [
        world.chain.deploy(
            world.alice.account,
            COUNTER,
            reply_to=SealKey(hpke.public_of(world.alice.private)),
            salt=bytes([fuel]),
            fuel=fuel,
        )[0]
        for fuel in (FUEL_MIN, FUEL_MAX, FUEL_MAX + 1)
    ]
    world.turn()

    assert given == [2**FUEL_MIN, 2**FUEL_MAX]
    assert world.chain.failed == made[2:]
    assert world.alice.deployed(world.worker.enclave, made[2]).error_kind == ERROR_FUEL


def test_a_contracts_refusal_is_told_and_changes_nothing(world: World) -> None:
    sent = world.alice.send(world.contract, "add", n=0)
    wrong = world.alice.send(world.contract, "add", m=1)
    nothing = world.alice.send(world.contract, "multiply", n=1)
    listed = world.alice.submit(
        world.contract, world.alice.command(world.contract, "add", b"not json")
    )
    world.turn()

    outcome = world.alice.outcome(world.worker.enclave, sent)
    assert (outcome.ok, outcome.error_kind) == (False, ERROR_CONTRACT)
    assert "n must be at least 1" in outcome.error
    for each in (wrong, nothing, listed):
        assert world.alice.outcome(world.worker.enclave, each).error_kind == ERROR_ARGUMENTS
    assert world.value() == 0


def test_a_receipt_says_what_was_done(world: World) -> None:
    sent = world.alice.send(world.contract, "add", n=7)
    world.turn()
    reply = world.alice.reply(world.worker.enclave, sent)
    body = reply.receipt.body
    topic = world.worker.enclave.view.topic_of(world.chain.cluster)

    assert (body.kind, body.contract, body.call) == (KIND_COMMAND, world.contract, sent.call)
    assert body.response == blinded(reply.blinder, OUTCOME.encode(reply.outcome))
    assert (body.count, body.head) == (topic.count, topic.head)
    assert body.worker == world.worker.identity.worker
    secret = CLUSTER_KEYS.get(
        world.worker.enclave.store.data, world.chain.cluster + (1).to_bytes(4, "big")
    )
    assert secret is not None
    root = world.worker.enclave.view.contracts[world.contract].root
    root_key = keys.root_key(secret)
    assert body.root_mac == kdf.mac(root_key, body.count.to_bytes(8, "little") + root)


def test_what_does_not_fit_a_reply_is_an_error_without_effect() -> None:
    world = World(NOISY)
    big = world.alice.send(world.contract, "shout", size=50_000)
    many = world.alice.send(world.contract, "ring", times=65)
    good = world.alice.send(world.contract, "shout", size=40_000)
    world.turn()

    for each in (big, many):
        assert world.alice.outcome(world.worker.enclave, each).error_kind == ERROR_OUTPUT
    assert world.alice.outcome(world.worker.enclave, good).ok
    assert world.value() == 1


@pytest.mark.parametrize("limit", ["STATE_BYTES_MAX", "STATES_BYTES_MAX"])
def test_a_write_that_finds_no_room_is_an_error_without_effect(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(HOARD)
    for sent in (
        world.alice.send(world.contract, "put", key="a", size=3_000),
        world.alice.send(world.contract, "put", key="b", size=3_000),
    ):
        world.turn()
        assert world.alice.outcome(world.worker.enclave, sent).ok
    held = world.worker.enclave.store.state_of(world.contract).size_bytes
    monkeypatch.setattr(settle, limit, held)

    more = world.alice.send(world.contract, "put", key="c", size=1)
    less = world.alice.send(world.contract, "put", key="b", size=10)
    again = world.alice.send(world.contract, "put", key="c", size=1)
    world.turn()

    refused = world.alice.outcome(world.worker.enclave, more)
    assert (refused.ok, refused.error_kind) == (False, ERROR_STATE)
    assert f"at most {held}" in refused.error
    assert world.alice.outcome(world.worker.enclave, less).ok
    assert world.alice.outcome(world.worker.enclave, again).ok


def test_a_deployment_that_fails_is_told_to_deployer_and_chain(world: World) -> None:
    broken = world.alice.deploy(b"this is no python")
    picky = world.alice.deploy(COUNTER, arguments=b'{"what": 1}', salt=b"picky")
    world.turn()

    assert world.alice.deployed(world.worker.enclave, broken).error_kind == ERROR_CODE
    assert world.alice.deployed(world.worker.enclave, picky).error_kind == ERROR_ARGUMENTS
    assert world.chain.failed == [broken, picky]
    assert broken not in world.chain.keys


def test_other_runtimes_and_kinds_fail_without_their_code(world: World) -> None:
    reply_to = SealKey(hpke.public_of(world.alice.private))
    deploy = world.chain.deploy
    other, _ = deploy(
        world.alice.account, b"x = 1", reply_to=reply_to, runtime_id=Hash(bytes([9] * 32))
    )
    wasm, _ = deploy(world.alice.account, b"x = 2", reply_to=reply_to, kind=2)
    world.turn()

    assert world.chain.failed == [other, wasm]
    assert world.alice.deployed(world.worker.enclave, other).error_kind == ERROR_CODE


def test_an_answer_to_no_key_is_refused_not_lost(world: World) -> None:
    contract, call = world.chain.deploy(
        world.alice.account, COUNTER, reply_to=SealKey(bytes(32)), salt=b"no key"
    )
    world.turn()

    assert contract in world.chain.keys
    with pytest.raises(CommandRefused):
        world.worker.enclave.outcome(call)


def test_ids_are_forgotten_when_the_command_could_not_run_anyway(world: World) -> None:
    sent = world.alice.command(world.contract, "add", b'{"n":1}', expires=world.chain.number + 1)
    first = world.alice.submit(world.contract, sent)
    world.turn()
    assert SEEN.get(world.worker.enclave.store.data, first.call) is not None
    world.chain.seal_many(2)
    world.alice.send(world.contract, "add", n=1)
    world.turn()

    assert SEEN.get(world.worker.enclave.store.data, first.call) is None
    world.alice.submit(world.contract, sent)
    world.turn()
    assert world.value() == 2


# ---- generations


def test_an_old_generation_serves_within_its_grace_and_its_key_is_erased(world: World) -> None:
    chain, worker = world.chain, world.worker
    old = [world.alice.command(world.contract, "add", b'{"n":1}') for _ in range(3)]
    key = worker.enclave.view.epochs.current
    assert key is not None
    chain.tell(GenerationRaised(chain.cluster, Generation(2), 4))
    chain.say(KeyDue(chain.cluster, Generation(2), worker.identity.worker, key.public, key.epoch))
    raised_at = chain.number + 1
    chain.seal()
    worker.settle()
    assert chain.keys[world.contract].generation == 2
    in_grace = world.alice.submit(world.contract, old[0])
    new = world.alice.submit(
        world.contract, world.alice.command(world.contract, "add", b'{"n":10}', generation=2)
    )
    world.turn()
    assert world.alice.outcome(worker.enclave, in_grace).ok
    assert world.alice.outcome(worker.enclave, new).ok

    while chain.number < raised_at + 4:
        chain.seal()
    too_late = world.alice.submit(world.contract, old[1])
    world.turn()

    assert "generation 1" in world.refusal(too_late)
    assert world.value() == 11
    place = chain.cluster + (1).to_bytes(4, "big")
    assert CLUSTER_KEYS.get(worker.enclave.store.data, place) is None


def test_keys_of_two_generations_have_nothing_in_common(world: World) -> None:
    secret = Secret(bytes(32))
    one = keys.cluster_key(secret, world.chain.genesis, world.chain.cluster, Generation(1))
    two = keys.cluster_key(secret, world.chain.genesis, world.chain.cluster, Generation(2))

    assert one != two
    assert keys.command_public(one, world.contract) != keys.command_public(two, world.contract)
    assert keys.root_key(one) != keys.root_key(two)
