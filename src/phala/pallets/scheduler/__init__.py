"""Scheduler: calls that the chain makes by itself in a later block.

Source: `pallet-scheduler`: calls, events, errors, their numbers, its storage, and the order in
which agendas are served. Retries of failed tasks are not among them.
"""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Protocol, TypeAlias

from phala.codec import U8, U32, Malformed, Option, Vector
from phala.crypto.hashes import blake2_256
from phala.frame import (
    MICROSECOND,
    RUNTIME_CALL,
    Block,
    Call,
    Constant,
    DefaultMap,
    Dispatcher,
    Hasher,
    Origin,
    Pallet,
    Root,
    StorageMap,
    StorageOption,
    call,
    dispatch_result,
    ensure_root,
)
from phala.pallets.scheduler.events import (
    TASK,
    AgendaIncomplete,
    CallUnavailable,
    Canceled,
    Dispatched,
    FailedToSchedule,
    NotFound,
    PeriodicFailed,
    PermanentlyOverweight,
    RetryCancelled,
    RetryFailed,
    RetrySet,
    Scheduled,
    TargetBlockNumberInPast,
)
from phala.pallets.scheduler.kept import (
    INLINE_MAX,
    NAME,
    PERIOD,
    RETRY,
    SCHEDULED,
    Bounded,
    Inline,
    Lookup,
    RetryConfig,
    ScheduledRecord,
)
from phala.primitives.types import BLOCK_NUMBER, BlockNumber, Hash

__all__ = [
    "AGENDA_MAX",
    "AGENDA_REF_TIME",
    "TASK_REF_TIME",
    "AgendaIncomplete",
    "CallUnavailable",
    "Canceled",
    "Dispatched",
    "FailedToSchedule",
    "NotFound",
    "PeriodicFailed",
    "PermanentlyOverweight",
    "RetryCancelled",
    "RetryFailed",
    "RetrySet",
    "Scheduled",
    "Scheduler",
    "TargetBlockNumberInPast",
]

AGENDA_MAX: Final = 50  # tasks of a block
# As `phala bench weights` finds calls on a full agenda, which is read and written as a whole.
AGENDA_REF_TIME: Final = 500 * MICROSECOND
TASK_REF_TIME: Final = 1_000 * MICROSECOND  # beside its call's
BLOCKS_MAX: Final = 64  # agendas served in one block, when earlier blocks left some
BLOCK_NUMBER_MAX: Final = (1 << 32) - 1

Agenda: TypeAlias = tuple[ScheduledRecord | None, ...]


class Preimages(Protocol):
    """Where long calls are kept."""

    def preimage_of(self, hash_: Hash, /) -> bytes | None: ...
    def keep(self, hash_: Hash, data: bytes, /) -> None: ...
    def unrequest(self, hash_: Hash, /) -> None: ...


class Tasks(Dispatcher, Protocol):
    """Who reads and runs calls."""

    def decode(self, data: bytes, /) -> Call:
        """Raises `Malformed`."""
        ...


