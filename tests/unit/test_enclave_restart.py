"""A kill at any instant: the enclave resumes at a whole step, and ends where it would have."""

import json
from pathlib import Path

import pytest

import phala.phat
from phala.enclave.identity import Identity, OtherChain
from phala.enclave.records import OFFERED_MAX
from phala.messages.host import Attest
from phala.messages.types import ContractId
from phala.testing.caller import Caller, Sent
from phala.testing.enclave import HashEntropy, SimWorker
from phala.testing.sim_chain import SimChain

COUNTER = (Path(phala.phat.__file__).parent / "templates" / "counter.py").read_bytes()


def story() -> tuple[SimWorker, Caller, ContractId, list[Sent]]:
    chain = SimChain()
    worker = SimWorker(chain)
    worker.register()
    alice = Caller(chain, b"alice")
    contract = alice.deploy(COUNTER)
    chain.seal()
    worker.settle()
    sent = [alice.send(contract, "add", n=n) for n in (1, 2, 3)]
    chain.seal()
    worker.settle()
    return worker, alice, contract, sent


def test_every_record_is_a_place_to_resume_from() -> None:
    worker, alice, contract, sent = story()
    records = len(worker.journal.records)
    began = next(
        at for at in range(records) if worker.restarted(at).enclave.view.epochs.current is not None
    )

    for count in range(began, records + 1):
        again = worker.restarted(count)
        again.follow()
        again.settle()

        assert json.loads(alice.ask(again, contract, "value").result) == 6
        assert [alice.outcome(again.enclave, each).result for each in sent] == [b"1", b"3", b"6"]
        assert again.enclave.status().topics == worker.enclave.status().topics


def test_no_number_is_used_twice_after_old_files_are_put_back() -> None:
    worker, _, _, _ = story()
    began = next(
        at
        for at in range(len(worker.journal.records))
        if worker.restarted(at).enclave.view.epochs.current is not None
    )
    again = worker.restarted(began)
    taken = len(worker.chain.taken)
    again.follow()
    sequences = [message.body.sequence for message in again.enclave.egress().messages]

    assert sequences == list(range(taken, taken + len(sequences)))
    again.settle()
    assert not again.enclave.egress().messages


def test_an_identity_is_bound_to_its_chain() -> None:
    chain, other = SimChain(), SimChain(seed=b"other")
    identity, plaintext = Identity.generate(chain.genesis, HashEntropy())

    assert Identity.restore(plaintext, chain.genesis).worker == identity.worker
    with pytest.raises(OtherChain):
        Identity.restore(plaintext, other.genesis)


def test_a_key_offered_before_a_kill_opens_what_came_after() -> None:
    chain = SimChain()
    worker = SimWorker(chain)
    chain.seal()
    worker.follow()
    first = worker.enclave.attest(Attest(None, ())).registration
    again = worker.restarted()
    second = again.enclave.attest(Attest(None, ())).registration
    assert first.body.encryption_key == second.body.encryption_key

    chain.register(first)
    chain.seal()
    again.settle()

    assert again.enclave.status().ready
    assert again.enclave.evidence().registration == first


def test_registrations_are_told_apart_however_often_they_are_asked_for() -> None:
    chain = SimChain()
    worker = SimWorker(chain)
    chain.seal()
    worker.follow()
    asked = [worker.enclave.attest(Attest(None, ())).registration for _ in range(3)]
    assert asked[0] == asked[1] == asked[2]
    other = worker.enclave.attest(Attest(None, ("http://127.0.0.1:8000",))).registration
    assert other != asked[0]

    chain.register(other)
    chain.seal()
    worker.settle()

    assert worker.enclave.evidence().registration == other


def test_a_registration_that_was_late_is_known_when_it_is_listed() -> None:
    chain = SimChain()
    worker = SimWorker(chain)
    made = []
    for _ in range(2):
        chain.seal()
        worker.follow()
        made.append(worker.enclave.attest(Attest(None, ())).registration)

    for each in made:
        chain.register(each)
        chain.seal()
        worker.settle()
        assert worker.enclave.status().registered
        assert worker.enclave.evidence().registration == each


def test_a_listed_registration_that_was_forgotten_is_made_anew() -> None:
    chain = SimChain()
    worker = SimWorker(chain)
    made = []
    for _ in range(OFFERED_MAX + 1):
        chain.seal()
        worker.follow()
        made.append(worker.enclave.attest(Attest(None, ())).registration)

    chain.register(made[0])
    chain.seal()
    worker.settle()
    assert not worker.enclave.status().registered

    worker.register()
    assert worker.enclave.status().registered
