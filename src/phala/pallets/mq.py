"""PhalaMq: messages from the chain to enclaves, numbered in topics, and from enclaves to the chain.

Source: DESIGN §3. Envelopes, heads and keys are those of `messages.bus`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Protocol

from phala.codec import U64, Descriptor, Text
from phala.crypto.signatures import BadSignature, sr25519_verify
from phala.frame import (
    MICROSECOND,
    Block,
    Constant,
    DefaultMap,
    DispatchRefused,
    Hasher,
    Origin,
    Pallet,
    PalletError,
    Pays,
    StorageDoubleMap,
    StorageMap,
    StorageOption,
    StorageValue,
    call,
    ensure_root,
    ensure_unsigned,
    event,
)
from phala.messages.bus import (
    ENVELOPE,
    ENVELOPE_VERSION,
    HEADS_EVERY,
    PAYLOAD_BYTES_MAX,
    TOPIC,
    Envelope,
    Sender,
    TopicState,
    first_head,
    next_head,
)
from phala.messages.formats import (
    FORMATS,
    NEXT_FORMATS,
    NOTICE_BLOCKS,
    PRESENT,
    Formats,
    NextFormats,
)
from phala.messages.payloads.enclave import (
    EGRESS_BODY,
    EGRESS_VERSION,
    SIGNED_MESSAGE,
    EnclaveMessage,
    SignedMessage,
)
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.types import DESCRIPTORS, Count, WorkerId
from phala.primitives.types import BlockNumber, Hash, Moment

SEQUENCES_AHEAD_MAX: Final = 64  # how far a message may wait in the pool for those before it
REASON_BYTES_MAX: Final = 64


class UnknownVersion(PalletError):
    """The message is of another version: send version 1."""


class OtherChain(PalletError):
    """The message is for another chain: sign it with this genesis hash."""


class UnknownWorker(PalletError):
    """The worker is not registered: register it first."""


class SequencePassed(PalletError):
    """The worker's sequence is past this number: send the next one."""


class SequenceTooFar(PalletError):
    """Messages before this one are missing: send those first."""


class NotSignedByWorker(PalletError):
    """The worker's key did not sign this message: sign its body under the egress purpose."""


class TooSoon(PalletError):
    """Light clients need more notice: name a later block."""


@event
class MessageQueued:
    """A message was appended to a topic, as its `count`th from 0."""

    topic: Annotated[bytes, TOPIC]
    count: Count


@event
class MessageRefused:
    """A worker's message was taken and did nothing; the next one is awaited."""

    worker: WorkerId
    sequence: Annotated[int, U64]
    reason: Annotated[str, Text(bytes_max=REASON_BYTES_MAX)]


@event
class FormatsAnnounced:
    """What light clients read is written in other formats from that block on."""

    formats: Formats
    first: BlockNumber


@event
class FormatsChanged:
    """What light clients read is written in these formats from this block on."""

    formats: Formats


class Chain(Protocol):
    """Which chain this is."""

    def genesis_hash(self) -> Hash: ...


class Clock(Protocol):
    """The time of this block."""

    def time(self) -> Moment: ...


class Workers(Protocol):
    """Who is registered."""

    def is_registered(self, worker: WorkerId) -> bool: ...


class Handler(Protocol):
    """Who acts on what enclaves say."""

    def handle(self, worker: WorkerId, message: EnclaveMessage) -> None:
        """Raises `DispatchRefused`; then nothing happened."""
        ...


