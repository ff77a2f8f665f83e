"""Who makes the group's key, who gets partials of a cluster's, and what is refused of them."""

from dataclasses import replace
from typing import Any

import pytest

from phala.crypto import bls, hpke
from phala.crypto.secret import Secret
from phala.enclave.bus import RENEWAL_MS
from phala.enclave.gatekeeper.shares import NeedsKeyGeneration, partial, take_seat
from phala.enclave.records import CLUSTER_KEYS, DUES, SEATS
from phala.messages.host import Attest
from phala.messages.payloads.cluster import PartialGiven, key_message, partial_info
from phala.messages.payloads.enclave import GroupKeyAnnounced
from phala.messages.payloads.system import (
    GatekeeperAppointed,
    GroupKeySet,
    KeyDue,
    WorkerRemoved,
)
from phala.messages.state import (
    REASON_AGE,
    REASON_COLLATERAL,
    REASON_FLOOR,
    REASON_POLICY,
    WORKER_INFO,
    WORKER_STALE,
    WORKER_SUSPENDED,
    worker_key,
)
from phala.messages.types import ClusterId, Epoch, Generation, SealKey, WorkerId
from phala.primitives.types import BlockNumber, Moment
from phala.testing.enclave import HashEntropy, SimWorker
from phala.testing.sim_chain import START_MS, SimChain

OTHER = WorkerId(bytes([5] * 32))
KEY = Secret(bytes([6] * 32))


@pytest.fixture
def worker() -> SimWorker:
    worker = SimWorker(SimChain())
    worker.register()
    return worker


def due(cluster: ClusterId) -> KeyDue:
    public = SealKey(hpke.public_of(KEY))
    return KeyDue(cluster, Generation(1), OTHER, public, Epoch(1))


def partials(worker: SimWorker) -> list[PartialGiven]:
    return [each for each in worker.chain.taken if isinstance(each, PartialGiven)]


def test_a_partial_opens_for_its_worker_and_verifies_on_its_own(worker: SimWorker) -> None:
    cluster, genesis = worker.chain.cluster, worker.chain.genesis
    worker.chain.say(due(cluster))
    worker.chain.seal()
    worker.settle()

    given = partials(worker)[-1]
    assert (given.worker, given.cluster, given.index) == (OTHER, cluster, 1)
    info = partial_info(genesis, cluster, Generation(1), 1)
    signature = hpke.open_sealed(KEY, given.sealed, info)
    group = worker.chain.group_public
    bls.verify_partial(
        group, key_message(genesis, group, cluster, Generation(1)), signature, index=1
    )
    assert worker.chain.blocks[given.height].header.hash() == given.block_hash


def test_keys_that_were_due_before_the_group_key_are_given() -> None:
    chain = SimChain()
    worker = SimWorker(chain)
    chain.seal()
    worker.follow()
    chain.say(due(chain.cluster))
    chain.seal()
    worker.follow()
    assert not worker.enclave.egress().messages
    chain.register(worker.enclave.attest(Attest(None, ())).registration)
    chain.seal()
    worker.settle()

    kinds = [type(each) for each in chain.taken]
    assert kinds == [GroupKeyAnnounced, PartialGiven, PartialGiven]
    assert [each.worker for each in partials(worker)] == [OTHER, worker.identity.worker]


def test_a_removed_worker_is_due_nothing(worker: SimWorker) -> None:
    worker.chain.say(due(worker.chain.cluster))
    worker.chain.say(WorkerRemoved(OTHER))
    worker.chain.seal()
    worker.settle()

    left = DUES.get(worker.enclave.store.data) or ()
    assert [each.worker for each in left] == [worker.identity.worker]


def test_a_worker_that_is_removed_forgets_its_keys(worker: SimWorker) -> None:
    worker.chain.say(WorkerRemoved(worker.identity.worker))
    worker.chain.seal()
    worker.settle()

    assert not worker.enclave.status().ready
    assert not list(CLUSTER_KEYS.items(worker.enclave.store.data))


