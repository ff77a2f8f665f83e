"""How workers stand as time goes by. The cost is by event: nobody looks at all workers.

- A queue in the order of attestation: the oldest evidence is at its front, so age and changes of
  policy are seen there, a few workers a block.
- Groups of workers by machine, product, code, signer and collateral: what befalls one of these is
  a sweep over its group, a few workers a block; what is known to be broken, at once.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from phala.crypto.hashes import blake2_256
from phala.messages.collateral import COLLATERAL_KEY, CollateralKey
from phala.messages.state import (
    REASON_AGE,
    REASON_BLOCKED,
    REASON_COLLATERAL,
    REASON_FLOOR,
    REASON_NONE,
    REASON_POLICY,
    WORKER_ACTIVE,
    WORKER_STALE,
    WORKER_SUSPENDED,
    WorkerInfo,
)
from phala.messages.types import WorkerId
from phala.pallets.registry.records import (
    BLOCK_MACHINE,
    BLOCK_MEASUREMENT,
    BLOCK_PRODUCT,
    BLOCK_SIGNER,
    GROUP_COLLATERAL,
    Attested,
    Blocked,
    Ends,
    Place,
    Sweep,
    WorkerFresh,
    WorkerStale,
    WorkerSuspended,
)
from phala.primitives.types import Hash, Moment

if TYPE_CHECKING:
    from phala.pallets.registry import PhalaRegistry

SWEPT_MAX: Final = 64  # workers looked at in one block, beside the queue's
AGED_MAX: Final = 64  # of the queue in one block
AT_ONCE_MAX: Final = 4_096  # workers that one entry of the block-list takes out in its own block
SWEEPS_MAX: Final = 1_024
EXPIRED, LAPSED = 1, 2  # of a product's collateral, as the collateral pallet counts

# Evidence that is no longer good, not merely old: who has it must not keep clusters' keys.
EXPELLING: Final = (REASON_FLOOR, REASON_POLICY, REASON_BLOCKED)


# ---- how a worker stands


def collateral_of(info: WorkerInfo) -> CollateralKey | None:
    """What the worker was judged by; None for platforms that have no collateral."""
    if not info.collateral:
        return None
    return CollateralKey(info.platform, info.issuer, info.collateral)


def broken(info: WorkerInfo) -> tuple[Blocked, ...]:
    """The entries of the block-list that would be of this worker."""
    named = (
        Blocked(BLOCK_MACHINE, info.platform_id),
        Blocked(BLOCK_PRODUCT, info.product),
        Blocked(BLOCK_MEASUREMENT, info.measurement),
        Blocked(BLOCK_SIGNER, info.signer),
    )
    return tuple(each for each in named if each.value)


def standing(registry: "PhalaRegistry", info: WorkerInfo) -> tuple[int, int]:
    """State and reason, as of this block: the gravest reason first."""
    now = registry.clock.time()
    if any(each in registry.blocked for each in broken(info)):
        return WORKER_SUSPENDED, REASON_BLOCKED
    of = collateral_of(info)
    if of is not None and info.number < registry.collateral.least_number(of):
        return WORKER_SUSPENDED, REASON_FLOOR
    later = [each for each in registry.policy_changes.get() if info.attested_at <= each.at]
    if any(each.effective_at <= now for each in later):
        return WORKER_SUSPENDED, REASON_POLICY
    if info.attested_at + registry.attestation_age_ms_max.get() < now:
        return WORKER_SUSPENDED, REASON_AGE
    stage = 0 if of is None else registry.collateral.stage(of)
    if stage == LAPSED:
        return WORKER_SUSPENDED, REASON_COLLATERAL
    if of is not None and info.number < registry.collateral.coming_number(of):
        return WORKER_STALE, REASON_FLOOR
    if later:
        return WORKER_STALE, REASON_POLICY
    if stage == EXPIRED:
        return WORKER_STALE, REASON_COLLATERAL
    return WORKER_ACTIVE, REASON_NONE


def review(registry: "PhalaRegistry", worker: WorkerId) -> bool:
    """See how a worker stands now. Whether it must leave its clusters.

    A suspended one stays that until it attests again.
    """
    info = registry.enclaves.get(worker)
    if info is None:
        return False
    state, reason = standing(registry, info)
    stays = info.state == WORKER_SUSPENDED and (
        state != WORKER_SUSPENDED or reason not in EXPELLING or info.reason in EXPELLING
    )
    if stays or (state, reason) == (info.state, info.reason):
        return False
    registry.enclaves.put(worker, replace(info, state=state, reason=reason))
    if state == WORKER_SUSPENDED:
        registry.emit(WorkerSuspended(worker, reason))
    elif state == WORKER_STALE:
        registry.emit(WorkerStale(worker, reason))
    else:
        registry.emit(WorkerFresh(worker))
    return state == WORKER_SUSPENDED and reason in EXPELLING


# ---- groups


def group(kind: int, value: bytes) -> Hash:
    """The name of the workers that have something in common."""
    return Hash(blake2_256(b"phala/group/v1" + bytes([kind]) + value))


def groups_of(info: WorkerInfo) -> tuple[Hash, ...]:
    """Those that a worker is of, always in the same order."""
    named = [group(each.kind, each.value) for each in broken(info)]
    of = collateral_of(info)
    if of is not None:
        named.append(group(GROUP_COLLATERAL, COLLATERAL_KEY.encode(of)))
    return tuple(named)


def regroup(registry: "PhalaRegistry", worker: WorkerId, info: WorkerInfo) -> None:
    """Put a worker into the groups that it is of now, and out of all others."""
    wanted, places = groups_of(info), registry.places.get(worker)
    if tuple(place.group for place in places) == wanted:
        return
    for place in places:
        _leave(registry, worker, place)
    registry.places.put(worker, tuple(_enter(registry, worker, each) for each in wanted))


def _enter(registry: "PhalaRegistry", worker: WorkerId, name: Hash) -> Place:
    size = registry.group_sizes.get(name)
    registry.group_members.put(name, size, worker)
    registry.group_sizes.put(name, size + 1)
    return Place(name, size)


def _leave(registry: "PhalaRegistry", worker: WorkerId, place: Place) -> None:
    """The group's last takes the place that gets free."""
    last = registry.group_sizes.get(place.group) - 1
    mover = registry.group_members.get(place.group, last)
    assert mover is not None, "groups have no gaps"
    registry.group_members.delete(place.group, last)
    if last:
        registry.group_sizes.put(place.group, last)
    else:
        registry.group_sizes.delete(place.group)
    if mover == worker:
        return
    registry.group_members.put(place.group, place.index, mover)
    moved = tuple(
        replace(each, index=place.index) if each.group == place.group else each
        for each in registry.places.get(mover)
    )
    registry.places.put(mover, moved)


