"""One feed: what brings an enclave from where it stands to a finalized block.

Nothing here is believed, and nothing has to be: the enclave checks all of it. What the node gives
wrong costs time.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from phala.codec import Bytes, Malformed
from phala.errors import Unavailable
from phala.messages.bus import (
    BATCH_ITEMS_MAX,
    ENVELOPE,
    TOPIC_STATE,
    Envelope,
    ingress_key,
    topic_key,
)
from phala.messages.host import (
    FEED_HEADERS_MAX,
    FEED_TOPICS_MAX,
    Advance,
    FinalizedHeader,
    StatusReply,
    TopicBatch,
)
from phala.messages.payloads.cluster import CLUSTER_PAYLOAD, ContractDeployed
from phala.messages.state import CODE_BYTES_MAX, TIMESTAMP_KEY, code_key, worker_key
from phala.messages.types import CodeId, Count
from phala.pherry.core.asks import (
    Ask,
    BlockAt,
    FetchBlock,
    FetchMessages,
    FetchState,
    FetchValues,
    Head,
    ProveFinality,
)
from phala.primitives.keys import storage_prefix
from phala.primitives.types import BlockNumber

T = TypeVar("T")

FEED_BYTES_MAX: Final = 24 * 1024 * 1024  # of envelopes; codes and proof fit beside them in a frame
SET_ID_KEY: Final = storage_prefix("Grandpa", "CurrentSetId")
CODE: Final = Bytes(bytes_max=CODE_BYTES_MAX)

Steps = Generator[Ask, Any, T]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the enclave follows, and what it asked for on top."""

    topics: dict[bytes, Count]
    codes: tuple[CodeId, ...] = ()


@dataclass(frozen=True, slots=True)
class Backlog:
    """Envelopes of one topic, from a count on."""

    topic: bytes
    start: Count
    envelopes: tuple[bytes, ...]
    complete: bool  # up to the count that the state has


def build_feed(status: StatusReply, head: Head, wish: Wish) -> Steps[Advance]:
    """The feed to `head`, or to an earlier block where that would be too large."""
    target = head
    while True:
        headers = yield from _headers(status, target)
        topics = list(wish.topics)  # what the enclave follows already comes first
        values = (
            *(topic_key(topic) for topic in topics),
            ingress_key(status.worker),
            worker_key(status.worker),
            TIMESTAMP_KEY,
        )
        proof, found = yield FetchState(target.hash, values)
        counts = [_count(value) for value in found[: len(topics)]]
        backlogs = yield from _backlogs(wish, topics, counts)
        if all(backlog.complete for backlog in backlogs):
            codes = yield from _codes(target, backlogs, wish.codes)
            return Advance(headers, tuple(proof), _batches(backlogs), codes)
        earlier = _last_whole_block(backlogs)
        if not status.height < earlier < target.number:
            raise Unavailable(
                f"one block holds more than a feed of {FEED_BYTES_MAX} bytes",
                mend="ask another node",
            )
        target = yield BlockAt(earlier)


def _headers(status: StatusReply, target: Head) -> Steps[tuple[FinalizedHeader, ...]]:
    """The target's header, and before it each one that changed the authority set."""
    before = yield FetchValues(status.block_hash, (SET_ID_KEY,))
    after = yield FetchValues(target.hash, (SET_ID_KEY,))
    headers: list[FinalizedHeader] = []
    if before != after:
        reached = status.height
        while len(headers) < FEED_HEADERS_MAX - 1:
            number, header = yield ProveFinality(BlockNumber(reached + 1))
            if not reached < number < target.number:
                break
            headers.append(header)
            reached = number
    headers.append((yield FetchBlock(target.hash)))
    return tuple(headers)


def _backlogs(wish: Wish, topics: Sequence[bytes], counts: Sequence[Count]) -> Steps[list[Backlog]]:
    """Bodies for each topic, as many as a feed carries."""
    left_bytes, left_batches = FEED_BYTES_MAX, FEED_TOPICS_MAX - len(topics)
    backlogs = []
    for topic, count in zip(topics, counts, strict=True):
        start = wish.topics[topic]
        got: list[bytes] = []
        while start + len(got) < count and left_bytes > 0 and left_batches > 0:
            limit = min(BATCH_ITEMS_MAX, count - start - len(got))
            some = yield FetchMessages(topic, Count(start + len(got)), limit)
            if not some:
                raise Unavailable(
                    f"the node has no bodies from {start + len(got)} of {topic!r}",
                    mend="ask a node that keeps them",
                )
            got += some[:limit]
            left_bytes -= sum(len(envelope) for envelope in some)
            left_batches -= 1
        backlogs.append(Backlog(topic, start, tuple(got), complete=start + len(got) >= count))
    return backlogs


def _batches(backlogs: Sequence[Backlog]) -> tuple[TopicBatch, ...]:
    return tuple(
        TopicBatch(
            backlog.topic,
            Count(backlog.start + at),
            backlog.envelopes[at : at + BATCH_ITEMS_MAX],
        )
        for backlog in backlogs
        for at in range(0, len(backlog.envelopes), BATCH_ITEMS_MAX)
    )


def _last_whole_block(backlogs: Sequence[Backlog]) -> BlockNumber:
    """The last block of which no message is missing."""
    cut = [backlog.envelopes[-1:] for backlog in backlogs if not backlog.complete]
    blocks = [_opened(last).block - 1 for some in cut for last in some]
    return BlockNumber(min(blocks, default=-1))


def _codes(
    target: Head, backlogs: Sequence[Backlog], wanted: Sequence[CodeId]
) -> Steps[tuple[bytes, ...]]:
    """Sources that deployments among the envelopes name."""
    ids = list(dict.fromkeys([*wanted, *_deployed(backlogs)]))[:FEED_TOPICS_MAX]
    if not ids:
        return ()
    found = yield FetchValues(target.hash, tuple(code_key(each) for each in ids))
    return tuple(_code(value) for value in found if value is not None)


def _deployed(backlogs: Sequence[Backlog]) -> Generator[CodeId, None, None]:
    for backlog in backlogs:
        for envelope in backlog.envelopes:
            if backlog.topic.startswith(b"cluster/") and len(envelope) < CODE_BYTES_MAX:
                try:
                    payload = CLUSTER_PAYLOAD.decode(_opened(envelope).payload)
                except Malformed:
                    continue  # of a later version, or nonsense: the enclave judges it
                if isinstance(payload, ContractDeployed):
                    yield payload.code_id


def _opened(envelope: bytes) -> Envelope:
    try:
        return ENVELOPE.decode(envelope)
    except Malformed as error:
        raise Unavailable(
            f"the node gave a broken message: {error.what}", mend="ask another node"
        ) from None


def _count(value: bytes | None) -> Count:
    """Nothing lies under a topic that has had no message."""
    if value is None:
        return Count(0)
    try:
        return TOPIC_STATE.decode(value).count
    except Malformed as error:
        raise Unavailable(
            f"the node gave a broken topic: {error.what}", mend="ask another node"
        ) from None


def _code(value: bytes) -> bytes:
    try:
        return CODE.decode(value)
    except Malformed as error:
        raise Unavailable(
            f"the node gave a broken source: {error.what}", mend="ask another node"
        ) from None
