"""Topics and sequences: what the state keeps is what light clients expect, under their keys."""

from dataclasses import replace

import pytest

from phala.crypto.signatures import sr25519_from_seed, sr25519_sign
from phala.errors import PhalaError
from phala.frame import BadOrigin, Block, PalletError, Root, Unsigned
from phala.messages.bus import (
    ENVELOPE,
    ENVELOPE_VERSION,
    HEADS_EVERY,
    TOPIC_STATE,
    PalletSender,
    first_head,
    ingress_key,
    next_head,
    topic_key,
)
from phala.messages.formats import (
    FORMATS,
    FORMATS_KEY,
    NEXT_FORMATS,
    NEXT_FORMATS_KEY,
    NOTICE_BLOCKS,
    PRESENT,
    NextFormats,
)
from phala.messages.payloads.enclave import (
    EGRESS_BODY,
    ContractFailed,
    EgressBody,
    EnclaveMessage,
    SignedMessage,
)
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.state import STATE_VERSION
from phala.messages.types import ContractId, Count, Signature64, WorkerId
from phala.pallets.mq import (
    FormatsAnnounced,
    FormatsChanged,
    MessageQueued,
    MessageRefused,
    NotSignedByWorker,
    OtherChain,
    PhalaMq,
    SequencePassed,
    SequenceTooFar,
    TooSoon,
    UnknownVersion,
    UnknownWorker,
)
from phala.primitives.types import BlockNumber, Hash, Moment
from phala.testing.pallets import refused

GENESIS = Hash(b"g" * 32)
NOW = Moment(1_800_000_000_000)
PAIR = sr25519_from_seed(b"w" * 32)
WORKER = WorkerId(PAIR.public)
SENDER = PalletSender(b"Test")


class NotToday(PalletError):
    """It is not the day: come back later."""


