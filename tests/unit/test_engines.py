"""The engine that the enclave is given, and the one in memory that stands for it in tests."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest

from phala.enclave.ports import CallKind, EngineCall, EngineResult, Place
from phala.messages.calls import ERROR_ARGUMENTS, ERROR_FUEL, code_id
from phala.messages.fuel import FUEL_MIN
from phala.primitives.types import Hash
from phala.sealed.engines import Engines, job_of
from phala.testing.enclave import LocalEngine
from phala.testing.engine import CALLER, ONE, SOURCE, at, check_engine
from phala.wasm.pool import EnginePool


@pytest.fixture(scope="module")
def pool() -> Iterator[EnginePool]:
    with EnginePool(children=2) as found:
        yield found


def test_the_engine_in_memory_keeps_the_contract() -> None:
    engine = LocalEngine()

    check_engine(engine, engine.run)


def test_the_pool_of_children_keeps_the_contract(pool: EnginePool) -> None:
    engines = Engines(pool)

    check_engine(engines, lambda call: asyncio.run(engines.run_query(call)))


def call(arguments: bytes, method: str = "value") -> EngineCall:
    return EngineCall(
        kind="query",
        contract=ONE,
        code_id=code_id(Hash(bytes(32)), SOURCE),
        source=SOURCE,
        method=method,
        arguments=arguments,
        caller=CALLER,
        place=Place(1, 1_000, Hash(bytes(32))),
        seed=bytes(32),
        fuel=None,
    )


@pytest.mark.parametrize(
    "arguments", [b"", b"1", b"[]", b"{", b'{"a":NaN}', b"{}x", b"[" * 5000, b'{"a":1}},{"b":{}']
)
def test_arguments_that_are_no_object_never_reach_the_engine(arguments: bytes) -> None:
    found = job_of(call(arguments))

    assert isinstance(found, EngineResult)
    assert found.error_kind == ERROR_ARGUMENTS


def test_arguments_cannot_name_another_method() -> None:
    found = job_of(call(b'{"n":1}', 'value","args":{},"x":"'))

    assert not isinstance(found, EngineResult)
    assert found.request == b'{"method":"value\\",\\"args\\":{},\\"x\\":\\"","args":{"n":1}}'


def test_a_query_among_commands_says_which_state_it_read(pool: EnginePool) -> None:
    """Its answer and its position are of one state, whatever is applied meanwhile."""
    engines = Engines(pool)
    begun = engines.run(replace(call(b"{}"), kind="instantiate", method=""))
    engines.replace(ONE, {}, at(0))
    engines.apply(ONE, begun.changes, at(0))
    values = {0: b"0"}
    stop = threading.Event()

    def commands() -> None:
        for number in range(1, 60):
            found = engines.run(replace(call(b'{"n":1}', "add"), kind="command"))
            values[number] = found.result
            engines.apply(ONE, found.changes, at(number))
        stop.set()

    async def queries() -> list[EngineResult]:
        found = []
        while not stop.is_set():
            found.append(await engines.run_query(call(b"{}")))
        return found

    running = threading.Thread(target=commands)
    running.start()
    found = asyncio.run(queries())
    running.join()

    assert found
    for each in found:
        assert each.position is not None
        assert each.result == values[each.position.count]


LOOP = b"""
from phat import Contract, command

class Loop(Contract):
    def __init__(self, turns: int = 0):
        for _ in range(turns):
            pass

    @command
    def loop(self) -> None:
        while True:
            pass
"""


def test_a_call_burns_its_class_and_no_more(pool: EnginePool) -> None:
    engines = Engines(pool)

    def run(kind: CallKind, fuel: int, arguments: bytes = b"{}") -> EngineResult:
        loop = replace(call(arguments, "loop"), code_id=code_id(Hash(bytes(32)), LOOP))
        return engines.run(replace(loop, kind=kind, source=LOOP, fuel=1 << fuel))

    for fuel in (FUEL_MIN, 24, 28):
        for kind, arguments in (("instantiate", b'{"turns":1000000}'), ("command", b"{}")):
            found = run(cast("CallKind", kind), fuel, arguments)
            assert (found.ok, found.error_kind, found.changes) == (False, ERROR_FUEL, {})
            assert found.fuel_class == fuel
    assert run("instantiate", 33, b'{"turns":1000000}').ok
