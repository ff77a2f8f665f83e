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
    FEED_CODES_MAX,
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
CODES_MAX: Final = (
    64  # of one feed, 16 MiB; more only where one block deploys more: those fit a block
)
CODES_ASKED_MAX: Final = 16  # at once: 8 MiB as hex, of 15 that a node answers
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
        earlier = _fitting(backlogs)
        if earlier is None:
            codes = yield from _codes(target, backlogs, wish.codes)
            return Advance(headers, tuple(proof), _batches(backlogs), codes)
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


def _fitting(backlogs: Sequence[Backlog]) -> BlockNumber | None:
    """The block to stop at where a feed does not hold all: it has none of that in part."""
    cut = [backlog.envelopes[-1:] for backlog in backlogs if not backlog.complete]
    beyond = [_opened(last).block for some in cut for last in some]
    deployed = sorted(_deployed(backlogs))
    codes: dict[CodeId, None] = {}
    for block, code in deployed:
        codes[code] = None
        if len(codes) > CODES_MAX and block > deployed[0][0]:
            beyond.append(block)
            break
    if all(backlog.complete for backlog in backlogs) and not beyond:
        return None
    return BlockNumber(min(beyond, default=0) - 1)


def _codes(
    target: Head, backlogs: Sequence[Backlog], wanted: Sequence[CodeId]
) -> Steps[tuple[bytes, ...]]:
    """Sources that deployments among the envelopes name."""
    deployed = (code for _, code in _deployed(backlogs))
    ids = list(dict.fromkeys([*wanted, *deployed]))[:FEED_CODES_MAX]
    found: list[bytes | None] = []
    for at in range(0, len(ids), CODES_ASKED_MAX):
        keys = tuple(code_key(each) for each in ids[at : at + CODES_ASKED_MAX])
        found += yield FetchValues(target.hash, keys)
    return tuple(_code(value) for value in found if value is not None)


def _deployed(backlogs: Sequence[Backlog]) -> Generator[tuple[BlockNumber, CodeId], None, None]:
    """What is deployed, and in which block."""
    for backlog in backlogs:
        for data in backlog.envelopes:
            if backlog.topic.startswith(b"cluster/") and len(data) < CODE_BYTES_MAX:
                envelope = _opened(data)
                try:
                    payload = CLUSTER_PAYLOAD.decode(envelope.payload)
                except Malformed:
                    continue  # of a later version, or nonsense: the enclave judges it
                if isinstance(payload, ContractDeployed):
                    yield envelope.block, payload.code_id


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