def sweep(registry: "PhalaRegistry", name: Hash) -> None:
    """Look at a group's workers again, in this block and those after it.

    From the last one down: what moves into a gap meanwhile was looked at, and what comes new needs
    no look.
    """
    size = registry.group_sizes.get(name)
    if not size:
        return
    others = tuple(each for each in registry.sweeps.get() if each.group != name)
    registry.sweeps.put((*others, Sweep(name, size))[-SWEEPS_MAX:])


def sweep_at_once(registry: "PhalaRegistry", name: Hash) -> None:
    """Look at a group's workers in this block, as far as one block can."""
    size = registry.group_sizes.get(name)
    least = max(0, size - AT_ONCE_MAX)
    registry.expel(_looked_at(registry, name, size, least))
    if least:
        registry.sweeps.put((*registry.sweeps.get(), Sweep(name, least))[-SWEEPS_MAX:])


def _looked_at(registry: "PhalaRegistry", name: Hash, end: int, begin: int) -> tuple[WorkerId, ...]:
    """Review the group's workers from `end` down to `begin`. Returns who must leave clusters."""
    leaving = []
    for index in range(end - 1, begin - 1, -1):
        worker = registry.group_members.get(name, index)
        if worker is not None and review(registry, worker):
            leaving.append(worker)
    return tuple(leaving)


# ---- time


def attested(registry: "PhalaRegistry", worker: WorkerId, at: Moment) -> None:
    """Put a worker at the end of the queue; where it stood before, it is passed over."""
    ends = registry.attested_ends.get()
    registry.attested_order.put(ends.next, Attested(worker, at))
    registry.attested_ends.put(replace(ends, next=ends.next + 1))


def is_pending(registry: "PhalaRegistry") -> bool:
    """Whether this block has workers to look at."""
    return bool(registry.sweeps.get()) or _front(registry, registry.attested_ends.get()) is not None


def go_on(registry: "PhalaRegistry") -> None:
    """One block's share of the queue and the sweeps."""
    leaving = [*_age(registry), *_swept(registry)]
    registry.expel(tuple(leaving))


def _front(registry: "PhalaRegistry", ends: Ends) -> Attested | None:
    """Who was judged the longest ago, where that is too long ago by now."""
    front = registry.attested_order.get(ends.first)
    if front is None:
        return None
    now = registry.clock.time()
    changed = any(
        front.at <= each.at and each.effective_at <= now for each in registry.policy_changes.get()
    )
    old = front.at + registry.attestation_age_ms_max.get() < now
    return front if changed or old else None


def _age(registry: "PhalaRegistry") -> list[WorkerId]:
    """Who stands first in the queue was judged before all others: nobody behind is due sooner."""
    leaving: list[WorkerId] = []
    ends = known = registry.attested_ends.get()
    for _ in range(AGED_MAX):
        front = _front(registry, ends)
        if front is None:
            break
        registry.attested_order.delete(ends.first)
        ends = replace(ends, first=ends.first + 1)
        if review(registry, front.worker):
            leaving.append(front.worker)
    if ends != known:
        registry.attested_ends.put(ends)
    return leaving


def _swept(registry: "PhalaRegistry") -> list[WorkerId]:
    sweeps = list(registry.sweeps.get())
    if not sweeps:
        return []
    leaving: list[WorkerId] = []
    room = SWEPT_MAX
    while sweeps and room:
        first = sweeps[0]
        end = min(first.left, registry.group_sizes.get(first.group))
        begin = max(0, end - room)
        leaving += _looked_at(registry, first.group, end, begin)
        room -= end - begin
        if begin:
            sweeps[0] = Sweep(first.group, begin)
            break
        sweeps.pop(0)
    registry.sweeps.put(tuple(sweeps))
    return leaving
