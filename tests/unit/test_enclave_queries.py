"""Each check of a query, and who learns what of a refusal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import phala.phat
from phala.crypto import hpke
from phala.crypto.signatures import sr25519_sign, sr25519_verify
from phala.enclave.query.door import BadQuery, UnknownEpoch
from phala.enclave.query.judge import Behind, Memory, QueryRefused
from phala.errors import Invalid
from phala.messages.bus import SYSTEM_TOPIC
from phala.messages.calls import (
    CERTIFICATE,
    ERROR_ARGUMENTS,
    ERROR_REFUSED,
    OUTCOME,
    QUERY_AGE_MS_MAX,
    QUERY_ENVELOPE,
    SIGNED_QUERY,
    QueryEnvelope,
    SignedQuery,
)
from phala.messages.host import Attest
from phala.messages.padding import pad
from phala.messages.receipts import KIND_QUERY, RECEIPT, blinded
from phala.messages.signing import Purpose, signed_bytes, wrapped
from phala.messages.types import CallId, CodeId, ContractId, Epoch, Signature64
from phala.primitives.address import encode_ss58
from phala.primitives.types import Hash
from phala.testing.caller import Caller
from phala.testing.enclave import SimWorker
from phala.testing.sim_chain import SimChain

COUNTER = (Path(phala.phat.__file__).parent / "templates" / "counter.py").read_bytes()
WHO = b"""
from phat import Contract, command, query

class Who(Contract):
    @query
    def caller_of(self) -> str | None:
        return self.caller