class Around:
    """What the queue needs of others."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.registered = {WORKER}
        self.heard: list[EnclaveMessage] = []
        self.refusal: PhalaError | None = None

    def genesis_hash(self) -> Hash:
        return GENESIS

    def time(self) -> Moment:
        return NOW

    def is_registered(self, worker: WorkerId) -> bool:
        return worker in self.registered

    def handle(self, worker: WorkerId, message: EnclaveMessage) -> None:
        assert worker == WORKER
        self.block.state.put(b"handled", b"yes")
        if self.refusal is not None:
            raise self.refusal
        self.heard.append(message)


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(7))


@pytest.fixture
def around(block: Block) -> Around:
    return Around(block)


@pytest.fixture
def mq(block: Block, around: Around) -> PhalaMq:
    return PhalaMq(block, chain=around, clock=around, workers=around, handler=around)


def message(sequence: int, *, version: int = 1, genesis: Hash = GENESIS) -> SignedMessage:
    said = ContractFailed(ContractId(b"c" * 32))
    body = EgressBody(version, genesis, WORKER, sequence, said)
    signed = signed_bytes(Purpose.EGRESS, GENESIS, EGRESS_BODY.encode(body))
    return SignedMessage(body, Signature64(sr25519_sign(PAIR, signed)))


def test_a_topic_is_a_hash_chain_under_the_key_that_clients_prove(
    mq: PhalaMq, block: Block
) -> None:
    assert [mq.push(b"topic", SENDER, bytes([n])) for n in range(3)] == [0, 1, 2]

    head = first_head(GENESIS, b"topic")
    for topic, count, envelope in block.messages:
        assert (topic, ENVELOPE.decode(envelope).index) == (b"topic", count)
        head = next_head(head, envelope)
    stored = block.state.get(topic_key(b"topic"))
    assert stored is not None
    state = TOPIC_STATE.decode(stored)
    assert (state.count, state.head) == (3, head)
    assert block.events == [MessageQueued(b"topic", Count(n)) for n in range(3)]


def test_every_so_many_counts_a_head_is_kept(mq: PhalaMq, block: Block) -> None:
    for _ in range(HEADS_EVERY + 1):
        mq.push(b"topic", SENDER, b"")
    mq.push(b"other", SENDER, b"")

    head = first_head(GENESIS, b"topic")
    for _, _, envelope in block.messages[:HEADS_EVERY]:
        head = next_head(head, envelope)
    assert mq.heads.get(b"topic", Count(HEADS_EVERY)) == head
    assert mq.heads.get(b"topic", Count(HEADS_EVERY + 1)) is None


def test_an_undone_call_takes_its_messages_back(mq: PhalaMq, block: Block) -> None:
    mq.push(b"topic", SENDER, b"kept")
    mark = block.begin()
    mq.push(b"topic", SENDER, b"undone")

    block.rollback(mark)

    assert mq.push(b"topic", SENDER, b"second") == 1
    assert [count for _, count, _ in block.messages] == [0, 1]


def test_a_message_is_handed_on_and_the_next_is_awaited(
    mq: PhalaMq, around: Around, block: Block
) -> None:
    mq.sync_offchain_message(Unsigned(), message(0))

    assert len(around.heard) == 1
    assert block.state.get(ingress_key(WORKER)) == (1).to_bytes(8, "little")


def test_a_message_that_its_handler_refuses_is_passed_over(
    mq: PhalaMq, around: Around, block: Block
) -> None:
    around.refusal = NotToday()
    mq.sync_offchain_message(Unsigned(), message(0))

    assert block.events == [MessageRefused(WORKER, 0, "NotToday")]
    assert block.state.get(b"handled") is None
    around.refusal = None
    mq.sync_offchain_message(Unsigned(), message(1))
    assert len(around.heard) == 1


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (message(0, version=2), UnknownVersion),
        (message(0, genesis=Hash(bytes(32))), OtherChain),
        (message(1), SequenceTooFar),
        (message(100), SequenceTooFar),
        (SignedMessage(message(0).body, Signature64(bytes(64))), NotSignedByWorker),
        (SignedMessage(message(0).body, message(1).signature), NotSignedByWorker),
    ],
)
def test_a_message_that_fails_a_check_changes_nothing(
    mq: PhalaMq, block: Block, said: SignedMessage, error: type[PalletError]
) -> None:
    with refused(error, block):
        mq.sync_offchain_message(Unsigned(), said)


def test_a_message_counts_once(mq: PhalaMq, block: Block) -> None:
    mq.sync_offchain_message(Unsigned(), message(0))

    with refused(SequencePassed, block):
        mq.sync_offchain_message(Unsigned(), message(0))


def test_a_worker_that_is_not_registered_is_not_heard(
    mq: PhalaMq, around: Around, block: Block
) -> None:
    around.registered.clear()

    with refused(UnknownWorker, block):
        mq.sync_offchain_message(Unsigned(), message(0))


def test_how_far_ahead_a_message_is_is_told_to_the_pool(mq: PhalaMq) -> None:
    assert [mq.check(message(n)) for n in (0, 1, 64)] == [0, 1, 64]
    with pytest.raises(SequenceTooFar):
        mq.check(message(65))


def test_other_formats_are_announced_a_day_before_they_are_written(block: Block) -> None:
    around = Around(block)
    mq = PhalaMq(block, chain=around, clock=around, workers=around, handler=around)
    others = replace(PRESENT, envelope=2)
    first = BlockNumber(7 + NOTICE_BLOCKS)

    with refused(TooSoon, block):
        mq.announce_formats(Root(), others, BlockNumber(first - 1))
    with refused(BadOrigin, block):
        mq.announce_formats(Unsigned(), others, first)
    mq.announce_formats(Root(), others, first)

    assert block.state.get(NEXT_FORMATS_KEY) == NEXT_FORMATS.encode(NextFormats(others, first))
    for number, expected in ((first - 1, PRESENT), (first, others), (first + 1, others)):
        block.number = BlockNumber(number)
        mq.on_initialize()
        assert mq.formats.get() == expected
    assert block.state.get(FORMATS_KEY) == FORMATS.encode(others)
    assert block.state.get(NEXT_FORMATS_KEY) is None
    assert block.events == [FormatsAnnounced(others, first), FormatsChanged(others)]


def test_the_versions_in_use_are_those_that_are_written() -> None:
    assert PRESENT.envelope == ENVELOPE_VERSION
    assert PRESENT.state == STATE_VERSION
