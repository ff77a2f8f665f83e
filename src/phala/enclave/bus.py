"""From a feed of untrusted bytes to messages that the chain is proven to have ordered.

Everything is checked before anything is applied. So whatever the carrier drops, repeats, reorders
or alters, the enclave's state is as if it had not been sent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from typing import Final

from phala.codec import Malformed
from phala.enclave import light
from phala.enclave.clusters.deploy import wanted_code
from phala.enclave.records import Finalized
from phala.enclave.store import Readable
from phala.errors import Invalid, Refused
from phala.messages.bus import (
    ENVELOPE,
    ENVELOPE_VERSION,
    SYSTEM_TOPIC,
    TOPIC_STATE,
    Envelope,
    TopicState,
    cluster_topic,
    first_head,
    ingress_key,
    next_head,
    topic_key,
)
from phala.messages.calls import code_id
from phala.messages.host import (
    FEED_CODES_MAX,
    FEED_TOPICS_MAX,
    Advance,
    Followed,
    TopicBatch,
    Wanted,
)
from phala.messages.payloads.cluster import (
    CLUSTER_PAYLOAD,
    ClusterPayload,
    ContractDeployed,
    Skipped,
)
from phala.messages.payloads.system import SYSTEM_PAYLOAD, KeyDue, SystemPayload
from phala.messages.state import (
    REASON_FLOOR,
    REASON_POLICY,
    TIMESTAMP_KEY,
    WORKER_INFO,
    WORKER_STALE,
    WORKER_SUSPENDED,
    WORKER_VERSION,
    WorkerInfo,
    worker_key,
)
from phala.messages.types import CodeId, Count, Epoch, WorkerId
from phala.primitives.types import MOMENT, Hash, Moment
from phala.trie.proof import BadProof

RENEWAL_MS: Final = 84 * 60 * 60 * 1000  # half of the seven days that evidence counts at first


class NoHeaders(Invalid):
    """A feed without a block leads nowhere."""

    def __init__(self) -> None:
        super().__init__("the feed has no header", mend="put a newer finalized header into it")


class HeadMismatch(Invalid):
    """Envelopes are not those that the chain put into the topic."""

    def __init__(self, topic: bytes, count: int, found: Hash, proven: Hash) -> None:
        super().__init__(
            f"the envelopes of {topic!r} lead to the head 0x{found.hex()} at count {count}, "
            f"proven is 0x{proven.hex()}",
            mend="fetch the envelopes again, from another node if need be",
        )


class FeedBehind(Refused):
    """The feed's block is older than what the enclave has applied of a topic."""

    def __init__(self, topic: bytes, own: int, proven: int) -> None:
        super().__init__(
            f"{own} messages of {topic!r} are applied, the feed's block has {proven}",
            mend="feed a newer finalized block",
        )


@dataclass(frozen=True, slots=True)
class Message:
    """One step: an envelope at its place, and what it says, as far as it can be read."""

    topic: bytes
    state: TopicState  # of the topic, this message included
    block: int  # orders messages of all topics, with `index`
    index: int
    envelope: Envelope | None
    payload: SystemPayload | ClusterPayload | None
    why: str = ""  # there is no payload