"""


class World:
    def __init__(self) -> None:
        self.chain = SimChain()
        self.worker = SimWorker(self.chain)
        self.worker.register()
        self.alice = Caller(self.chain, b"alice")
        self.contract = self.alice.deploy(COUNTER)
        self.who = self.alice.deploy(WHO)
        self.turn()

    def turn(self) -> None:
        self.chain.seal()
        self.worker.settle()

    def signed(self, *, contract: ContractId | None = None, **changed: Any) -> SignedQuery:
        return self.alice.signed(
            self.worker, self.alice.request(contract or self.contract, "value", **changed)
        )

    def refusal(self, query: SignedQuery) -> str:
        outcome = self.alice.answer(self.worker, query).outcome
        assert (outcome.ok, outcome.error_kind) == (False, ERROR_REFUSED)
        return outcome.error


@pytest.fixture
def world() -> World:
    return World()


def test_a_signed_query_is_answered_with_a_receipt(world: World) -> None:
    query = world.signed()
    reply = world.alice.answer(world.worker, query)
    body = reply.receipt.body

    assert reply.outcome.result == b"0"
    assert (body.kind, body.call, body.contract) == (KIND_QUERY, query.request.id, world.contract)
    assert body.request == blinded(reply.blinder, SIGNED_QUERY.encode(query))
    assert body.response == blinded(reply.blinder, OUTCOME.encode(reply.outcome))
    assert (body.height, body.block_hash) == (
        world.chain.number,
        world.chain.blocks[-1].header.hash(),
    )
    message = signed_bytes(Purpose.RECEIPT, world.chain.genesis, RECEIPT.encode(body))
    sr25519_verify(world.worker.identity.worker, message, reply.receipt.signature)


def test_the_caller_is_the_certificates_account_or_nobody(world: World) -> None:
    named = world.alice.ask(world.worker, world.who, "caller_of")
    request = world.alice.request(world.who, "caller_of")
    nobody = world.alice.answer(world.worker, SignedQuery(request, None, None)).outcome

    assert json.loads(named.result) == encode_ss58(world.alice.account)
    assert json.loads(nobody.result) is None


def test_a_wallets_wrapped_certificate_is_taken(world: World) -> None:
    query = world.signed()
    certificate = world.alice.certificate()
    message = signed_bytes(
        Purpose.CERTIFICATE, world.chain.genesis, CERTIFICATE.encode(certificate.body)
    )
    signature = Signature64(sr25519_sign(world.alice.pair, wrapped(message)))
    wrapped_one = replace(certificate, signature=signature)

    answer = world.alice.answer(world.worker, replace(query, certificate=wrapped_one))
    assert answer.outcome.ok


def test_a_query_is_taken_once(world: World) -> None:
    query = world.signed()
    sealed = world.alice.seal(world.worker, query)
    world.worker.ask(sealed)

    assert "taken before" in world.refusal(query)
    assert "taken before" in world.refusal(
        world.alice.signed(world.worker, replace(query.request, method="other"))
    )


def test_a_stale_query_and_one_that_lives_too_long_are_refused(world: World) -> None:
    now = world.worker.enclave.view.finalized.time

    assert "expires" in world.refusal(world.signed(expires=now - 1))
    assert "expires" in world.refusal(world.signed(expires=now + QUERY_AGE_MS_MAX + 60_001))
    assert world.alice.answer(world.worker, world.signed(expires=now)).outcome.ok


def test_an_expired_or_forged_certificate_is_refused(world: World) -> None:
    query = world.signed()
    now = world.worker.enclave.view.finalized.time
    expired = world.alice.certificate(expires=now - 1)
    eve = Caller(world.chain, b"eve")
    forged = replace(
        world.alice.certificate(),
        body=replace(world.alice.certificate().body, session=eve.session.public),
    )

    assert "expired" in world.refusal(replace(query, certificate=expired))
    assert "not signed by its account" in world.refusal(replace(query, certificate=forged))


def test_half_a_signature_is_refused(world: World) -> None:
    query = world.signed()

    assert "without" in world.refusal(replace(query, certificate=None))
    assert "without" in world.refusal(replace(query, signature=None))


def test_a_signature_for_another_worker_or_request_is_refused(world: World) -> None:
    query = world.signed()
    other = SimWorker(world.chain, seed=b"other")
    elsewhere = world.alice.signed(other, query.request)
    changed = replace(query, request=replace(query.request, method="total"))

    assert "did not sign" in world.refusal(elsewhere)
    assert "did not sign" in world.refusal(changed)


def test_a_worker_on_another_fork_refuses(world: World) -> None:
    query = world.signed(block_hash=Hash(bytes(32)))

    assert "follow the same chain" in world.refusal(query)


def test_a_caller_ahead_waits_and_one_far_ahead_is_refused(world: World) -> None:
    at = world.chain.number
    with pytest.raises(Behind):
        world.worker.enclave.open(world.alice.seal(world.worker, world.signed(height=at + 1)))
    query = world.signed(height=at + 1, block_hash=Hash(bytes(32)))
    assert "ask another worker" in world.refusal(world.signed(height=at + 1000))

    world.chain.seal()
    ahead = world.signed()
    sealed = world.alice.seal(world.worker, ahead)
    with pytest.raises(Behind):
        world.worker.enclave.open(sealed)
    world.worker.follow()
    assert not isinstance(world.worker.enclave.open(sealed), bytes)
    assert query.request.height == world.chain.number


def test_a_worker_that_saw_less_of_the_topic_says_so(world: World) -> None:
    count = world.worker.enclave.view.topic_of(world.chain.cluster).count

    assert world.alice.answer(world.worker, world.signed(count=count)).outcome.ok
    with pytest.raises(Behind):
        world.worker.enclave.open(world.alice.seal(world.worker, world.signed(count=count + 1)))


def test_other_contracts_and_other_code_are_refused(world: World) -> None:
    assert "no live contract" in world.refusal(world.signed(contract=ContractId(bytes(32))))
    assert "runs the code" in world.refusal(world.signed(code_id=CodeId(bytes(32))))
    mine = world.worker.enclave.view.contracts[world.contract].contract.code_id
    assert world.alice.answer(world.worker, world.signed(code_id=mine)).outcome.ok


def test_a_contract_that_failed_refuses(world: World) -> None:
    broken = world.alice.deploy(b"no python at all")
    world.turn()

    assert "no live contract" in world.refusal(world.signed(contract=broken))


def test_a_query_reads_and_changes_nothing(world: World) -> None:
    before = len(world.worker.journal.records)
    outcome = world.alice.ask(world.worker, world.contract, "add", n=1)

    assert outcome.error_kind == ERROR_ARGUMENTS
    assert len(world.worker.journal.records) == before


def test_bytes_that_are_no_query_are_refused_in_the_open(world: World) -> None:
    sealed = world.alice.seal(world.worker, world.signed())
    envelope = QUERY_ENVELOPE.decode(sealed)
    key = world.worker.enclave.view.epochs.current
    assert key is not None
    wrong = [
        b"",
        b"\xff" * 200,
        sealed[:-1],
        sealed[:-1] + bytes([sealed[-1] ^ 1]),
        QUERY_ENVELOPE.encode(replace(envelope, version=2)),
        QUERY_ENVELOPE.encode(replace(envelope, sealed=hpke.seal(key.public, pad(b""), b"other"))),
    ]

    for each in wrong:
        with pytest.raises(BadQuery):
            world.worker.enclave.open(each)


def test_a_key_that_is_not_here_is_named(world: World) -> None:
    envelope = QUERY_ENVELOPE.decode(world.alice.seal(world.worker, world.signed()))
    other = QueryEnvelope(envelope.version, Epoch(9), envelope.sealed)

    with pytest.raises(UnknownEpoch, match="current is 1"):
        world.worker.enclave.open(QUERY_ENVELOPE.encode(other))


def test_the_key_before_opens_for_a_while_then_no_more(world: World) -> None:
    old = world.alice.seal(world.worker, world.signed())
    old_too = world.alice.seal(world.worker, world.signed())
    attested = world.worker.enclave.attest(Attest(None, ()))
    world.chain.register(attested.registration)
    world.turn()
    current = world.worker.enclave.view.epochs.current
    assert current is not None
    assert current.epoch == 2
    assert not isinstance(world.worker.enclave.open(old), bytes)

    for _ in range(30):
        world.chain.seal_many(8)
        world.worker.follow()
    with pytest.raises(UnknownEpoch):
        world.worker.enclave.open(old_too)
    assert world.alice.ask(world.worker, world.contract, "value").ok


def test_a_command_in_between_is_seen_in_the_receipt_of_what_was_read(world: World) -> None:
    prepared = world.worker.enclave.open(world.alice.seal(world.worker, world.signed()))
    assert not isinstance(prepared, bytes)
    world.alice.send(world.contract, "add", n=3)
    world.turn()
    result = world.worker.engine.run(prepared.call)
    world.worker.enclave.close(prepared, result)

    live = world.worker.enclave.view.contracts[world.contract]
    assert result.position is not None
    assert result.result == b"3"
    assert result.position.root == live.root


def test_ids_are_forgotten_with_their_age() -> None:
    memory = Memory()
    for n in range(10):
        memory.add(CallId(bytes([n])), until=100 + n, now=100)
    with pytest.raises(QueryRefused):
        memory.add(CallId(bytes([3])), until=103, now=103)
    memory.add(CallId(bytes([3])), until=120, now=104)


def test_garbage_never_raises_anything_but_invalid(world: World) -> None:
    key = world.worker.enclave.view.epochs.current
    assert key is not None
    opener = world.worker.enclave._queries
    _, info = opener._opener(key)
    for body in (b"", b"\0", bytes(300), b"\xff" * 900, SIGNED_QUERY.encode(world.signed())[:-1]):
        sealed = hpke.seal(key.public, pad(body), info)
        envelope = QUERY_ENVELOPE.encode(QueryEnvelope(1, key.epoch, sealed))
        with pytest.raises(Invalid):
            world.worker.enclave.open(envelope)
    assert world.worker.enclave.view.topics[SYSTEM_TOPIC].count > 0
