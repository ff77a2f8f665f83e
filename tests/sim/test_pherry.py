"""Pherry's rounds between a small chain and a small enclave, while all between them fails."""

import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from phala.codec import Bytes
from phala.crypto.hashes import blake2_256
from phala.errors import PhalaError, Refused, Unavailable
from phala.frame import dispatch_info
from phala.messages.bus import (
    BATCH_ITEMS_MAX,
    ENVELOPE,
    ENVELOPE_VERSION,
    SYSTEM_TOPIC,
    TOPIC_STATE,
    Envelope,
    PalletSender,
    TopicState,
    cluster_topic,
    first_head,
    next_head,
    topic_key,
)
from phala.messages.fuel import FUEL_DEFAULT
from phala.messages.host import (
    FEED_CODES_MAX,
    Advance,
    Advanced,
    Attest,
    Attested,
    Egress,
    EgressReply,
    Failure,
    FinalizedHeader,
    Followed,
    HostReply,
    HostRequest,
    Status,
    StatusReply,
    Wanted,
)
from phala.messages.payloads.cluster import CLUSTER_PAYLOAD, KIND_PY_SOURCE, ContractDeployed
from phala.messages.payloads.enclave import ContractFailed, EgressBody, SignedMessage
from phala.messages.registration import (
    EncryptionKey,
    Evidence,
    Manifest,
    Registration,
    SignedRegistration,
)
from phala.messages.state import CODE_BYTES_MAX, code_key
from phala.messages.types import (
    CallId,
    ClusterId,
    CodeId,
    ContractId,
    Count,
    Epoch,
    SealKey,
    Signature64,
    WorkerId,
)
from phala.pallets.phat_contracts import PhalaPhatContracts
from phala.pherry.core import feed as feed_module
from phala.pherry.core.asks import (
    Ask,
    BlockAt,
    FetchBlock,
    FetchMessages,
    FetchState,
    FetchValues,
    Head,
    ProveFinality,
    Submit,
    TellWorker,
)
from phala.pherry.core.feed import CODES_MAX, Wish, build_feed
from phala.pherry.core.round import (
    AGAIN_BLOCKS,
    RENEWAL_BLOCKS,
    Errand,
    Memory,
    Report,
    work_round,
)
from phala.primitives.types import AccountId, BlockNumber, Hash, Moment
from phala.runtime.version import NORMAL_REF_TIME_MAX
from phala.runtime.weights import BASE_REF_TIME

GENESIS: Final = Hash(blake2_256(b"genesis"))
WORKER: Final = WorkerId(b"\1" * 32)
CLUSTER: Final = ClusterId(b"\2" * 32)
TOPIC: Final = cluster_topic(CLUSTER)
SOURCE: Final = b"class Counter: ..."
CODE: Final = CodeId(blake2_256(SOURCE))
NO_SIGNATURE: Final = Signature64(bytes(64))


def block_hash(number: int) -> Hash:
    return Hash(blake2_256(b"block %d" % number))


