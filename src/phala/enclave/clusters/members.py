"""This worker's place in a cluster: since when, which generation, and the key of it."""

from dataclasses import replace

from phala.crypto import bls, hpke
from phala.crypto.secret import Secret
from phala.enclave.clusters.keys import (
    cluster_key,
    command_public,
    signing_pair,
    verify_combined,
)
from phala.enclave.clusters.turn import Turn
from phala.enclave.gatekeeper.duty import period_key
from phala.enclave.records import (
    CLUSTER_KEYS,
    CONTRACT_LIVE,
    CONTRACTS,
    EPOCHS,
    GROUPS,
    MEMBERSHIPS,
    NO_KEYS,
    OUTSIDE,
    PARTIALS,
    Contract,
    Membership,
    Partial,
)
from phala.enclave.step import Step
from phala.enclave.store import Readable
from phala.errors import Invalid
from phala.messages.payloads.cluster import (
    GenerationRaised,
    PartialGiven,
    WorkerAdded,
    partial_info,
)
from phala.messages.payloads.enclave import ContractKeyAnnounced
from phala.messages.types import ClusterId, ContractId, Generation
from phala.primitives.types import BlockNumber


def generation_key(cluster: ClusterId, generation: Generation) -> bytes:
    return cluster + generation.to_bytes(4, "big")


def membership(state: Readable, cluster: ClusterId) -> Membership:
    return MEMBERSHIPS.get(state, cluster) or OUTSIDE


def key_of(state: Readable, cluster: ClusterId, generation: Generation) -> Secret | None:
    """The cluster's key of a generation, if this worker was given it."""
    return CLUSTER_KEYS.get(state, generation_key(cluster, generation))


def worker_added(step: Step, turn: Turn, payload: WorkerAdded) -> None:
    if payload.worker != step.identity.worker:
        return
    own = replace(membership(step.state, turn.cluster), serves=True, generation=payload.generation)
    MEMBERSHIPS.put(step.state, own, turn.cluster)


def missed(step: Step, turn: Turn, what: str) -> None:
    """A step of the topic could not be executed here: this replica is no longer the others' equal,
    and says so instead of answering wrongly. It needs a snapshot of a peer."""
    own = membership(step.state, turn.cluster)
    MEMBERSHIPS.put(step.state, replace(own, whole=False), turn.cluster)
    step.skip(f"count {turn.count} of {turn.cluster.hex()} was missed: {what}")


def partial_given(step: Step, turn: Turn, payload: PartialGiven) -> None:
    """A gatekeeper's partial. With enough of them the cluster's key is made.

    1. It is for this worker, and for a generation that has no key here yet.
    2. The period has a group key, as the chain said on `system`.
    3. It opens with a key of this worker, for this chain, cluster, generation and share.
    4. The combined signature is the group's over this cluster and generation.
    """
    genesis, generation = step.identity.genesis, payload.generation
    place = generation_key(turn.cluster, generation)
    if payload.worker != step.identity.worker or CLUSTER_KEYS.get(step.state, place):  # 1
        return
    group = GROUPS.get(step.state, period_key(payload.period))
    if group is None or not group.public:  # 2
        step.skip(f"a partial of period {payload.period}, which has no group key")
        return
    try:
        info = partial_info(genesis, turn.cluster, generation, payload.index)
        signature = _opened(step, payload.sealed, info)  # 3
        if group.threshold == 1:
            verify_combined(
                group.public, genesis, turn.cluster, generation, Secret(signature), payload.index
            )
        held = {each.index: each.signature for each in PARTIALS.get(step.state, place) or ()}
        held[payload.index] = signature
        if len(held) < group.threshold:
            PARTIALS.put(step.state, tuple(Partial(*each) for each in sorted(held.items())), place)
            return
        combined = bls.combine(held, threshold=group.threshold)
        verify_combined(group.public, genesis, turn.cluster, generation, combined)  # 4
    except Invalid as error:
        step.skip(f"the partial of share {payload.index} is refused: {error.what}")
        return
    PARTIALS.delete(step.state, place)
    key = cluster_key(combined, genesis, turn.cluster, generation)
    CLUSTER_KEYS.put(step.state, key, place)
    announce_all(step, turn.cluster, generation, key)


def _opened(step: Step, sealed: bytes, info: bytes) -> bytes:
    """It was encrypted to whichever key the chain listed when it was due."""
    keys = EPOCHS.get(step.state) or NO_KEYS
    for key in (keys.current, keys.pending, keys.previous):
        if key is not None:
            try:
                return hpke.open_sealed(key.secret, sealed, info)
            except Invalid:
                continue
    raise hpke.Unopenable(len(sealed))


def announce_all(step: Step, cluster: ClusterId, generation: Generation, key: Secret) -> None:
    """Contracts that lived before this generation get their public keys of it. Looks at all."""
    for name, contract in CONTRACTS.items(step.store.data):
        if (
            contract.cluster == cluster
            and contract.state == CONTRACT_LIVE
            and contract.announced < generation
        ):
            announce(step, ContractId(name), contract, generation, key)


def announce(
    step: Step, name: ContractId, contract: Contract, generation: Generation, key: Secret
) -> None:
    """Tell the chain a contract's public keys of a generation."""
    CONTRACTS.put(step.state, replace(contract, announced=generation), name)
    step.send(
        ContractKeyAnnounced(
            contract=name,
            generation=generation,
            command_key=command_public(key, name),
            signing_key=signing_pair(key, name).public,
        )
    )


def generation_raised(step: Step, turn: Turn, payload: GenerationRaised) -> None:
    """The old generation serves for the grace that the chain gives, then its key is erased."""
    own = membership(step.state, turn.cluster)
    if payload.generation <= own.generation:
        step.skip(f"generation {payload.generation} after {own.generation}")
        return
    CLUSTER_KEYS.delete(step.state, generation_key(turn.cluster, own.previous))
    raised = replace(
        own,
        generation=payload.generation,
        previous=own.generation,
        previous_until=BlockNumber(turn.block + payload.grace_blocks),
    )
    MEMBERSHIPS.put(step.state, raised, turn.cluster)


def erase_expired(step: Step, turn: Turn) -> None:
    """Called for each message of the topic: what a key opens must not outlive its grace."""
    own = membership(step.state, turn.cluster)
    if own.previous and turn.block > own.previous_until:
        CLUSTER_KEYS.delete(step.state, generation_key(turn.cluster, own.previous))
        MEMBERSHIPS.put(step.state, replace(own, previous=Generation(0)), turn.cluster)
