"""What an enclave does about the `system` topic: seats, group keys, keys that are due."""

from dataclasses import replace

from phala.crypto import hpke
from phala.enclave.gatekeeper.shares import partial, take_seat
from phala.enclave.records import (
    CLUSTER_KEYS,
    DUES,
    DUES_MAX,
    GROUPS,
    MEMBERSHIPS,
    SEATS,
    TOPICS,
    Due,
    Group,
    Seat,
)
from phala.enclave.step import Step
from phala.errors import Invalid
from phala.messages.bus import TopicState, cluster_topic, first_head
from phala.messages.payloads.cluster import PartialGiven, key_message, partial_info
from phala.messages.payloads.enclave import GroupKeyAnnounced
from phala.messages.payloads.system import (
    GatekeeperAppointed,
    GroupKeySet,
    KeyDue,
    WorkerRemoved,
)
from phala.messages.types import ClusterId, Count


def period_key(period: int) -> bytes:
    return period.to_bytes(4, "big")


def appointed(step: Step, payload: GatekeeperAppointed) -> None:
    """All enclaves note the threshold; the one that is meant makes its share and serves."""
    key = period_key(payload.period)
    if GROUPS.get(step.state, key) is None:
        GROUPS.put(step.state, Group(payload.period, payload.threshold, b""), key)
    if payload.worker != step.identity.worker or SEATS.get(step.state) is not None:
        return
    seat = take_seat(payload, step.entropy)
    SEATS.put(step.state, seat)
    step.send(GroupKeyAnnounced(seat.period, seat.group_public))
    for due in DUES.get(step.state) or ():
        give(step, seat, due)


def group_key_set(step: Step, payload: GroupKeySet) -> None:
    """The chain's word on a period. A share of another key is worth nothing: it is dropped."""
    key = period_key(payload.period)
    group = GROUPS.get(step.state, key) or Group(payload.period, 1, b"")
    if group.public:
        step.skip(f"period {payload.period} has a group key already")
        return
    GROUPS.put(step.state, replace(group, public=payload.public), key)
    seat = SEATS.get(step.state)
    if seat is not None and seat.period == payload.period and seat.group_public != payload.public:
        SEATS.delete(step.state)
        step.skip(f"period {payload.period} has another group key than the one made here")


def key_due(step: Step, payload: KeyDue) -> None:
    """Remember it, for a gatekeeper may be appointed later; give the partial if one sits here."""
    due = Due(payload.cluster, payload.generation, payload.worker, payload.encryption_key)
    others = tuple(
        each
        for each in DUES.get(step.state) or ()
        if (each.cluster, each.worker) != (due.cluster, due.worker)
    )
    if len(others) >= DUES_MAX:
        step.skip(f"{DUES_MAX} keys are due already: the oldest is dropped")
        others = others[1:]
    DUES.put(step.state, (*others, due))
    if payload.worker == step.identity.worker:
        follow(step, payload.cluster)
    if seat := SEATS.get(step.state):
        give(step, seat, due)


def removed(step: Step, payload: WorkerRemoved) -> None:
    """Nothing is due to it any more; if it is this one, it serves no more and forgets the keys."""
    left = tuple(each for each in DUES.get(step.state) or () if each.worker != payload.worker)
    DUES.put(step.state, left)
    if payload.worker == step.identity.worker:
        for place, _ in CLUSTER_KEYS.items(step.store.data):
            CLUSTER_KEYS.delete(step.state, place)
        for cluster, own in MEMBERSHIPS.items(step.store.data):
            MEMBERSHIPS.put(step.state, replace(own, serves=False), cluster)


def follow(step: Step, cluster: ClusterId) -> None:
    """From its first message on."""
    topic = cluster_topic(cluster)
    if TOPICS.get(step.state, topic) is None:
        start = TopicState(Count(0), first_head(step.identity.genesis, topic))
        TOPICS.put(step.state, start, topic)


def give(step: Step, seat: Seat, due: Due) -> None:
    """Sign the cluster's name with the share, for the eyes of one worker."""
    genesis = step.identity.genesis
    message = key_message(genesis, seat.group_public, due.cluster, due.generation)
    info = partial_info(genesis, due.cluster, due.generation, seat.index)
    try:
        sealed = hpke.seal(due.encryption_key, partial(seat, message), info)
    except Invalid as error:
        step.skip(f"worker {due.worker.hex()} gets no partial: {error.what}")
        return
    step.send(
        PartialGiven(
            cluster=due.cluster,
            generation=due.generation,
            period=seat.period,
            index=seat.index,
            worker=due.worker,
            height=step.target.height,
            block_hash=step.target.hash,
            sealed=sealed,
        )
    )
