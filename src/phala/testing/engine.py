"""What every `enclave.ports.Engine` must do, as one function to run against each."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from phala.enclave.ports import CallKind, Engine, EngineCall, EngineResult, Place, Position
from phala.messages.calls import (
    ERROR_ARGUMENTS,
    ERROR_CODE,
    ERROR_CONTRACT,
    ERROR_NONE,
    code_id,
)
from phala.messages.fuel import FUEL_DEFAULT
from phala.messages.types import ContractId, Count
from phala.primitives.types import AccountId, Hash

ONE, TWO = ContractId(bytes([1] * 32)), ContractId(bytes([2] * 32))
CALLER: Final = AccountId(bytes([3] * 32))
SOURCE: Final = b"""
from phat import Contract, Refused, command, emit, query

class Notes(Contract):
    total: int = 0
    note: str = ""

    def __init__(self, start: int = 0):
        self.total = start

    @command
    def add(self, n: int) -> int:
        self.total += n
        self.note = "x" * self.total
        emit("Added", n=n)
        return self.total

    @command
    def fail(self) -> None:
        self.total = 1000
        raise Refused("never")

    @command
    def block(self) -> list[int]:
        return [self.now.number]

    @query
    def value(self) -> int:
        return self.total
"""


def check_engine(engine: Engine, query: Callable[[EngineCall], EngineResult]) -> None:
    """Run the contract against an engine with no state; `query` is how it answers queries.

    Raises:
        AssertionError: naming the clause that does not hold.
    """

    def call(
        kind: CallKind, method: str, contract: ContractId = ONE, **named: object
    ) -> EngineCall:
        return EngineCall(
            kind=kind,
            contract=contract,
            code_id=code_id(Hash(bytes(32)), SOURCE),
            source=SOURCE,
            method=method,
            arguments=json.dumps(named).encode(),
            caller=CALLER,
            place=Place(7, 7_000, Hash(bytes(32))),
            seed=bytes(32),
            fuel=None if kind == "query" else 1 << FUEL_DEFAULT,
        )

    first, second, third = (at(number) for number in (1, 2, 3))
    begun = engine.run(call("instantiate", "", start=5))
    assert begun.ok, f"a contract is instantiated: {begun.error}"
    engine.apply(ONE, begun.changes, first)
    read = query(call("query", "value"))
    assert read.result == b"5", "a query reads what was applied"
    assert read.position == first, "and says which state it read"
    assert not read.changes, "and changes nothing"

    added = engine.run(call("command", "add", n=2))
    assert (added.ok, added.error_kind, added.result) == (True, ERROR_NONE, b"7"), "it adds"
    assert added.changes, "a command's writes come back"
    assert [name for name, _ in added.events] == ["Added"], "so do its events"
    assert query(call("query", "value")).result == b"5", "and count only once they are applied"
    again = engine.run(call("command", "add", n=2))
    assert again == added, "the same command on the same state does the same"
    engine.apply(ONE, added.changes, second)
    assert query(call("query", "value")).result == b"7", "then they count"

    for refused, kind in (
        (call("command", "fail"), ERROR_CONTRACT),
        (call("command", "add", m=1), ERROR_ARGUMENTS),
        (call("command", "value"), ERROR_ARGUMENTS),
        (call("command", "nothing"), ERROR_ARGUMENTS),
    ):
        failed = engine.run(refused)
        assert (failed.ok, failed.error_kind) == (False, kind), f"{refused.method} fails as {kind}"
        assert failed.error, "an error has a text"
    nonsense = b"no python"
    broken = replace(
        call("instantiate", ""), source=nonsense, code_id=code_id(Hash(bytes(32)), nonsense)
    )
    assert engine.run(broken).error_kind == ERROR_CODE, "source that does not load is told apart"

    assert query(call("query", "value", TWO)).result == b"0", "contracts do not share a state"
    engine.replace(ONE, {}, third)
    assert query(call("query", "value")).result == b"0", "a state is replaced whole"


def at(number: int) -> Position:
    return Position(Count(number), Hash(bytes([number] * 32)), Hash(bytes([number] * 32)))
