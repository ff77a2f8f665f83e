"""The enclave's `Engine`, on the pool of engine children."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import orjson

from phala.enclave.ports import Changes, EngineCall, EngineResult, Position
from phala.messages import calls
from phala.messages.types import ContractId
from phala.wasm.job import (
    COMMAND_LIMITS,
    QUERY_LIMITS,
    BlockInfo,
    ErrorKind,
    Job,
    Limits,
    Outcome,
    fuel_class,
)
from phala.wasm.job import CodeId as JobCodeId
from phala.wasm.job import ContractId as JobContractId
from phala.wasm.pool import EnginePool

QUERY_TRIES: Final = 3

KINDS: Final[Mapping[ErrorKind, int]] = {
    ErrorKind.REFUSED: calls.ERROR_CONTRACT,
    ErrorKind.RAISED: calls.ERROR_CONTRACT,
    ErrorKind.ARGUMENT: calls.ERROR_ARGUMENTS,
    ErrorKind.SOURCE: calls.ERROR_CODE,
    ErrorKind.READ_ONLY: calls.ERROR_STATE,
    ErrorKind.FUEL: calls.ERROR_FUEL,
    ErrorKind.MEMORY: calls.ERROR_MEMORY,
    ErrorKind.STACK: calls.ERROR_STACK,
    ErrorKind.OUTPUT: calls.ERROR_OUTPUT,
    ErrorKind.STATE: calls.ERROR_STATE,
    ErrorKind.HOST_CALLS: calls.ERROR_FUEL,
    ErrorKind.TIME: calls.ERROR_TIME,
    ErrorKind.TRAP: calls.ERROR_CRASH,
}


class Engines:
    """Commands run in the caller's thread, queries in the pool's."""

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool
        self._at: dict[ContractId, Position] = {}
        self._lock = threading.Lock()  # a state and its position change together

    # What the enclave calls.

    def run(self, call: EngineCall) -> EngineResult:
        job = job_of(call)
        return job if isinstance(job, EngineResult) else result_of(self._pool.run_command(job))

    def replace(self, contract: ContractId, state: Mapping[bytes, bytes], at: Position) -> None:
        with self._lock:
            self._pool.set_state(JobContractId(contract), state)
            self._at[contract] = at

    def apply(self, contract: ContractId, changes: Changes, at: Position) -> None:
        with self._lock:
            self._pool.apply_changes(JobContractId(contract), changes)
            self._at[contract] = at

    # What the process around it calls.

    async def run_query(self, call: EngineCall) -> EngineResult:
        """The result, and the state that it ran on.

        A command may change the state meanwhile; then nobody knows which one it was, and the query
        runs again. Commands that come faster than that wait for its last try.

        Raises:
            Unavailable: the engine child ended.
        """
        job = job_of(call)
        if isinstance(job, EngineResult):
            return job
        for _ in range(QUERY_TRIES):
            before = self._at.get(call.contract)
            outcome = await self._pool.run_query(job)
            if self._at.get(call.contract) == before:
                return result_of(outcome, before)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._run_alone, call.contract, job)

    def _run_alone(self, contract: ContractId, job: Job) -> EngineResult:
        with self._lock:
            return result_of(self._pool.run_query_blocking(job), self._at.get(contract))


def job_of(call: EngineCall) -> Job | EngineResult:
    """The engine's job, or the error of arguments that are none."""
    try:
        arguments = orjson.loads(call.arguments)
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        return failed(calls.ERROR_ARGUMENTS, "the arguments are no JSON object")
    request = b'{"method":' + orjson.dumps(call.method) + b',"args":' + call.arguments + b"}"
    return Job(
        kind=call.kind,
        contract=JobContractId(call.contract),
        code_id=JobCodeId(call.code_id),
        source=call.source,
        request=request,
        caller=call.caller,
        block=BlockInfo(call.place.number, call.place.time_ms, call.place.hash),
        limits=limits_of(call),
        seed=call.seed,
    )


def limits_of(call: EngineCall) -> Limits:
    limits = QUERY_LIMITS if call.kind == "query" else COMMAND_LIMITS
    return limits if call.fuel is None else replace(limits, fuel=call.fuel)


def result_of(outcome: Outcome, position: Position | None = None) -> EngineResult:
    return EngineResult(
        ok=outcome.ok,
        result=outcome.result,
        error_kind=calls.ERROR_NONE if outcome.error is None else KINDS[outcome.error],
        error=outcome.text,
        events=outcome.events,
        changes=outcome.changes,
        fuel_class=fuel_class(outcome.fuel_used),
        position=position,
    )


def failed(kind: int, text: str) -> EngineResult:
    return EngineResult(
        ok=False, result=b"", error_kind=kind, error=text, events=(), changes={}, fuel_class=0
    )
