"""One round: look where the worker stands, and do what is due.

A round may end anywhere by an error, at either side: the next one starts by asking again. What is
kept between rounds (`Memory`) only spares repetition; losing it is harmless.
"""

from dataclasses import dataclass, field
from typing import Final, TypeVar

from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.messages.host import (
    Advanced,
    Attest,
    Attested,
    Egress,
    EgressReply,
    Failure,
    HostReply,
    HostRequest,
    Status,
    StatusReply,
    Wanted,
)
from phala.messages.payloads.enclave import SignedMessage
from phala.pherry.core.asks import Head, Submit, TellWorker
from phala.pherry.core.feed import Steps, Wish, build_feed
from phala.primitives.types import AccountId, Hash

R = TypeVar("R")

AGAIN_BLOCKS: Final = 4  # what the chain has not taken after these is given to it once more
RENEWAL_BLOCKS: Final = 100  # between two tries of a worker whose evidence still counts
WANTED_MAX: Final = 8  # answers to one feed that ask for more
FEEDS_MAX: Final = 64  # in one round
SUBMITS_MAX: Final = 64  # in one round


@dataclass(frozen=True, slots=True)
class Errand:
    """Whom pherry works for."""

    genesis: Hash
    operator: AccountId | None = None
    endpoints: tuple[str, ...] = ()


@dataclass(slots=True)
class Memory:
    """What was given to the node, and at which height."""

    messages: dict[int, int] = field(default_factory=dict)  # sequence -> height
    registered_at: int | None = None

    def forget(self) -> None:
        """The node was away: when it restarts it has lost its pool."""
        self.messages.clear()
        self.registered_at = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a round did."""

    status: StatusReply
    carried: int | None  # messages that the worker took; None: no new block
    registering: bool
    submitted: int  # messages that the node was given
    refusals: tuple[str, ...]


def work_round(errand: Errand, head: Head, memory: Memory) -> Steps[Report]:
    """Catch up, register, carry messages out.

    Raises:
        Refused: worker and node are of two chains; or the worker refused.
        Unavailable: a side answered nonsense.
    """
    status = yield from _tell(Status(), StatusReply)
    if status.genesis != errand.genesis:
        raise Refused(
            f"the worker follows chain 0x{status.genesis.hex()}, "
            f"the node has 0x{errand.genesis.hex()}",
            mend="give pherry a node and a worker of one chain",
        )
    carried = None
    for _ in range(FEEDS_MAX):
        if status.height >= head.number:
            break
        carried = (carried or 0) + (yield from _advance(status, head))
        before, status = status, (yield from _tell(Status(), StatusReply))
        if status.height <= before.height:
            raise Unavailable("the worker does not advance", mend="see the worker's log")
    registering, refusals = yield from _register(errand, status, head, memory)
    submitted, more = yield from _carry_out(head, memory)
    return Report(status, carried, registering, submitted, (*refusals, *more))


def _advance(status: StatusReply, head: Head) -> Steps[int]:
    """How many messages the worker took."""
    wish = Wish({followed.topic: followed.count for followed in status.topics})
    for _ in range(WANTED_MAX):
        feed = yield from build_feed(status, head, wish)
        reply = yield from _ask(feed)
        match reply:
            case Advanced():
                return sum(len(batch.envelopes) for batch in feed.batches)
            case Wanted(topics, codes):
                added = {followed.topic: followed.count for followed in topics}
                wish = Wish({**wish.topics, **added}, (*wish.codes, *codes))
            case _:
                raise _nonsense(reply)
    raise Unavailable(f"the worker wanted more {WANTED_MAX} times", mend="see the worker's log")


def _register(
    errand: Errand, status: StatusReply, head: Head, memory: Memory
) -> Steps[tuple[bool, tuple[str, ...]]]:
    if status.registered and not status.due:
        memory.registered_at = None
        return False, ()
    again = RENEWAL_BLOCKS if status.registered else AGAIN_BLOCKS
    if memory.registered_at is not None and head.number < memory.registered_at + again:
        return False, ()
    attested = yield from _tell(Attest(errand.operator, errand.endpoints), Attested)
    refusal = yield Submit(attested.registration)
    memory.registered_at = head.number
    return True, () if refusal is None else (f"registration: {refusal}",)


def _carry_out(head: Head, memory: Memory) -> Steps[tuple[int, tuple[str, ...]]]:
    reply = yield from _tell(Egress(), EgressReply)
    memory.messages = {
        message.body.sequence: memory.messages[message.body.sequence]
        for message in reply.messages
        if message.body.sequence in memory.messages
    }
    refusals = []
    due = [message for message in reply.messages if _is_due(message, head, memory)]
    due.sort(key=lambda message: message.body.sequence)
    for message in due[:SUBMITS_MAX]:
        refusal = yield Submit(message)
        memory.messages[message.body.sequence] = head.number
        if refusal is not None:
            refusals.append(f"message {message.body.sequence}: {refusal}")
    return len(due[:SUBMITS_MAX]), tuple(refusals)


def _is_due(message: SignedMessage, head: Head, memory: Memory) -> bool:
    given_at = memory.messages.get(message.body.sequence)
    return given_at is None or head.number >= given_at + AGAIN_BLOCKS


def _ask(request: HostRequest) -> Steps[HostReply]:
    reply: HostReply = yield TellWorker(request)
    if isinstance(reply, Failure):
        raise _failure(reply)
    return reply


def _tell(request: HostRequest, kind: type[R]) -> Steps[R]:
    reply = yield from _ask(request)
    if not isinstance(reply, kind):
        raise _nonsense(reply)
    return reply


def _failure(failure: Failure) -> PhalaError:
    families: tuple[type[PhalaError], ...] = (Invalid, Refused, Unavailable)
    family = families[failure.family] if failure.family < len(families) else Unavailable
    return family(f"the worker: {failure.what}", mend=failure.mend or "see the worker's log")


def _nonsense(reply: object) -> Unavailable:
    return Unavailable(
        f"the worker answered {type(reply).__name__} to another question",
        mend="see the worker's log",
    )
