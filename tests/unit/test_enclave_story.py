"""The whole way in one process: register, group key, partial, deploy, command, query."""

import json
from pathlib import Path

import pytest

import phala.phat
from phala.messages.payloads.cluster import PartialGiven
from phala.messages.payloads.enclave import ContractKeyAnnounced, GroupKeyAnnounced
from phala.testing.caller import Caller
from phala.testing.enclave import SimWorker
from phala.testing.sim_chain import SimChain

COUNTER = (Path(phala.phat.__file__).parent / "templates" / "counter.py").read_bytes()


@pytest.fixture
def worker() -> SimWorker:
    worker = SimWorker(SimChain())
    worker.register()
    return worker


def test_a_worker_registers_and_gets_its_clusters_key(worker: SimWorker) -> None:
    kinds = [type(message) for message in worker.chain.taken]

    assert kinds == [GroupKeyAnnounced, PartialGiven]
    assert worker.enclave.status().ready
    assert not worker.notes


def test_commands_change_the_state_that_queries_read(worker: SimWorker) -> None:
    alice, bob = Caller(worker.chain, b"alice"), Caller(worker.chain, b"bob")
    contract = alice.deploy(COUNTER)
    worker.chain.seal()
    worker.settle()
    assert alice.deployed(worker.enclave, contract).ok

    first = alice.send(contract, "add", n=2)
    second = bob.send(contract, "add", n=40)
    worker.chain.seal()
    worker.settle()

    assert json.loads(alice.outcome(worker.enclave, first).result) == 2
    assert json.loads(bob.outcome(worker.enclave, second).result) == 42
    assert json.loads(alice.ask(worker, contract, "value").result) == 42
    assert [type(each) for each in worker.chain.taken][2:] == [ContractKeyAnnounced]