@dataclass(slots=True)
class Chain:
    """Blocks with messages; a pool that a restart loses."""

    counts: list[dict[bytes, int]] = field(default_factory=lambda: [{}])
    bodies: dict[bytes, list[bytes]] = field(default_factory=dict)
    heads: dict[bytes, list[Hash]] = field(default_factory=dict)
    pool: list[SignedRegistration | SignedMessage] = field(default_factory=list)
    registered_in: int | None = None
    taken: list[int] = field(default_factory=list)
    taken_in: list[int] = field(default_factory=lambda: [0])

    @property
    def head(self) -> Head:
        return Head(BlockNumber(len(self.counts) - 1), block_hash(len(self.counts) - 1))

    def build(self, messages: list[tuple[bytes, bytes]]) -> None:
        number = len(self.counts)
        kept: list[SignedRegistration | SignedMessage] = []
        for each in self.pool:
            if isinstance(each, SignedRegistration):
                if self.registered_in is None:
                    messages = [*messages, (SYSTEM_TOPIC, b"registered")]
                    self.registered_in = number
            elif each.body.sequence == len(self.taken):
                self.taken.append(each.body.sequence)
            elif each.body.sequence > len(self.taken):
                kept.append(each)
        self.pool = kept
        for index, (topic, payload) in enumerate(messages):
            envelope = Envelope(
                version=ENVELOPE_VERSION,
                block=BlockNumber(number),
                index=index,
                time=Moment(number),
                sender=PalletSender(b"test"),
                topic=topic,
                payload=payload,
            )
            self.bodies.setdefault(topic, []).append(ENVELOPE.encode(envelope))
        self.counts.append({topic: len(bodies) for topic, bodies in self.bodies.items()})
        self.taken_in.append(len(self.taken))

    def number_of(self, block: Hash) -> int:
        return next(at for at in range(len(self.counts)) if block_hash(at) == block)

    def values(self, block: Hash, keys: tuple[bytes, ...]) -> tuple[bytes | None, ...]:
        counts = self.counts[self.number_of(block)]
        known = {
            topic_key(topic): TOPIC_STATE.encode(TopicState(Count(count), self.fold(topic, count)))
            for topic, count in counts.items()
        }
        known[code_key(CODE)] = Bytes(bytes_max=CODE_BYTES_MAX).encode(SOURCE)
        return tuple(known.get(key) for key in keys)

    def fold(self, topic: bytes, count: int) -> Hash:
        """The head of a topic's first messages."""
        heads = self.heads.setdefault(topic, [first_head(GENESIS, topic)])
        while len(heads) <= count:
            heads.append(next_head(heads[-1], self.bodies[topic][len(heads) - 1]))
        return heads[count]

    def answer(self, ask: Ask) -> Any:
        match ask:
            case FetchBlock(block):
                return FinalizedHeader(b"%d" % self.number_of(block), b"")
            case BlockAt(number):
                return Head(number, block_hash(number))
            case ProveFinality(number):
                return BlockNumber(number), FinalizedHeader(b"%d" % number, b"")
            case FetchState(block, keys):
                return (block,), self.values(block, keys)
            case FetchValues(block, keys):
                return self.values(block, keys)
            case FetchMessages(topic, start, limit):
                return tuple(self.bodies.get(topic, [])[start : start + limit])
            case Submit(message):
                if isinstance(message, SignedMessage) and message.body.sequence < len(self.taken):
                    return "outdated"
                self.pool.append(message)
                return None
            case _:
                raise AssertionError(ask)


