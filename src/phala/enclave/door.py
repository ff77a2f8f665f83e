"""The enclave: one method for each thing that the process around it may ask.

`advance` and `attest` change it and come one after the other. All else reads `view`, which is
replaced as a whole when a step has been kept, so it may run beside them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from phala.enclave import bus, light, view
from phala.enclave.clusters.commands import CommandRefused
from phala.enclave.clusters.members import generation_key
from phala.enclave.dispatch import Handlers
from phala.enclave.identity import Identity, accepted, offered
from phala.enclave.ports import (
    Devices,
    Engine,
    EngineResult,
    Entropy,
    Journal,
    NoDevices,
    Position,
)
from phala.enclave.query.door import Prepared, QueryDoor
from phala.enclave.records import (
    CLUSTER_KEYS,
    EGRESS,
    EGRESS_NEXT,
    EPOCHS,
    FINALIZED,
    LIGHT,
    MEMBERSHIPS,
    NO_KEYS,
    OFFERED,
    OFFERED_MAX,
    OUTCOMES,
    RECENT,
    RECENT_BLOCKS,
    REGISTRATION,
    Recent,
)
from phala.enclave.replies import Receipts
from phala.enclave.step import Step, Target, egress_key
from phala.enclave.store import Store
from phala.messages.host import (
    HOST_VERSION,
    Advance,
    Advanced,
    Answer,
    Attest,
    Attested,
    EgressReply,
    EvidenceReply,
    Followed,
    StatusReply,
    Wanted,
)
from phala.messages.registration import (
    ENCRYPTION_KEY,
    PURPOSE_REGISTER,
    REGISTRATION_VERSION,
    EncryptionKey,
    Evidence,
    Manifest,
    Registration,
    SignedRegistration,
    device_nonce,
    devices_digest,
    manifest_hash,
    report_data,
)
from phala.messages.registration import (
    REGISTRATION as REGISTRATION_BODY,
)
from phala.messages.signing import Purpose
from phala.messages.state import WorkerInfo
from phala.messages.types import CallId
from phala.primitives.types import Hash
from phala.tee.platform import Platform, ReportData

EGRESS_ITEMS_MAX: Final = 256  # of one answer


@dataclass(frozen=True, slots=True)
class About:
    """What an enclave says of itself."""

    runtime_id: Hash
    platform: int  # code of `messages.registration`
    software: int  # major << 16 | minor << 8 | patch
    cores: int


class Enclave:
    def __init__(
        self,
        *,
        identity: Identity,
        start: light.LightHead,
        store: Store,
        about: About,
        platform: Platform,
        engine: Engine,
        entropy: Entropy,
        journal: Journal,
        note: Callable[[str], None],
        devices: Devices | None = None,
    ) -> None:
        """`store` is what was kept, or empty; `note` hears what was passed over, no secrets."""
        assert start.genesis == identity.genesis, "the identity is of this chain"
        self.identity = identity
        self.about = about
        self.store = store
        self._platform = platform
        self._devices = devices or NoDevices()
        self._engine = engine
        self._entropy = entropy
        self._journal = journal
        self._note = note
        receipts = Receipts(identity, entropy)
        self._handlers = Handlers(engine, receipts, about.runtime_id)
        self._queries = QueryDoor(identity, receipts, entropy)
        self.view = view.whole(store, start)
        for name, live in self.view.contracts.items():
            topic = self.view.topic_of(live.contract.cluster)
            at = Position(topic.count, topic.head, live.root)
            engine.replace(name, store.state_of(name).values, at)

    # ---- what changes it

    def advance(self, feed: Advance) -> Advanced | Wanted:
        """Apply a feed, message by message; each is kept before the next.

        Raises:
            Invalid, Refused: the feed is not genuine, or no news. Nothing was applied.
            Unavailable: the engine or the disk gave up; what was applied before stays.
        """
        found = bus.verify(
            bus.Standing(
                genesis=self.identity.genesis,
                worker=self.identity.worker,
                runtime_id=self.about.runtime_id,
                head=self.view.head,
                topics=self.view.topics,
                state=self.store.data,
            ),
            feed,
        )
        if isinstance(found, Wanted):
            return found
        end = found.finalized
        target = Target(end.height, end.hash, end.ingress)
        for message in found.messages:
            step = self._step(target, found)
            self._handlers.apply(step, message)
            self._commit(step)
        self._commit(self._finalized(found, target))
        return Advanced(end.height, end.hash)

    def _step(self, target: Target, found: bus.Feed) -> Step:
        return Step(self.store, self.identity, self._entropy, target, found.codes)

    def _finalized(self, found: bus.Feed, target: Target) -> Step:
        """The last step of a feed: only now the enclave has reached its block."""
        step = self._step(target, found)
        before = self.view.finalized.ingress
        LIGHT.put(step.state, light.encode(found.passed.head))
        for number, block_hash in found.passed.hashes:
            RECENT.put(step.state, Recent(number, block_hash), _recent_key(number))
        for sequence in range(before, found.finalized.ingress):
            EGRESS.delete(step.state, egress_key(sequence))
        finalized = found.finalized
        if found.info is not None:
            keys = EPOCHS.get(step.state) or NO_KEYS
            accepted_keys = accepted(keys, found.info.encryption_key, found.finalized.height)
            if accepted_keys != keys:
                EPOCHS.put(step.state, accepted_keys)
            # With old files put back, what is listed may be unknown: then register again.
            known = _keep_accepted(step, found.info)
            listed = accepted_keys.current
            holds = listed is not None and listed.public == found.info.encryption_key
            known = known and holds and finalized.registered
            finalized = replace(finalized, registered=known)
        FINALIZED.put(step.state, finalized)
        return step

    def attest(self, request: Attest) -> Attested:
        """A registration bound to the finalized block, with the next encryption key.

        Asked again for the same block, it is the same one: two of one block, manifest and key could
        not be told apart by what the chain lists.
        """
        finalized = self.view.finalized
        step = Step(
            self.store,
            self.identity,
            self._entropy,
            Target(finalized.height, finalized.hash, finalized.ingress),
        )
        keys = offered(EPOCHS.get(step.state) or NO_KEYS, finalized.epoch, self._entropy)
        EPOCHS.put(step.state, keys)
        assert keys.pending is not None, "one is offered"
        key = EncryptionKey(
            version=REGISTRATION_VERSION,
            worker=self.identity.worker,
            epoch=keys.pending.epoch,
            public=keys.pending.public,
        )
        others = OFFERED.get(step.state) or ()
        manifest = self._manifest(request)
        for other in others:
            body = other.body
            same = (body.block_hash, body.manifest, body.encryption_key)
            if same == (finalized.hash, manifest, key):
                return Attested(other)
        registration = self._registered(manifest, key)
        OFFERED.put(step.state, (*others[1 - OFFERED_MAX :], registration))
        self._commit(step)
        return Attested(registration)

    def _manifest(self, request: Attest) -> Manifest:
        return Manifest(
            version=REGISTRATION_VERSION,
            worker=self.identity.worker,
            operator=request.operator,
            genesis=self.identity.genesis,
            software=self.about.software,
            runtime_id=self.about.runtime_id,
            cores=self.about.cores,
            endpoints=request.endpoints,
        )

    def _registered(self, manifest: Manifest, key: EncryptionKey) -> SignedRegistration:
        finalized, identity = self.view.finalized, self.identity
        devices = self._devices.evidence(device_nonce(identity.worker, finalized.hash))
        bound = devices_digest(devices)
        data = report_data(PURPOSE_REGISTER, manifest, finalized.hash, finalized.height, bound)
        body = Registration(
            version=REGISTRATION_VERSION,
            manifest=manifest,
            height=finalized.height,
            block_hash=finalized.hash,
            evidence=Evidence(self.about.platform, self._platform.quote(ReportData(data))),
            encryption_key=key,
            key_signature=identity.sign(Purpose.ENCRYPTION_KEY, ENCRYPTION_KEY.encode(key)),
            devices=devices,
        )
        signature = identity.sign(Purpose.REGISTRATION, REGISTRATION_BODY.encode(body))
        return SignedRegistration(body, signature)

    def _commit(self, step: Step) -> None:
        """Keep the step, then let it count. A kill in between loses nothing: it is read again."""
        changes = step.changes()
        self._journal.append(changes)
        self.store.apply(dict(step.state.changes()))
        for name, (written, trie) in step.contracts.items():
            self.store.write(name, written, trie)
        seen = view.after(self.view, self.store, changes)
        for name, (written, trie) in step.contracts.items():
            topic = seen.topic_of(seen.contracts[name].contract.cluster)
            self._engine.apply(name, written, Position(topic.count, topic.head, trie.root))
        self.view = seen
        for text in step.notes:
            self._note(text)

    # ---- what reads it

    def status(self) -> StatusReply:
        seen = self.view
        return StatusReply(
            version=HOST_VERSION,
            genesis=self.identity.genesis,
            worker=self.identity.worker,
            height=seen.finalized.height,
            block_hash=seen.finalized.hash,
            registered=seen.finalized.registered,
            topics=tuple(
                Followed(topic, state.count) for topic, state in sorted(seen.topics.items())
            ),
            runtime_id=self.about.runtime_id,
            platform=self.about.platform,
            measurement=b"".join(self._platform.measurements.values())[:64],
            ready=seen.finalized.registered and self._serves(),
            due=seen.finalized.due,
        )

    def _serves(self) -> bool:
        data = self.store.data
        for cluster in view.clusters_of(self.view):
            member = MEMBERSHIPS.get(data, cluster)
            if member is not None and member.serves and member.whole:
                place = generation_key(cluster, member.generation)
                if CLUSTER_KEYS.get(data, place) is not None:
                    return True
        return False

    def egress(self) -> EgressReply:
        """Signed messages from the chain's next number on."""
        data = self.store.data
        first, end = self.view.finalized.ingress, EGRESS_NEXT.get(data) or 0
        numbers = range(first, min(end, first + EGRESS_ITEMS_MAX))
        found = (EGRESS.get(data, egress_key(number)) for number in numbers)
        return EgressReply(tuple(each for each in found if each is not None))

    def outcome(self, call: CallId) -> Answer:
        """Raises `CommandRefused` where a command was, and nobody's key to say so in secret."""
        kept = OUTCOMES.get(self.store.data, call)
        if kept is None:
            return Answer(None)
        if kept.refusal:
            raise CommandRefused(kept.refusal.decode(errors="ignore"))
        return Answer(kept.sealed)

    def evidence(self) -> EvidenceReply:
        """Of the registration that the chain has, or else of the last one made."""
        data = self.store.data
        found = REGISTRATION.get(data) or next(reversed(OFFERED.get(data) or ()), None)
        return EvidenceReply(found, found.body.evidence if found else None)

    def open(self, envelope: bytes) -> Prepared | bytes:
        """See `QueryDoor.open`."""
        return self._queries.open(self.view, self.store.data, envelope)

    def close(self, prepared: Prepared, result: EngineResult) -> bytes:
        return self._queries.close(prepared, result)


def _recent_key(number: int) -> bytes:
    return (number % RECENT_BLOCKS).to_bytes(4, "big")


def _keep_accepted(step: Step, info: WorkerInfo) -> bool:
    """Find the registration that the chain lists now; whether it was made here.

    Others that were offered stay: one may be on its way still, and be listed after this one.
    """
    kept = REGISTRATION.get(step.state)
    if kept is not None and _is_listed(kept, info):
        return True
    offers = OFFERED.get(step.state) or ()
    for offer in offers:
        if _is_listed(offer, info):
            REGISTRATION.put(step.state, offer)
            OFFERED.put(step.state, tuple(other for other in offers if other != offer))
            return True
    return False


def _is_listed(registration: SignedRegistration, info: WorkerInfo) -> bool:
    body = registration.body
    return (
        body.block_hash == info.attested_hash
        and body.encryption_key.public == info.encryption_key
        and manifest_hash(body.manifest) == info.manifest_hash
    )