@dataclass(frozen=True, slots=True)
class Feed:
    """A verified feed: where it leads, and the messages on the way, in order."""

    passed: light.Passed
    finalized: Finalized
    info: WorkerInfo | None
    messages: tuple[Message, ...]
    codes: Mapping[CodeId, bytes]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the enclave is, as far as the bus must know."""

    genesis: Hash
    worker: WorkerId
    runtime_id: Hash
    head: light.LightHead
    topics: Mapping[bytes, TopicState]
    state: Readable


def verify(own: Standing, feed: Advance) -> Feed | Wanted:
    """The feed's messages, or what must come with it.

    1. Headers: each justified by the authorities that its predecessors lead to.
    2. The proof shows time, this worker's registration and its next number in the last one's state.
    3. The proof shows count and head of each topic; the envelopes lead exactly there from where the
       enclave is.
    4. Topics that these messages open are there too, from their start.
    5. Codes are taken under their own hash alone.

    Raises:
        Invalid, Refused: a check failed. Nothing was applied.
    """
    if not feed.headers:
        raise NoHeaders
    passed = light.follow(own.head, feed.headers)  # 1
    head = passed.head
    finalized, info = _finalized(own, head, feed.proof)  # 2
    reader = _Topics(own, head, feed)
    messages: dict[bytes, tuple[Message, ...]] = {}
    due = list(own.topics)
    while due:
        topic = due.pop(0)
        messages[topic] = reader.read(topic)  # 3
        due += [
            each for each in _opened(own, messages[topic]) if each not in (*messages, *due)
        ]  # 4
    runs = [messages[topic] for topic in sorted(messages)]
    codes = _codes(own, runs, feed.codes)  # 5
    needed = tuple(code for code in _needed(own, runs) if code not in codes)[:FEED_CODES_MAX]
    if reader.wanted or needed:
        return Wanted(tuple(reader.wanted[:FEED_TOPICS_MAX]), needed)
    ordered = tuple(merge(*runs, key=lambda message: (message.block, message.index)))
    return Feed(passed, finalized, info, ordered, codes)


def _finalized(
    own: Standing, head: light.LightHead, proof: Sequence[bytes]
) -> tuple[Finalized, WorkerInfo | None]:
    worker, ingress = worker_key(own.worker), ingress_key(own.worker)
    found = light.read(head, proof, (TIMESTAMP_KEY, worker, ingress))
    info = None
    if (listed := found[worker]) is not None:
        info = WORKER_INFO.decode(listed)
        if info.version != WORKER_VERSION:
            raise Invalid(
                f"the chain lists workers in version {info.version}, known is {WORKER_VERSION}",
                mend="run a release that this chain allows",
            )
    time = found[TIMESTAMP_KEY]
    next_number = found[ingress]
    finalized = Finalized(
        height=head.number,
        hash=head.hash,
        time=MOMENT.decode(time) if time is not None else MOMENT.decode(bytes(8)),
        registered=info is not None and info.state != WORKER_SUSPENDED,
        ingress=int.from_bytes(next_number or b"", "little"),
        epoch=info.epoch if info else Epoch(0),
    )
    return replace(finalized, due=info is not None and _is_due(info, finalized.time)), info


def _is_due(info: WorkerInfo, now: Moment) -> bool:
    """Whether to attest again: half of the time is over that the chain gives at first, or what the
    evidence was judged by is to count no longer."""
    passed = info.state == WORKER_STALE and info.reason in (REASON_FLOOR, REASON_POLICY)
    return passed or now >= info.attested_at + RENEWAL_MS


class _Topics:
    """Reads topics of one feed; what is missing gathers in `wanted`."""

    def __init__(self, own: Standing, head: light.LightHead, feed: Advance) -> None:
        self.wanted: list[Followed] = []
        self._own = own
        self._head = head
        self._proof = feed.proof
        self._batches: dict[bytes, list[TopicBatch]] = {}
        for batch in sorted(feed.batches, key=lambda each: each.start):
            self._batches.setdefault(batch.topic, []).append(batch)

    def read(self, topic: bytes) -> tuple[Message, ...]:
        start = first_head(self._own.genesis, topic)
        at = self._own.topics.get(topic) or TopicState(Count(0), start)
        key = topic_key(topic)
        try:
            found = light.read(self._head, self._proof, (key,))[key]
        except BadProof:
            self.wanted.append(Followed(topic, at.count))
            return ()
        proven = TopicState(Count(0), start) if found is None else TOPIC_STATE.decode(found)
        if proven.count < at.count:
            raise FeedBehind(topic, at.count, proven.count)
        envelopes = list(self._envelopes(topic, at.count, proven.count))
        if len(envelopes) < proven.count - at.count:
            self.wanted.append(Followed(topic, at.count))
            return ()
        return self._verified(topic, at, envelopes, proven)

    def _envelopes(self, topic: bytes, start: int, end: int) -> Iterator[bytes]:
        """Those with counts from `start` to before `end`, each once; up to the first gap."""
        at = start
        for batch in self._batches.get(topic, ()):
            if batch.start > at:
                return
            for envelope in batch.envelopes[at - batch.start :]:
                if at == end:
                    return
                at += 1
                yield envelope

    def _verified(
        self, topic: bytes, at: TopicState, envelopes: list[bytes], proven: TopicState
    ) -> tuple[Message, ...]:
        states = []
        count, head = at.count, at.head
        for envelope in envelopes:
            count, head = Count(count + 1), next_head(head, envelope)
            states.append(TopicState(count, head))
        if head != proven.head:
            raise HeadMismatch(topic, count, head, proven.head)
        messages: list[Message] = []
        for state, envelope in zip(states, envelopes, strict=True):
            messages.append(_message(topic, state, envelope, messages[-1] if messages else None))
        passed = {each.payload.count for each in messages if isinstance(each.payload, Skipped)}
        return tuple(
            _passed_over(each) if each.state.count in passed else each for each in messages
        )


def _message(topic: bytes, state: TopicState, data: bytes, before: Message | None) -> Message:
    """What the chain wrote is read as far as this release can; the rest is passed over later."""
    block, index = (before.block, before.index) if before else (0, 0)
    try:
        envelope = ENVELOPE.decode(data)
    except Malformed as error:
        return Message(topic, state, block, index, None, None, f"no envelope: {error.what}")
    block, index = envelope.block, envelope.index
    if envelope.version != ENVELOPE_VERSION or envelope.topic != topic:
        why = f"an envelope of version {envelope.version} for {envelope.topic!r}"
        return Message(topic, state, block, index, envelope, None, why)
    try:
        kind = SYSTEM_PAYLOAD if topic == SYSTEM_TOPIC else CLUSTER_PAYLOAD
        payload = kind.decode(envelope.payload)
    except Malformed as error:
        return Message(topic, state, block, index, envelope, None, f"no payload: {error.what}")
    return Message(topic, state, block, index, envelope, payload)


def _passed_over(message: Message) -> Message:
    return Message(
        message.topic,
        message.state,
        message.block,
        message.index,
        message.envelope,
        None,
        "the chain passes it over",
    )


def _opened(own: Standing, messages: Sequence[Message]) -> Iterator[bytes]:
    """Topics that this worker is to follow from now on."""
    for message in messages:
        if isinstance(message.payload, KeyDue) and message.payload.worker == own.worker:
            yield cluster_topic(message.payload.cluster)


def _deployments(runs: Sequence[Sequence[Message]]) -> Iterator[ContractDeployed]:
    for messages in runs:
        for message in messages:
            if isinstance(message.payload, ContractDeployed):
                yield message.payload


def _needed(own: Standing, runs: Sequence[Sequence[Message]]) -> tuple[CodeId, ...]:
    """Code ids without which a deployment cannot be executed, each once."""
    found = (wanted_code(payload, own.runtime_id, own.state) for payload in _deployments(runs))
    return tuple(dict.fromkeys(code for code in found if code is not None))


def _codes(
    own: Standing, runs: Sequence[Sequence[Message]], offered: Sequence[bytes]
) -> dict[CodeId, bytes]:
    """What was offered and is needed, under the hash of runtime and source."""
    needed = _needed(own, runs)
    found = {code_id(own.runtime_id, source): source for source in offered}
    return {code: found[code] for code in needed if code in found}
