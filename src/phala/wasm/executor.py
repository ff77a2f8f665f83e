"""Jobs to outcomes, in the process that the guest runs in. No clock decides here but a query's."""

import contextlib
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from phala.wasm import capi
from phala.wasm.call import OUT_OF_FUEL, Call, Ended, State, cut
from phala.wasm.engine import Component, Instance
from phala.wasm.job import (
    COMPILE_LIMITS,
    SOURCE_BYTES_MAX,
    BlockInfo,
    CodeId,
    ContractId,
    ErrorKind,
    Job,
    Outcome,
)

CODES_MAX: Final = 256  # compiled contracts kept; some 10 KB each
WARM_MAX: Final = 8  # instances kept for contracts that asked for it; some 1 MB each
WARM_USES_MAX: Final = 1_000

# What a guest may say of itself; the rest only the engine knows.
GUEST_KINDS: Final = frozenset({
    ErrorKind.REFUSED, ErrorKind.RAISED, ErrorKind.ARGUMENT, ErrorKind.SOURCE,
    ErrorKind.READ_ONLY, ErrorKind.MEMORY, ErrorKind.STACK, ErrorKind.STATE,
})  # fmt: skip

NO_BLOCK: Final = BlockInfo(0, 0, bytes(32))


class UnknownCode(Exception):
    """The job came without its source, and it is not here."""


class Warm:
    """An instance that has loaded its contract and waits for the next query."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.uses = 0


class Spare:
    """An instance that has loaded a contract while nobody waited, for one call.

    It is what the call would have made: loading asked the host nothing, so it cannot have gone
    another way, and its fuel is charged to the call.
    """

    def __init__(self, code_id: CodeId, instance: Instance, memory_bytes: int, warm: bytes) -> None:
        self.code_id = code_id
        self.instance = instance
        self.memory_bytes = memory_bytes
        self.load_fuel = instance.fuel_used()
        self.warm = warm

    def fits(self, job: Job) -> bool:
        return (
            self.code_id == job.code_id
            and job.kind != "describe"
            and self.memory_bytes == job.limits.memory_bytes
            and self.load_fuel < job.limits.fuel
        )


class Executor:
    def __init__(self, component: Component, watch: Callable[[int], None]) -> None:
        """`watch` makes the engine's clock tick for the next milliseconds."""
        self.component = component
        self.watch = watch
        self.states: dict[ContractId, State] = {}
        self._codes: OrderedDict[CodeId, bytes | Outcome] = OrderedDict()
        self._warm: OrderedDict[tuple[ContractId, CodeId], Warm] = OrderedDict()
        self._spare: Spare | None = None
        self._asks: set[CodeId] = set()  # what asks the host while it loads: no spare for these

    def execute(self, job: Job) -> Outcome:
        """Raises `UnknownCode`; for what replicas must agree on, whatever this machine lacked: then
        nothing is decided, and the child ends."""
        code = self._code(job)
        if isinstance(code, Outcome):
            return code
        agreed = job.kind in {"instantiate", "command"}
        call = Call(
            self.states.get(job.contract) or State(),
            job.limits,
            writable=agreed,
            caller=job.caller,
            block=job.block,
            seed=job.seed,
        )
        if job.limits.wall_ms is not None:
            self.watch(job.limits.wall_ms)
        warm = self._warm.pop((job.contract, job.code_id), None) if job.kind == "query" else None
        if warm is not None:
            return self._again(warm, job, call)
        spare, self._spare = self._spare, None
        if spare is not None and not spare.fits(job):
            spare.instance.close()
            spare = None
        try:
            instance = spare.instance if spare else Instance(self.component, job.limits)
        except capi.EngineError as error:
            if agreed:
                raise
            return Outcome(ok=False, error=ErrorKind.MEMORY, text=cut(str(error)))
        if spare:
            instance.refuel(job.limits, spent=spare.load_fuel)
        outcome, keep = self._first(instance, job, call, code, spare)
        if agreed and call.short is not None:
            raise call.short
        if keep:
            self._keep(job, Warm(instance))
        else:
            instance.close()
        return outcome

    def prepare(self, job: Job) -> None:
        """Make the next call of this contract's code quick. When nothing waits."""
        code = self._codes.get(job.code_id)
        if self._spare or not isinstance(code, bytes) or job.code_id in self._asks:
            return
        if job.kind == "query" and (job.contract, job.code_id) in self._warm:
            return
        call = Call(
            State(), job.limits, writable=False, caller=None, block=NO_BLOCK, seed=bytes(32)
        )  # fmt: skip
        instance = Instance(self.component, replace(job.limits, wall_ms=None))
        with contextlib.suppress(Ended):
            ok, answer = instance.run("load", call, code, False)  # noqa: FBT003
            if ok and not call.host_calls:
                self._spare = Spare(job.code_id, instance, job.limits.memory_bytes, answer)
                return
            self._asks.add(job.code_id)
        instance.close()

    def _first(
        self, instance: Instance, job: Job, call: Call, code: bytes, spare: Spare | None
    ) -> tuple[Outcome, bool]:
        """The outcome, and whether the instance may serve again."""
        try:
            ok, answer = (
                (True, spare.warm)
                if spare
                else instance.run("load", call, code, job.kind == "describe")
            )
            keep = ok and job.kind == "query" and answer == b"warm"
            if ok and job.kind != "describe":
                ok, answer = instance.run(job.kind, call, job.request)
        except Ended as ended:
            return finished(call, instance, ended=ended), False
        outcome = finished(call, instance, ok=ok, answer=answer)
        return outcome, keep and outcome.ok

    def _again(self, warm: Warm, job: Job, call: Call) -> Outcome:
        warm.uses += 1
        instance = warm.instance
        instance.refuel(job.limits)
        try:
            ok, answer = instance.run("query", call, job.request)
        except Ended as ended:
            outcome = finished(call, instance, ended=ended)
        else:
            outcome = finished(call, instance, ok=ok, answer=answer)
        if outcome.ok and warm.uses < WARM_USES_MAX:
            self._keep(job, warm)
        else:
            instance.close()
        return outcome

    def _keep(self, job: Job, warm: Warm) -> None:
        self._warm[job.contract, job.code_id] = warm
        if len(self._warm) > WARM_MAX:
            _, oldest = self._warm.popitem(last=False)
            oldest.instance.close()

    def _code(self, job: Job) -> bytes | Outcome:
        """The contract's code as the guest itself compiled it; or why it cannot be."""
        code = self._codes.get(job.code_id)
        if code is None:
            if not job.source:
                raise UnknownCode
            code = self._codes[job.code_id] = self._compile(job.source)
            if len(self._codes) > CODES_MAX:
                forgotten, _ = self._codes.popitem(last=False)
                self._asks.discard(forgotten)
        self._codes.move_to_end(job.code_id)
        return code

    def _compile(self, source: bytes) -> bytes | Outcome:
        """In an instance of its own. No part of a call's fuel, for a replica may have it cached."""
        if len(source) > SOURCE_BYTES_MAX:
            text = f"the source has {len(source)} bytes; at most {SOURCE_BYTES_MAX}"
            return Outcome(ok=False, error=ErrorKind.SOURCE, text=text)
        call = Call(
            State(), COMPILE_LIMITS, writable=False, caller=None, block=NO_BLOCK, seed=bytes(32)
        )  # fmt: skip
        with Instance(self.component, COMPILE_LIMITS) as instance:
            try:
                ok, answer = instance.run("compile", call, source)
            except Ended as ended:
                return Outcome(
                    ok=False, error=ErrorKind.SOURCE, text=f"the source is too much: {ended.text}"
                )
        if ok:
            return answer
        kind, text = guest_error(answer)
        return Outcome(ok=False, error=kind, text=text)