@dataclass(slots=True)
class Enclave:
    """Applies a feed whole or not at all, and each message once."""

    chain: Chain  # what it would know by proof
    height: int = 0
    counts: dict[bytes, int] = field(default_factory=lambda: {SYSTEM_TOPIC: 0})
    heads: dict[bytes, Hash] = field(default_factory=dict)
    applied: list[bytes] = field(default_factory=list)
    egress: list[SignedMessage] = field(default_factory=list)
    due: bool = False  # says that its evidence is to be renewed
    attested: int = 0  # how often it was asked to

    @property
    def registered(self) -> bool:
        return self.chain.registered_in is not None and self.height >= self.chain.registered_in

    def tell(self, request: HostRequest) -> HostReply:
        match request:
            case Status():
                return self.status()
            case Advance():
                return self.advance(request)
            case Attest():
                self.attested += 1
                return Attested(registration())
            case Egress():
                taken = self.chain.taken_in[self.height]
                return EgressReply(tuple(self.egress[taken:]))
            case _:
                return Failure(0, "Invalid", "no such request", "")

    def status(self) -> StatusReply:
        return StatusReply(
            version=1,
            genesis=GENESIS,
            worker=WORKER,
            height=BlockNumber(self.height),
            block_hash=block_hash(self.height),
            registered=self.registered,
            topics=tuple(Followed(topic, Count(count)) for topic, count in self.counts.items()),
            runtime_id=GENESIS,
            platform=0,
            measurement=b"",
            ready=False,
            due=self.due,
        )

    def advance(self, feed: Advance) -> HostReply:
        target = int(feed.headers[-1].header) if feed.headers[-1].header.isdigit() else -1
        if not self.height < target < len(self.chain.counts):
            return Failure(1, "Refused", f"no block {target}", "")
        proven = self.chain.counts[target]
        counts = dict(self.counts)
        fresh: list[bytes] = []
        heads = dict(self.heads)
        for batch in feed.batches:
            if batch.topic in counts and batch.start == counts[batch.topic]:
                head = heads.get(batch.topic, first_head(GENESIS, batch.topic))
                for envelope in batch.envelopes:
                    head = next_head(head, envelope)
                heads[batch.topic] = head
                counts[batch.topic] += len(batch.envelopes)
                fresh += batch.envelopes
            elif batch.topic not in counts and b"registered" in self.seen(fresh):
                counts[batch.topic] = len(batch.envelopes)
                heads[batch.topic] = first_head(GENESIS, batch.topic)
                for envelope in batch.envelopes:
                    heads[batch.topic] = next_head(heads[batch.topic], envelope)
                fresh += batch.envelopes
        wanted = [
            Followed(topic, Count(self.counts.get(topic, 0)))
            for topic in self.followed(fresh)
            if counts.get(topic, 0) != proven.get(topic, 0)
        ]
        codes = [CODE] if self.deploys(fresh) and SOURCE not in feed.codes else []
        if wanted or codes:
            return Wanted(tuple(wanted), tuple(codes))
        for topic in self.followed(fresh):
            count = proven.get(topic, 0)
            if count and heads.get(topic) != self.chain.fold(topic, count):
                return Failure(0, "Invalid", "the hash chain differs", "")
        self.height, self.counts, self.heads = target, counts, heads
        self.counts.update({topic: counts.get(topic, 0) for topic in self.followed(fresh)})
        for envelope in fresh:
            self.applied.append(envelope)
            self.egress.append(message(len(self.egress)))
        return Advanced(BlockNumber(target), block_hash(target))

    def seen(self, fresh: list[bytes]) -> list[bytes]:
        return [ENVELOPE.decode(envelope).payload for envelope in [*self.applied, *fresh]]

    def followed(self, fresh: list[bytes]) -> list[bytes]:
        joined = b"registered" in self.seen(fresh)
        return [SYSTEM_TOPIC, TOPIC] if joined else [SYSTEM_TOPIC]

    def deploys(self, fresh: list[bytes]) -> bool:
        return any(deployment() in envelope for envelope in fresh)


def deployment(code: CodeId = CODE) -> bytes:
    return CLUSTER_PAYLOAD.encode(
        ContractDeployed(
            contract=ContractId(bytes(32)),
            call=CallId(bytes(32)),
            deployer=AccountId(bytes(32)),
            code_id=code,
            kind=KIND_PY_SOURCE,
            runtime_id=GENESIS,
            arguments=b"{}",
            reply_to=SealKey(bytes(32)),
            fuel=FUEL_DEFAULT,
        )
    )


def message(sequence: int) -> SignedMessage:
    said = ContractFailed(ContractId(bytes(32)))
    return SignedMessage(EgressBody(1, GENESIS, WORKER, sequence, said), NO_SIGNATURE)


def registration() -> SignedRegistration:
    body = Registration(
        version=1,
        manifest=Manifest(1, WORKER, None, GENESIS, 1, GENESIS, 1, ()),
        height=BlockNumber(0),
        block_hash=GENESIS,
        evidence=Evidence(0, b""),
        encryption_key=EncryptionKey(1, WORKER, Epoch(1), SealKey(bytes(32))),
        key_signature=NO_SIGNATURE,
    )
    return SignedRegistration(body, NO_SIGNATURE)