def relist(worker: SimWorker, **changes: Any) -> None:
    """The chain lists the worker otherwise from its next block on."""
    place = worker_key(worker.identity.worker)
    state = worker.chain._state
    info = WORKER_INFO.decode(state[place])
    state[place] = WORKER_INFO.encode(replace(info, **changes))
    worker.chain.seal()
    worker.settle()


def test_a_suspended_worker_knows_that_it_has_to_register_again(worker: SimWorker) -> None:
    assert worker.enclave.status().registered
    relist(worker, state=WORKER_SUSPENDED, reason=REASON_AGE)

    status = worker.enclave.status()
    assert (status.registered, status.ready) == (False, False)


@pytest.mark.parametrize(
    ("changes", "due_now"),
    [
        ({}, False),
        ({"attested_at": Moment(START_MS - RENEWAL_MS)}, True),
        ({"attested_at": Moment(START_MS - RENEWAL_MS // 2)}, False),
        ({"state": WORKER_STALE, "reason": REASON_FLOOR}, True),
        ({"state": WORKER_STALE, "reason": REASON_POLICY}, True),
        ({"state": WORKER_STALE, "reason": REASON_COLLATERAL}, False),
    ],
)
def test_evidence_is_to_be_renewed_before_it_ends(
    worker: SimWorker, *, changes: dict[str, Any], due_now: bool
) -> None:
    relist(worker, **changes)

    status = worker.enclave.status()
    assert (status.registered, status.due) == (True, due_now)


def test_a_key_of_small_order_gets_no_partial(worker: SimWorker) -> None:
    bad = KeyDue(worker.chain.cluster, Generation(1), OTHER, SealKey(bytes(32)), Epoch(1))
    before = len(partials(worker))
    worker.chain.say(bad)
    worker.chain.seal()
    worker.settle()

    assert len(partials(worker)) == before
    assert any("gets no partial" in note for note in worker.notes)


def test_a_forged_partial_is_refused_and_the_key_stays(worker: SimWorker) -> None:
    chain = worker.chain
    key = worker.enclave.view.epochs.current
    assert key is not None
    generation = Generation(2)
    forger = bls.keygen(Secret(bytes([1] * 32)))
    message = key_message(chain.genesis, chain.group_public, chain.cluster, generation)
    info = partial_info(chain.genesis, chain.cluster, generation, 1)
    for signature in (bls.partial(forger, message), b"", bytes(96)):
        chain.tell(
            PartialGiven(
                cluster=chain.cluster,
                generation=generation,
                period=1,
                index=1,
                worker=worker.identity.worker,
                height=BlockNumber(0),
                block_hash=chain.genesis,
                sealed=hpke.seal(key.public, signature, info),
            )
        )
    chain.seal()
    worker.settle()

    assert len(worker.notes) == 3
    assert worker.enclave.status().ready


def test_another_group_key_than_ours_voids_the_share() -> None:
    chain = SimChain()
    worker = SimWorker(chain)
    chain.seal()
    worker.follow()
    chain.say(GatekeeperAppointed(worker.identity.worker, 1, 1, 1))
    chain.seal()
    worker.follow()
    assert SEATS.get(worker.enclave.store.data) is not None
    other = bls.public_of(bls.keygen(Secret(bytes([2] * 32))))
    chain.say(GroupKeySet(1, other))
    chain.seal()
    worker.follow()

    assert SEATS.get(worker.enclave.store.data) is None


def test_shares_of_several_wait_for_their_key_generation(worker: SimWorker) -> None:
    with pytest.raises(NeedsKeyGeneration):
        take_seat(GatekeeperAppointed(OTHER, 1, 2, 1), HashEntropy())
    worker.chain.say(GatekeeperAppointed(OTHER, 2, 2, 1))
    worker.chain.seal()
    worker.settle()
    assert worker.enclave.status().ready


def test_a_seats_partial_is_the_groups_signature() -> None:
    seat = take_seat(GatekeeperAppointed(OTHER, 1, 1, 1), HashEntropy())

    bls.verify_partial(seat.group_public, b"message", partial(seat, b"message"), index=1)
    combined = bls.combine({1: partial(seat, b"message")}, threshold=1)
    assert combined.reveal() == partial(seat, b"message")