def finished(
    call: Call,
    instance: Instance,
    *,
    ok: bool = False,
    answer: bytes = b"",
    ended: Ended | None = None,
) -> Outcome:
    fuel_used = min(instance.fuel_used() + call.host_fuel, call.limits.fuel)
    if ended is None and fuel_used == call.limits.fuel:
        ended = Ended(ErrorKind.FUEL, OUT_OF_FUEL)
    if ended is None and len(answer) > call.limits.output_bytes_max:
        text = f"a result of {len(answer)} bytes; at most {call.limits.output_bytes_max}"
        ended = Ended(ErrorKind.OUTPUT, text)
    logs = tuple(call.logs)
    if ended is not None:
        return Outcome(
            ok=False, error=ended.kind, text=cut(ended.text), logs=logs, fuel_used=fuel_used
        )
    if not ok:
        kind, text = guest_error(answer)
        return Outcome(ok=False, error=kind, text=text, logs=logs, fuel_used=fuel_used)
    return Outcome(
        ok=True,
        result=answer,
        events=tuple(call.events),
        logs=logs,
        changes=call.changes,
        fuel_used=fuel_used,
    )


def guest_error(answer: bytes) -> tuple[ErrorKind, str]:
    """What `phat` says in JSON; any other text is what another language's contract said."""
    try:
        record = json.loads(answer)
        kind, text = ErrorKind(record["kind"]), record["text"]
        if kind in GUEST_KINDS and isinstance(text, str):
            return kind, cut(text)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return ErrorKind.RAISED, cut(answer.decode(errors="replace"))