class PhalaMq(Pallet):
    """Messages between the chain and enclaves."""

    name = "PhalaMq"
    words: ClassVar[Mapping[Any, Descriptor[Any]]] = {**DESCRIPTORS, Formats: FORMATS}
    topics = StorageMap(
        Hasher.BLAKE2_128_CONCAT, TOPIC, TopicState, doc="A topic's length, and its chain's head."
    )
    heads = StorageDoubleMap(
        (Hasher.BLAKE2_128_CONCAT, Hasher.BLAKE2_128_CONCAT),
        (TOPIC, Count),
        Hash,
        doc="A topic's head at every 256th count, to check long batches.",
    )
    ingress: DefaultMap[WorkerId, int] = DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        WorkerId,
        U64,
        default=0,
        doc="The number of a worker's next message.",
    )

    formats: StorageValue[Formats] = StorageValue(
        FORMATS, default=PRESENT, doc="The formats of what light clients read."
    )
    next_formats = StorageOption(NEXT_FORMATS, doc="Those that follow, and from which block on.")

    def __init__(
        self, block: Block, *, chain: Chain, clock: Clock, workers: Workers, handler: Handler
    ) -> None:
        super().__init__(block)
        self.chain = chain
        self.clock = clock
        self.workers = workers
        self.handler = handler

    def on_initialize(self) -> int:
        following = self.next_formats.get()
        if following is not None and following.first <= self.block.number:
            self.formats.put(following.formats)
            self.next_formats.delete()
            self.emit(FormatsChanged(following.formats))
        return 20 * MICROSECOND

    def push(self, topic: bytes, sender: Sender, payload: bytes) -> Count:
        """Append a message. Returns its place in the topic, from 0."""
        assert len(payload) <= PAYLOAD_BYTES_MAX, "payloads are made of bounded parts"
        known = self.topics.get(topic)
        if known is None:
            known = TopicState(Count(0), first_head(self.chain.genesis_hash(), topic))
        block = self.block
        number = BlockNumber(block.number)
        index = len(block.messages)
        envelope = ENVELOPE.encode(
            Envelope(ENVELOPE_VERSION, number, index, self.clock.time(), sender, topic, payload)
        )
        count = Count(known.count + 1)
        head = next_head(known.head, envelope)
        self.topics.put(topic, TopicState(count, head))
        if count % HEADS_EVERY == 0:
            self.heads.put(topic, count, head)
        block.messages.append((topic, known.count, envelope))
        self.emit(MessageQueued(topic, known.count))
        return known.count

    def check(self, message: SignedMessage) -> int:
        """Whether a worker said this, now or soon. Returns how many messages come before it.

        Checks, in this order: 1 version, 2 genesis hash, 3 sequence not passed, 4 sequence not too
        far ahead, 5 the worker is registered, 6 its signature.
        """
        body = message.body
        if body.version != EGRESS_VERSION:  # 1
            raise UnknownVersion
        genesis = self.chain.genesis_hash()
        if body.genesis != genesis:  # 2
            raise OtherChain
        ahead = body.sequence - self.ingress.get(body.worker)
        if ahead < 0:  # 3
            raise SequencePassed
        if ahead > SEQUENCES_AHEAD_MAX:  # 4
            raise SequenceTooFar
        if not self.workers.is_registered(body.worker):  # 5
            raise UnknownWorker
        signed = signed_bytes(Purpose.EGRESS, genesis, EGRESS_BODY.encode(body))
        try:
            sr25519_verify(body.worker, signed, message.signature)  # 6
        except BadSignature:
            raise NotSignedByWorker from None
        return ahead

    @call(500 * MICROSECOND, pays_fee=Pays.NO)
    def sync_offchain_message(
        self, origin: Origin, message: Annotated[SignedMessage, SIGNED_MESSAGE]
    ) -> None:
        """Hand in what an enclave signed. What its handler refuses is recorded and passed over."""
        ensure_unsigned(origin)
        if self.check(message):
            raise SequenceTooFar
        body = message.body
        self.ingress.put(body.worker, body.sequence + 1)
        mark = self.block.begin()
        try:
            self.handler.handle(body.worker, body.message)
        except DispatchRefused as refusal:
            self.block.rollback(mark)
            reason = type(refusal).__name__[:REASON_BYTES_MAX]
            self.emit(MessageRefused(body.worker, body.sequence, reason))
        except BaseException:
            self.block.rollback(mark)
            raise
        else:
            self.block.commit()

    @call(50 * MICROSECOND)
    def announce_formats(self, origin: Origin, formats: Formats, first: BlockNumber) -> None:
        """Say which formats blocks are written in from `first` on, and have it so then.

        The release that writes them has to be in place by that block.
        """
        ensure_root(origin)
        if first < self.block.number + NOTICE_BLOCKS:
            raise TooSoon
        self.next_formats.put(NextFormats(formats, first))
        self.emit(FormatsAnnounced(formats, first))

    calls: ClassVar = {20: sync_offchain_message, 21: announce_formats}  # below: the original's
    events: ClassVar = {
        0: MessageQueued,
        1: MessageRefused,
        2: FormatsAnnounced,
        3: FormatsChanged,
    }
    errors: ClassVar = {
        0: UnknownVersion,
        1: OtherChain,
        2: UnknownWorker,
        3: SequencePassed,
        4: SequenceTooFar,
        5: NotSignedByWorker,
        6: TooSoon,
    }
    constants: ClassVar = (
        Constant("HeadsEvery", U64, HEADS_EVERY, "Counts between two kept heads."),
        Constant("NoticeBlocks", U64, NOTICE_BLOCKS, "How long other formats are announced for."),
    )
