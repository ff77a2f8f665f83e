"""Lists a worker whose registration is good."""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from phala.messages.payloads import system
from phala.messages.registration import Registration, manifest_hash
from phala.messages.state import WORKER_VERSION, WorkerInfo
from phala.pallets.registry import life
from phala.pallets.registry.judging import Judged
from phala.pallets.registry.records import Ends, WorkerRegistered, WorkerStale
from phala.primitives.types import Hash

if TYPE_CHECKING:
    from phala.pallets.registry import PhalaRegistry

PRUNED_MAX: Final = 4  # by one registration; it adds one


def use_evidence(registry: "PhalaRegistry", used: tuple[Hash, ...], window_blocks: int) -> None:
    """Remember it; forget what binds blocks that check 3 refuses from now on."""
    now, queue = registry.block.number, registry.evidence_queue.get()
    first = queue.first
    for _ in range(PRUNED_MAX + len(used)):
        oldest = registry.evidence_order.get(first)
        used_at = None if oldest is None else registry.used_evidence.get(oldest)
        # It binds a block before the one in which it was used.
        if oldest is None or used_at is None or now - used_at < window_blocks:
            break
        registry.used_evidence.delete(oldest)
        registry.evidence_order.delete(first)
        first += 1
    for index, evidence in enumerate(used):
        registry.used_evidence.put(evidence, now)
        registry.evidence_order.put(queue.next + index, evidence)
    registry.evidence_queue.put(Ends(first, queue.next + len(used)))


def put(registry: "PhalaRegistry", body: Registration, judged: Judged) -> None:
    """The worker's entry, its place in queue and groups; told to all enclaves."""
    manifest, key, proves, of = body.manifest, body.encryption_key, judged.proves, judged.of
    worker, now = manifest.worker, registry.clock.time()
    info = WorkerInfo(
        version=WORKER_VERSION,
        operator=manifest.operator,
        platform=proves.platform,
        measurement=proves.measurement,
        runtime_id=manifest.runtime_id,
        manifest_hash=manifest_hash(manifest),
        evidence_id=proves.evidence_id,
        attested_height=body.height,
        attested_hash=body.block_hash,
        confidence=proves.confidence,
        registered_at=registry.block.number,
        encryption_key=key.public,
        epoch=key.epoch,
        attested_at=now,
        issuer=0 if of is None else of.issuer,
        collateral=b"" if of is None else of.product,
        number=judged.number,
        product=proves.product,
        platform_id=proves.platform_id,
        signer=proves.signer,
        devices=len(body.devices),
    )
    state, reason = life.standing(registry, info)
    registry.enclaves.put(worker, replace(info, state=state, reason=reason))
    life.attested(registry, worker, now)
    life.regroup(registry, worker, info)
    if manifest.endpoints:
        registry.endpoints.put(worker, manifest.endpoints)
    else:
        registry.endpoints.delete(worker)
    registry.say(
        system.WorkerRegistered(
            worker,
            manifest.operator,
            manifest.runtime_id,
            proves.confidence,
            key.public,
            key.epoch,
        )
    )
    registry.emit(WorkerRegistered(worker, proves.confidence))
    if reason:
        registry.emit(WorkerStale(worker, reason))