class Scheduler(Pallet):
    """Calls that the chain makes by itself in a later block."""

    name = "Scheduler"
    incomplete_since = StorageOption(
        BLOCK_NUMBER, doc="The first block whose agenda was not served whole."
    )
    agenda: DefaultMap[BlockNumber, Agenda] = DefaultMap(
        Hasher.TWOX_64_CONCAT,
        BLOCK_NUMBER,
        Vector(Option(SCHEDULED), items_max=AGENDA_MAX),
        default=(),
        doc="What is to be done in a block.",
    )
    lookup: Any = StorageMap(
        Hasher.TWOX_64_CONCAT, NAME, TASK, doc="Where the task of a name stands."
    )

    retries: Any = StorageMap(
        Hasher.BLAKE2_128_CONCAT, TASK, RETRY, doc="How a task is tried again where it fails."
    )

    def __init__(
        self, block: Block, *, preimages: Preimages, tasks: Tasks, ref_time_max: int
    ) -> None:
        """`ref_time_max`: picoseconds that all tasks together may take of a block."""
        super().__init__(block)
        self.preimages = preimages
        self.tasks = tasks
        self.ref_time_max = ref_time_max

    # ---- what runs by itself

    def on_initialize(self) -> int:
        """Serve the agenda of this block, after those that were left."""
        now, since = self.block.number, self.incomplete_since.get()
        if since is None and not self.agenda.get(now):
            return 0
        when, left, taken, first = now if since is None else since, None, 0, True
        for _ in range(BLOCKS_MAX):
            if when > now or taken + AGENDA_REF_TIME > self.ref_time_max:
                break
            taken += AGENDA_REF_TIME
            whole, taken, first = self._serve(when, taken, first=first)
            if not whole and left is None:
                left = when
            when = BlockNumber(when + 1)
        if left is None and when <= now:
            left = when
        if left is not None:
            self.emit(AgendaIncomplete(left))
            self.incomplete_since.put(left)
        elif since is not None:
            self.incomplete_since.delete()
        return taken

    def _serve(self, when: BlockNumber, taken: int, *, first: bool) -> tuple[bool, int, bool]:
        """Run a block's tasks while there is time. Returns whether none was left, what was taken
        then, and whether the next task is still the first of this block."""
        order = sorted(
            (task.priority, index)
            for index, task in enumerate(self.agenda.get(when))
            if task is not None
        )
        whole = True
        for _, index in order:
            task = self._task(when, index)
            if task is None:  # a task before it canceled it
                continue
            inner = self._call_of(task)
            weight = TASK_REF_TIME + (0 if inner is None else inner.info.weight.ref_time)
            if taken + weight > self.ref_time_max and not (first and inner is not None):
                whole = False
                continue
            place = (when, index)
            retry: RetryConfig | None = self.retries.get(place)
            self._remove(when, index, task)
            if inner is None:
                taken += TASK_REF_TIME
                self._drop(task.call)
                self.emit(CallUnavailable(place, task.maybe_id))
            elif taken + weight > self.ref_time_max:
                taken += TASK_REF_TIME
                self._drop(task.call)
                self.emit(PermanentlyOverweight(place, task.maybe_id))
            else:
                taken += weight
                error = self.tasks.dispatch(inner, task.origin)
                self.emit(Dispatched(place, task.maybe_id, dispatch_result(error)))
                if error is not None and retry is not None:
                    self._retry(task, inner, place, retry)
                self._again(task, place, retry)
            first = False
        return whole, taken, first

    def _retry(
        self, task: ScheduledRecord, inner: Call, place: tuple[int, int], retry: RetryConfig
    ) -> None:
        """Try what failed once more, later; it has neither name nor period then."""
        if retry.remaining == 0:
            return
        wake = BlockNumber(min(self.block.number + max(retry.period, 1), BLOCK_NUMBER_MAX))
        if not self._has_room(wake):
            self.emit(RetryFailed(place, task.maybe_id))
            return
        again = replace(task, maybe_id=None, maybe_periodic=None, call=self._keep(inner.encoded))
        index = self._place(wake, again)
        self.retries.put((wake, index), replace(retry, remaining=retry.remaining - 1))

    def _again(
        self, task: ScheduledRecord, place: tuple[int, int], retry: RetryConfig | None
    ) -> None:
        if task.maybe_periodic is None:
            self._drop(task.call)
            return
        blocks, times = task.maybe_periodic
        wake = BlockNumber(self.block.number + blocks)
        later = (blocks, times - 1) if times > 1 else None
        if wake <= BLOCK_NUMBER_MAX and self._has_room(wake):
            index = self._place(wake, replace(task, maybe_periodic=later))
            if retry is not None:
                self.retries.put((wake, index), retry)
        else:
            self._drop(task.call)
            self.emit(PeriodicFailed(place, task.maybe_id))

    def _call_of(self, task: ScheduledRecord) -> Call | None:
        match task.call:
            case Inline(data):
                found: bytes | None = data
            case Lookup(hash_, _):
                found = self.preimages.preimage_of(hash_)
        try:
            return None if found is None else self.tasks.decode(found)
        except Malformed:
            return None

    # ---- calls

    @call(60 * MICROSECOND)
    def schedule(
        self,
        origin: Origin,
        when: BlockNumber,
        maybe_periodic: Annotated[tuple[int, int] | None, Option(PERIOD)],
        priority: Annotated[int, U8],
        call: Annotated[Call, RUNTIME_CALL],
    ) -> None:
        """Have a call made in that block, and perhaps again every so many blocks."""
        ensure_root(origin)
        self.add(None, when, maybe_periodic, priority, call)

    @call(60 * MICROSECOND)
    def cancel(self, origin: Origin, when: BlockNumber, index: Annotated[int, U32]) -> None:
        """Have a call not made."""
        ensure_root(origin)
        self._cancel(when, index)

    @call(60 * MICROSECOND)
    def schedule_named(
        self,
        origin: Origin,
        id_: Annotated[bytes, NAME],
        when: BlockNumber,
        maybe_periodic: Annotated[tuple[int, int] | None, Option(PERIOD)],
        priority: Annotated[int, U8],
        call: Annotated[Call, RUNTIME_CALL],
    ) -> None:
        """As `schedule`, under a name by which it can be canceled."""
        ensure_root(origin)
        self.add(id_, when, maybe_periodic, priority, call)

    @call(60 * MICROSECOND)
    def cancel_named(self, origin: Origin, id_: Annotated[bytes, NAME]) -> None:
        """Have the call of that name not made."""
        ensure_root(origin)
        self._cancel(*self._named(id_))

    @call(60 * MICROSECOND)
    def schedule_after(
        self,
        origin: Origin,
        after: BlockNumber,
        maybe_periodic: Annotated[tuple[int, int] | None, Option(PERIOD)],
        priority: Annotated[int, U8],
        call: Annotated[Call, RUNTIME_CALL],
    ) -> None:
        """As `schedule`, once so many blocks are between."""
        ensure_root(origin)
        self.add(None, self._after(after), maybe_periodic, priority, call)

    @call(60 * MICROSECOND)
    def schedule_named_after(
        self,
        origin: Origin,
        id_: Annotated[bytes, NAME],
        after: BlockNumber,
        maybe_periodic: Annotated[tuple[int, int] | None, Option(PERIOD)],
        priority: Annotated[int, U8],
        call: Annotated[Call, RUNTIME_CALL],
    ) -> None:
        """As `schedule_named`, once so many blocks are between."""
        ensure_root(origin)
        self.add(id_, self._after(after), maybe_periodic, priority, call)

    @call(60 * MICROSECOND)
    def set_retry(
        self,
        origin: Origin,
        task: Annotated[tuple[int, int], TASK],
        retries: Annotated[int, U8],
        period: BlockNumber,
    ) -> None:
        """Have a task tried again where it fails, so often, every so many blocks."""
        ensure_root(origin)
        self._set_retry(task, None, retries, period)

    @call(60 * MICROSECOND)
    def set_retry_named(
        self,
        origin: Origin,
        id_: Annotated[bytes, NAME],
        retries: Annotated[int, U8],
        period: BlockNumber,
    ) -> None:
        """As `set_retry`, for the task of that name."""
        ensure_root(origin)
        self._set_retry(self._named(id_), id_, retries, period)

    @call(60 * MICROSECOND)
    def cancel_retry(self, origin: Origin, task: Annotated[tuple[int, int], TASK]) -> None:
        """Have a task tried once."""
        ensure_root(origin)
        self._cancel_retry(task, None)

    @call(60 * MICROSECOND)
    def cancel_retry_named(self, origin: Origin, id_: Annotated[bytes, NAME]) -> None:
        """Have the task of that name tried once."""
        ensure_root(origin)
        self._cancel_retry(self._named(id_), id_)

    # ---- what they share

    def _named(self, name: bytes) -> tuple[BlockNumber, int]:
        place: tuple[BlockNumber, int] | None = self.lookup.get(name)
        if place is None:
            raise NotFound
        return place

    def _set_retry(
        self, place: tuple[int, int], name: bytes | None, retries: int, period: BlockNumber
    ) -> None:
        if self._task(BlockNumber(place[0]), place[1]) is None:
            raise NotFound
        self.retries.put(place, RetryConfig(retries, retries, period))
        self.emit(RetrySet(place, name, period, retries))

    def _cancel_retry(self, place: tuple[int, int], name: bytes | None) -> None:
        if self._task(BlockNumber(place[0]), place[1]) is None:
            raise NotFound
        self.retries.delete(place)
        self.emit(RetryCancelled(place, name))

    def add(
        self,
        name: bytes | None,
        when: BlockNumber,
        periodic: tuple[int, int] | None,
        priority: int,
        inner: Call,
    ) -> None:
        """Have the chain itself make a call. Raises as the calls say; undo it with the caller."""
        if name is not None and self.lookup.get(name) is not None:
            raise FailedToSchedule
        if when <= self.block.number:
            raise TargetBlockNumberInPast
        if periodic is not None:
            blocks, times = periodic
            periodic = (blocks, times - 1) if times > 1 and blocks else None
        kept = self._keep(inner.encoded)
        self._place(when, ScheduledRecord(name, priority, kept, periodic, Root()))

    def _after(self, blocks: int) -> BlockNumber:
        return BlockNumber(min(self.block.number + blocks + 1, BLOCK_NUMBER_MAX))

    def _keep(self, data: bytes) -> Bounded:
        if len(data) <= INLINE_MAX:
            return Inline(data)
        hash_ = Hash(blake2_256(data))
        self.preimages.keep(hash_, data)
        return Lookup(hash_, len(data))

    def _drop(self, kept: Bounded) -> None:
        if isinstance(kept, Lookup):
            self.preimages.unrequest(kept.hash)

    def _has_room(self, when: BlockNumber) -> bool:
        agenda = self.agenda.get(when)
        return len(agenda) < AGENDA_MAX or None in agenda

    def _place(self, when: BlockNumber, task: ScheduledRecord) -> int:
        """Returns the place in that block's agenda. Raises `FailedToSchedule` where it is full."""
        if not self._has_room(when):
            raise FailedToSchedule
        agenda = self.agenda.get(when)
        index = len(agenda) if len(agenda) < AGENDA_MAX else agenda.index(None)
        agenda = (*agenda[:index], task, *agenda[index + 1 :])
        self.agenda.put(when, agenda)
        if task.maybe_id is not None:
            self.lookup.put(task.maybe_id, (when, index))
        self.emit(Scheduled(when, index))
        return index

    def _cancel(self, when: BlockNumber, index: int) -> None:
        task = self._task(when, index)
        if task is None:
            raise NotFound
        self._remove(when, index, task)
        self._drop(task.call)
        self.emit(Canceled(when, index))

    def _task(self, when: BlockNumber, index: int) -> ScheduledRecord | None:
        agenda = self.agenda.get(when)
        return agenda[index] if index < len(agenda) else None

    def _remove(self, when: BlockNumber, index: int, task: ScheduledRecord) -> None:
        """Leave a hole, for places in an agenda are names; none at its end."""
        self.retries.delete((when, index))
        agenda = list(self.agenda.get(when))
        agenda[index] = None
        while agenda and agenda[-1] is None:
            agenda.pop()
        if agenda:
            self.agenda.put(when, tuple(agenda))
        else:
            self.agenda.delete(when)
        if task.maybe_id is not None:
            self.lookup.delete(task.maybe_id)

    calls: ClassVar = {
        0: schedule,
        1: cancel,
        2: schedule_named,
        3: cancel_named,
        4: schedule_after,
        5: schedule_named_after,
        6: set_retry,
        7: set_retry_named,
        8: cancel_retry,
        9: cancel_retry_named,
    }
    events: ClassVar = {
        0: Scheduled,
        1: Canceled,
        2: Dispatched,
        3: RetrySet,
        4: RetryCancelled,
        5: CallUnavailable,
        6: PeriodicFailed,
        7: RetryFailed,
        8: PermanentlyOverweight,
        9: AgendaIncomplete,
    }
    errors: ClassVar = {0: FailedToSchedule, 1: NotFound, 2: TargetBlockNumberInPast}
    constants: ClassVar = (
        Constant("MaxScheduledPerBlock", U32, AGENDA_MAX, "The most tasks of a block."),
    )
