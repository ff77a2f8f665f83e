"""What queries see: the last committed step, as values that no later step alters."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from phala.crypto.secret import Secret
from phala.enclave import light
from phala.enclave.clusters.keys import root_key
from phala.enclave.clusters.members import key_of
from phala.enclave.dispatch import cluster_of
from phala.enclave.ports import Changes
from phala.enclave.records import (
    CLUSTER_KEYS,
    CODES,
    CONTRACTS,
    EPOCHS,
    FINALIZED,
    LIGHT,
    MEMBERSHIPS,
    NO_KEYS,
    NOWHERE,
    OUTSIDE,
    TOPICS,
    Contract,
    EpochKeys,
    Finalized,
    Membership,
)
from phala.enclave.store import STATE_MARK, Store
from phala.messages.bus import SYSTEM_TOPIC, TopicState, cluster_topic, first_head
from phala.messages.types import ClusterId, ContractId, Count
from phala.primitives.types import Hash


@dataclass(frozen=True, slots=True)
class Live:
    """A contract, ready to be asked."""

    contract: Contract
    source: bytes
    root: Hash
    member: Membership
    root_key: Secret | None  # of the cluster's newest generation that this worker was given


@dataclass(frozen=True, slots=True)
class View:
    head: light.LightHead
    finalized: Finalized
    topics: Mapping[bytes, TopicState]
    contracts: Mapping[ContractId, Live]
    epochs: EpochKeys

    def topic_of(self, cluster: ClusterId) -> TopicState:
        """Of a cluster that a contract here is in, so it is followed."""
        return self.topics[cluster_topic(cluster)]


def whole(store: Store, start: light.LightHead) -> View:
    """At the start. Looks at everything."""
    data = store.data
    kept = LIGHT.get(data)
    system = TopicState(Count(0), first_head(start.genesis, SYSTEM_TOPIC))
    return View(
        head=start if kept is None else light.decode(kept),
        finalized=FINALIZED.get(data) or replace(NOWHERE, hash=start.hash),
        topics=MappingProxyType({SYSTEM_TOPIC: system, **dict(TOPICS.items(data))}),
        contracts=MappingProxyType(
            {
                ContractId(name): _live(store, ContractId(name), contract)
                for name, contract in CONTRACTS.items(data)
            }
        ),
        epochs=EPOCHS.get(data) or NO_KEYS,
    )


def after(view: View, store: Store, changes: Changes) -> View:
    """The view once `changes` are in the store. Costs what they touch."""
    data = store.data
    topics = dict(view.topics)
    touched: dict[ContractId, None] = {}
    clusters: dict[ClusterId, None] = {}
    for key in changes:
        mark, rest = key[:1], key[1:]
        if mark == TOPICS.mark:
            found = TOPICS.get(data, rest)
            if found is not None:
                topics[rest] = found
        elif mark in (STATE_MARK, CONTRACTS.mark):
            touched[ContractId(rest[:32])] = None
        elif mark in (CLUSTER_KEYS.mark, MEMBERSHIPS.mark):
            clusters[ClusterId(rest[:32])] = None
    for name, live in view.contracts.items():
        if live.contract.cluster in clusters:
            touched[name] = None
    contracts = view.contracts
    if touched:
        updated = dict(contracts)
        for name in touched:
            contract = CONTRACTS.get(data, name)
            if contract is not None:
                updated[name] = _live(store, name, contract)
        contracts = MappingProxyType(updated)
    kept = LIGHT.get(data) if LIGHT.mark in changes else None
    return View(
        head=view.head if kept is None else light.decode(kept),
        finalized=FINALIZED.get(data) or view.finalized,
        topics=MappingProxyType(topics),
        contracts=contracts,
        epochs=EPOCHS.get(data) or NO_KEYS,
    )


def _live(store: Store, name: ContractId, contract: Contract) -> Live:
    data = store.data
    member = MEMBERSHIPS.get(data, contract.cluster) or OUTSIDE
    key = key_of(data, contract.cluster, member.generation)
    if key is None:
        key = key_of(data, contract.cluster, member.previous)
    return Live(
        contract=contract,
        source=CODES.get(data, contract.code_id) or b"",
        root=store.state_of(name).trie.root,
        member=member,
        root_key=None if key is None else root_key(key),
    )


def clusters_of(view: View) -> tuple[ClusterId, ...]:
    return tuple(cluster_of(topic) for topic in view.topics if topic.startswith(b"cluster/"))
