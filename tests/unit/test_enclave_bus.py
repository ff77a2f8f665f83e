"""A feed's bytes come from a carrier that is not trusted: whatever it does, nothing is wrong."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import phala.phat
from phala.enclave.bus import FeedBehind, HeadMismatch, NoHeaders
from phala.enclave.records import CONTRACTS, TOPICS
from phala.errors import Invalid, Refused
from phala.finality.grandpa import BadJustification
from phala.finality.light import NotAhead
from phala.messages.bus import SYSTEM_TOPIC, cluster_topic
from phala.messages.host import Advance, Advanced, Attest, FinalizedHeader, TopicBatch, Wanted
from phala.messages.payloads.cluster import Skipped
from phala.testing.caller import Caller
from phala.testing.enclave import SimWorker
from phala.testing.sim_chain import SimChain

COUNTER = (Path(phala.phat.__file__).parent / "templates" / "counter.py").read_bytes()

Fault = Callable[[Advance, random.Random], Advance]


def registered(chain: SimChain) -> SimWorker:
    worker = SimWorker(chain)
    worker.register()
    return worker


@pytest.fixture
def worker() -> SimWorker:
    return registered(SimChain())


def essence(worker: SimWorker) -> object:
    """What replicas must agree on."""
    store = worker.enclave.store
    return (
        {name: state.values for name, state in store.states.items()},
        dict(TOPICS.items(store.data)),
        dict(CONTRACTS.items(store.data)),
        worker.enclave.view.head,
    )


def busy(worker: SimWorker) -> None:
    """A chain with a deployment and commands in several blocks that the enclave has not seen."""
    alice = Caller(worker.chain, b"alice")
    contract = alice.deploy(COUNTER)
    worker.chain.seal()
    worker.settle()
    for n in range(1, 6):
        alice.send(contract, "add", n=n)
        if n % 2:
            worker.chain.seal()
    alice.deploy(COUNTER, salt=b"second")
    worker.chain.seal()


# ---- the four faults of a carrier


def dropping(feed: Advance, dice: random.Random) -> Advance:
    at = dice.randrange(len(feed.batches))
    batch = feed.batches[at]
    if not batch.envelopes:
        return replace(feed, batches=feed.batches[:at] + feed.batches[at + 1 :])
    out = dice.randrange(len(batch.envelopes))
    kept = batch.envelopes[:out] + batch.envelopes[out + 1 :]
    return _with_batch(feed, at, replace(batch, envelopes=kept))


def repeating(feed: Advance, dice: random.Random) -> Advance:
    at = dice.randrange(len(feed.batches))
    batch = feed.batches[at]
    if dice.random() < 0.5 or not batch.envelopes:
        return replace(feed, batches=(*feed.batches, batch))
    again = dice.choice(batch.envelopes)
    return _with_batch(feed, at, replace(batch, envelopes=(again, *batch.envelopes)))


def reordering(feed: Advance, dice: random.Random) -> Advance:
    at = dice.randrange(len(feed.batches))
    batch = feed.batches[at]
    shuffled = list(batch.envelopes)
    dice.shuffle(shuffled)
    return _with_batch(feed, at, replace(batch, envelopes=tuple(shuffled)))


def altering(feed: Advance, dice: random.Random) -> Advance:
    match dice.randrange(5):
        case 0:
            at = dice.randrange(len(feed.headers))
            header = feed.headers[at]
            changed = replace(header, header=_flipped(header.header, dice))
            return _with_header(feed, at, changed)
        case 1:
            at = dice.randrange(len(feed.headers))
            header = feed.headers[at]
            changed = replace(header, justification=_flipped(header.justification, dice))
            return _with_header(feed, at, changed)
        case 2:
            at = dice.randrange(len(feed.proof))
            proof = list(feed.proof)
            proof[at] = _flipped(proof[at], dice)
            return replace(feed, proof=tuple(proof))
        case 3 if feed.codes:
            return replace(feed, codes=(_flipped(feed.codes[0], dice), *feed.codes[1:]))
        case _:
            at = dice.randrange(len(feed.batches))
            batch = feed.batches[at]
            if not batch.envelopes:
                return replace(feed, proof=feed.proof[1:])
            place = dice.randrange(len(batch.envelopes))
            envelopes = list(batch.envelopes)
            envelopes[place] = _flipped(envelopes[place], dice)
            return _with_batch(feed, at, replace(batch, envelopes=tuple(envelopes)))


def _flipped(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _with_batch(feed: Advance, at: int, batch: TopicBatch) -> Advance:
    return replace(feed, batches=(*feed.batches[:at], batch, *feed.batches[at + 1 :]))


def _with_header(feed: Advance, at: int, header: FinalizedHeader) -> Advance:
    return replace(feed, headers=(*feed.headers[:at], header, *feed.headers[at + 1 :]))


@pytest.mark.parametrize("fault", [dropping, repeating, reordering, altering])
def test_a_faulty_carrier_changes_nothing_but_the_time_taken(fault: Fault) -> None:
    chain = SimChain()
    worker = registered(chain)
    busy(worker)
    honest = worker.restarted()
    honest.follow()
    dice = random.Random(7)
    wanted: Wanted | None = None

    for _ in range(200):
        status = worker.enclave.status()
        before, count = essence(worker), len(worker.journal.records)
        try:
            found = worker.enclave.advance(fault(chain.feed(status, wanted), dice))
        except (Invalid, Refused):
            found = None
        if isinstance(found, Advanced):
            break
        assert essence(worker) == before, "a feed that fails changes nothing"
        assert len(worker.journal.records) == count
        if isinstance(found, Wanted) and found.codes:
            wanted = found
    worker.follow()

    assert essence(worker) == essence(honest)


def test_a_feed_that_was_applied_is_no_news(worker: SimWorker) -> None:
    worker.chain.seal()
    feed = worker.chain.feed(worker.enclave.status())
    worker.enclave.advance(feed)
    before = essence(worker)

    with pytest.raises(NotAhead):
        worker.enclave.advance(feed)
    assert essence(worker) == before


def test_a_feed_without_headers_is_refused(worker: SimWorker) -> None:
    worker.chain.seal()
    feed = worker.chain.feed(worker.enclave.status())

    with pytest.raises(NoHeaders):
        worker.enclave.advance(replace(feed, headers=()))


def test_other_envelopes_than_the_chains_are_refused(worker: SimWorker) -> None:
    busy(worker)
    feed = worker.chain.feed(worker.enclave.status())
    at = next(at for at, batch in enumerate(feed.batches) if len(batch.envelopes) > 1)
    swapped = feed.batches[at].envelopes[::-1]

    with pytest.raises(HeadMismatch):
        worker.enclave.advance(_with_batch(feed, at, replace(feed.batches[at], envelopes=swapped)))


def test_a_missing_topic_is_asked_for() -> None:
    chain = SimChain()
    worker = SimWorker(chain)
    chain.seal()
    worker.follow()
    chain.register(worker.enclave.attest(Attest(None, ())).registration)
    chain.seal()

    found = worker.enclave.advance(chain.feed(worker.enclave.status()))

    assert isinstance(found, Wanted)
    assert [each.topic for each in found.topics] == [cluster_topic(chain.cluster)]
    assert worker.enclave.status().height == 1


def test_missing_code_is_asked_for_and_other_code_does_not_pass(worker: SimWorker) -> None:
    Caller(worker.chain, b"alice").deploy(COUNTER)
    worker.chain.seal()
    status = worker.enclave.status()

    first = worker.enclave.advance(worker.chain.feed(status))
    assert isinstance(first, Wanted)
    (code,) = first.codes
    other = replace(worker.chain.feed(status), codes=(COUNTER + b"#",))
    assert worker.enclave.advance(other) == first

    found = worker.enclave.advance(worker.chain.feed(status, first))
    assert isinstance(found, Advanced)
    assert worker.chain.codes[code] == COUNTER


def test_skipped_blocks_cost_nothing_and_authority_sets_are_followed(worker: SimWorker) -> None:
    chain = worker.chain
    chain.seal_many(20)
    chain.change_authority(b"second")
    chain.seal_many(20)
    chain.change_authority(b"third")
    chain.seal_many(3)
    feed = chain.feed(worker.enclave.status())

    assert len(feed.headers) == 3
    with pytest.raises(BadJustification):
        worker.enclave.advance(replace(feed, headers=feed.headers[-1:]))
    assert isinstance(worker.enclave.advance(feed), Advanced)
    assert worker.enclave.view.head.authorities.id == 2


def test_messages_of_all_topics_come_in_the_chains_order(worker: SimWorker) -> None:
    order = []
    apply = worker.enclave._handlers.apply

    def seen(step, message):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        order.append((message.block, message.index))
        apply(step, message)

    worker.enclave._handlers.apply = seen  # type: ignore[method-assign]
    alice = Caller(worker.chain, b"alice")
    for _ in range(3):
        worker.chain.queue(SYSTEM_TOPIC, b"\xff")
        alice.deploy(COUNTER, salt=bytes([worker.chain.number % 256]))
        worker.chain.queue(SYSTEM_TOPIC, b"\xff")
        worker.chain.seal()
    worker.follow()

    assert order == sorted(order)
    assert len(order) == 9


def test_what_cannot_be_read_is_noted_and_passed_over(worker: SimWorker) -> None:
    topic = cluster_topic(worker.chain.cluster)
    for payload in (b"", b"\xff", b"\x03" + bytes(10), bytes(5000)):
        worker.chain.queue(topic, payload)
        worker.chain.queue(SYSTEM_TOPIC, payload)
    worker.chain.topics[topic].bodies[-1] = worker.chain.topics[topic].bodies[-1]
    worker.chain.seal()
    worker.follow()

    assert len(worker.notes) == 8
    assert worker.enclave.status().height == worker.chain.number
    assert worker.enclave.status().ready


def test_a_step_that_the_chain_skips_is_not_executed(worker: SimWorker) -> None:
    alice = Caller(worker.chain, b"alice")
    contract = alice.deploy(COUNTER)
    worker.chain.seal()
    worker.settle()
    alice.send(contract, "add", n=1)
    skipped = alice.send(contract, "add", n=50)
    count = worker.chain.topics[cluster_topic(worker.chain.cluster)].state.count
    worker.chain.tell(Skipped(count))
    worker.chain.seal()
    worker.settle()

    assert json.loads(alice.ask(worker, contract, "value").result) == 1
    assert worker.enclave.outcome(skipped.call).sealed is None


def test_a_long_backlog_comes_in_one_feed(worker: SimWorker) -> None:
    for _ in range(1500):
        worker.chain.queue(SYSTEM_TOPIC, b"\xff")
    worker.chain.seal()
    worker.follow()

    assert len(worker.notes) == 1500


def test_a_block_older_than_what_was_applied_is_refused(worker: SimWorker) -> None:
    """After a kill in the middle of a feed the topics are ahead of the head."""
    chain = worker.chain
    chain.seal()
    early = chain.feed(worker.enclave.status())
    chain.queue(SYSTEM_TOPIC, b"\xff")
    chain.seal()
    worker.follow()
    killed = worker.restarted(len(worker.journal.records) - 1)

    with pytest.raises(FeedBehind):
        killed.enclave.advance(early)
    killed.follow()
    assert essence(killed) == essence(worker)