@dataclass(slots=True)
class World:
    """Chain, enclave, pherry's memory, and what goes wrong between them."""

    chance: random.Random
    faults: float
    chain: Chain = field(default_factory=Chain)
    enclave: Enclave = field(init=False)
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        self.enclave = Enclave(self.chain)

    def fails(self) -> bool:
        return self.chance.random() < self.faults

    def answer(self, ask: Ask) -> Any:
        if self.fails():
            raise Unavailable("lost on the way out", mend="again")
        if isinstance(ask, TellWorker):
            request = ask.request
            if isinstance(request, Advance) and self.fails():
                request = self.garbled(request)
            reply: Any = self.enclave.tell(request)
            if self.fails():
                self.enclave.tell(request)  # delivered twice
        else:
            reply = self.chain.answer(ask)
            if isinstance(ask, FetchMessages) and self.fails():
                reply = tuple(self.chance.sample(reply, len(reply)))[: self.chance.randint(0, 9)]
        if self.fails():
            raise Unavailable("lost on the way back", mend="again")
        return reply

    def garbled(self, feed: Advance) -> Advance:
        """Dropped, repeated, reordered, altered."""
        batches = list(feed.batches)
        match self.chance.randrange(4):
            case 0:
                batches = batches[1:]
            case 1:
                batches = batches * 2
            case 2:
                batches.reverse()
            case _:
                return Advance((FinalizedHeader(b"?", b""),), feed.proof, feed.batches, feed.codes)
        return Advance(feed.headers, feed.proof, tuple(batches[:64]), feed.codes)

    def turn(self) -> Report | None:
        """One round; None where it failed."""
        errand = Errand(GENESIS)
        try:
            return perform(work_round(errand, self.chain.head, self.memory), self)
        except PhalaError:
            self.memory.forget()
            return None

    def restart_something(self) -> None:
        match self.chance.randrange(3):
            case 0:
                self.chain.pool.clear()
            case 1:
                self.memory = Memory()
            case _:
                pass

    def messages(self) -> list[tuple[bytes, bytes]]:
        some: list[tuple[bytes, bytes]] = []
        for _ in range(self.chance.randrange(4)):
            kind = self.chance.randrange(3)
            if kind == 0:
                some.append((SYSTEM_TOPIC, b"policy"))
            elif self.chain.registered_in is not None:
                some.append((TOPIC, deployment() if kind == 1 else b"command"))
        return some


def perform(steps: Generator[Ask, Any, Report], world: World) -> Report:
    reply: Any = None
    try:
        while True:
            reply = world.answer(steps.send(reply))
    except StopIteration as done:
        report: Report = done.value
        return report


@pytest.mark.parametrize("seed", range(12))
def test_faults_change_nothing_but_the_time_taken(seed: int) -> None:
    world = World(random.Random(seed), faults=0.08)
    for _ in range(40):
        world.chain.build(world.messages())
        if world.chance.random() < 0.1:
            world.restart_something()
        for _ in range(world.chance.randrange(3)):
            world.turn()

    world.faults = 0.0
    for _ in range(3 * AGAIN_BLOCKS + len(world.enclave.egress)):
        world.turn()
        world.chain.build([])
    world.turn()

    every = [body for bodies in world.chain.bodies.values() for body in bodies]
    assert world.enclave.height == world.chain.head.number
    assert world.enclave.registered
    assert sorted(world.enclave.applied) == sorted(every)
    assert world.chain.taken == list(range(len(world.enclave.egress)))


def test_a_worker_at_rest_is_asked_and_left_alone() -> None:
    world = World(random.Random(0), faults=0.0)
    for _ in range(8):
        world.chain.build([])
        world.turn()

    report = world.turn()

    assert report is not None
    assert not report.carried
    assert not report.registering
    assert report.submitted == 0
    assert world.chain.pool == []


def test_a_long_absence_is_caught_up_in_feeds_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(random.Random(0), faults=0.0)
    monkeypatch.setattr(feed_module, "FEED_BYTES_MAX", 4_000)
    for _ in range(40):
        world.chain.build([(SYSTEM_TOPIC, b"policy" * 20)] * 3)

    report = world.turn()

    assert report is not None
    assert world.enclave.height == world.chain.head.number
    assert len(world.enclave.applied) == 120


def deploying(count: int, block: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (TOPIC, deployment(CodeId(blake2_256(block + b"%d" % number)))) for number in range(count)
    ]


def test_many_deployments_are_fed_block_by_block_and_those_of_one_block_together() -> None:
    chain = Chain()
    chain.build(deploying(10, b"one"))
    chain.build(deploying(CODES_MAX + 20, b"two"))
    chain.build(deploying(1, b"three"))
    enclave = Enclave(chain, counts={SYSTEM_TOPIC: 0, TOPIC: 0})
    fed = []

    def feed() -> Advance:
        steps = build_feed(enclave.status(), chain.head, Wish({SYSTEM_TOPIC: Count(0), **known()}))
        reply: Any = None
        try:
            while True:
                reply = chain.answer(steps.send(reply))
        except StopIteration as done:
            found: Advance = done.value
            return found

    def known() -> dict[bytes, Count]:
        return {TOPIC: Count(enclave.counts[TOPIC])}

    while enclave.height < chain.head.number:
        found = feed()
        enclave.height = int(found.headers[-1].header)
        enclave.counts[TOPIC] += sum(len(batch.envelopes) for batch in found.batches)
        fed.append((enclave.height, enclave.counts[TOPIC]))

    assert fed == [(1, 10), (2, 10 + CODES_MAX + 20), (3, 10 + CODES_MAX + 20 + 1)]


def test_a_feed_has_room_for_the_codes_of_any_block() -> None:
    weight = dispatch_info(PhalaPhatContracts.deploy).weight.ref_time + BASE_REF_TIME

    assert NORMAL_REF_TIME_MAX // weight <= FEED_CODES_MAX


def test_more_messages_than_a_batch_holds_travel_in_several() -> None:
    world = World(random.Random(0), faults=0.0)
    world.chain.build([(SYSTEM_TOPIC, b"policy")] * (BATCH_ITEMS_MAX + 5))

    world.turn()

    assert len(world.enclave.applied) == BATCH_ITEMS_MAX + 5


def test_what_the_chain_lost_is_given_to_it_again() -> None:
    world = World(random.Random(0), faults=0.0)
    world.chain.build([])
    world.turn()
    assert len(world.chain.pool) == 1
    world.chain.pool.clear()

    for _ in range(AGAIN_BLOCKS):
        world.chain.build([])
        world.turn()

    assert len(world.chain.pool) == 1


def test_evidence_that_is_due_is_renewed_without_haste() -> None:
    world = World(random.Random(0), faults=0.0)
    for _ in range(3):
        world.chain.build([])
        world.turn()
    assert world.enclave.registered
    before = world.enclave.attested

    world.enclave.due = True
    for _ in range(RENEWAL_BLOCKS + 1):
        world.chain.build([])
        world.turn()
    assert world.enclave.attested == before + 2

    world.enclave.due = False
    for _ in range(RENEWAL_BLOCKS + 1):
        world.chain.build([])
        world.turn()
    assert world.enclave.attested == before + 2


def test_a_worker_of_another_chain_is_refused() -> None:
    world = World(random.Random(0), faults=0.0)
    world.chain.build([])

    with pytest.raises(Refused, match="follows chain"):
        perform(work_round(Errand(block_hash(1)), world.chain.head, Memory()), world)


def test_nonsense_of_the_worker_ends_the_round_alone() -> None:
    steps = work_round(Errand(GENESIS), Head(BlockNumber(1), GENESIS), Memory())
    next(steps)

    with pytest.raises(Unavailable, match="answered EgressReply"):
        steps.send(EgressReply(()))
