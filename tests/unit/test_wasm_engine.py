"""The engine by its outcomes: contracts that behave, and contracts that do all they can not to."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import phala.phat
from phala.crypto.hashes import blake2_256
from phala.errors import Invalid, Unavailable
from phala.wasm import child as engine_child
from phala.wasm.call import SKIP_FUEL, Call, Ended, State
from phala.wasm.engine import TICK_MS, Component, Engine
from phala.wasm.executor import Executor
from phala.wasm.job import (
    COMMAND_LIMITS,
    QUERY_LIMITS,
    SOURCE_BYTES_MAX,
    BlockInfo,
    CodeId,
    ContractId,
    ErrorKind,
    Job,
    Kind,
    Limits,
    Outcome,
    fuel_class,
)
from phala.wasm.pool import EnginePool
from phala.wasm.runtime_module import ensure_compiled, load_runtime

REAL_SLEEP = time.sleep
COUNTER = (Path(phala.phat.__file__).parent / "templates" / "counter.py").read_bytes()
ALICE = bytes.fromhex("d43593c715fdd31c61141abd04a99fd6822c8557854ccde39a5684e7a56da27d")
BLOCK = BlockInfo(7, 7_000, b"\x07" * 32)
SMALL = replace(COMMAND_LIMITS, fuel=3_000_000_000)

CONTRACT = """
from typing import Any
from phat import *

class Trial(Contract):
    warm = {warm}
    total: int = 0
    text: str = ""
    rows: Map[str, str]

    @{kind}
    def go(self) -> Any:
        {body}
"""


def job(
    kind: Kind,
    request: bytes | dict[str, Any],
    *,
    source: bytes = COUNTER,
    contract: bytes = b"counter",
    limits: Limits | None = None,
    seed: bytes = bytes(32),
) -> Job:
    return Job(
        kind=kind,
        contract=ContractId(blake2_256(contract)),
        code_id=CodeId(blake2_256(source)),
        source=source,
        request=request if isinstance(request, bytes) else json.dumps(request).encode(),
        caller=ALICE,
        block=BLOCK,
        limits=limits or (QUERY_LIMITS if kind == "query" else COMMAND_LIMITS),
        seed=seed,
    )


def trial(
    body: str, kind: Kind = "command", *, warm: bool = False, limits: Limits | None = None
) -> Job:
    source = CONTRACT.format(kind=kind, body=body.replace("\n", "\n        "), warm=warm).encode()
    return job(kind, {"method": "go"}, source=source, contract=source, limits=limits or (
        SMALL if kind == "command" else QUERY_LIMITS
    ))  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[EnginePool]:
    with EnginePool(children=2) as pool:
        yield pool


def run(pool: EnginePool, job: Job) -> Outcome:
    if job.kind == "query":
        return pool.run_query_blocking(job)
    outcome = pool.run_command(job)
    assert outcome.ok or not (outcome.changes or outcome.events)
    return outcome


def commit(pool: EnginePool, job: Job) -> Outcome:
    outcome = run(pool, job)
    pool.apply_changes(job.contract, outcome.changes)
    return outcome


def test_a_counter_counts(pool: EnginePool) -> None:
    assert commit(pool, job("instantiate", {})).ok
    assert commit(pool, job("command", {"method": "add", "args": {"n": 2}})).result == b"2"
    added = commit(pool, job("command", {"method": "add", "texts": {"n": "3"}}))

    assert added.result == b"5"
    assert added.changes == {b"total": b"5"}
    assert added.events[0][0] == "Added"
    assert json.loads(added.events[0][1])["n"] == 3
    assert run(pool, job("query", {"method": "value"})).result == b"5"


def test_state_is_kept_only_when_the_pool_is_told(pool: EnginePool) -> None:
    add = job("command", {"method": "add", "args": {"n": 4}}, contract=b"uncommitted")
    assert run(pool, add).result == b"4"
    assert run(pool, add).result == b"4"

    pool.set_state(add.contract, {b"total": b"40"}, "first")
    assert (run(pool, add).result, run(pool, add).at) == (b"44", "first")
    pool.apply_changes(add.contract, {b"total": None}, "second")
    assert (run(pool, add).result, run(pool, add).at) == (b"4", "second")


def test_every_child_sees_the_newest_state(pool: EnginePool) -> None:
    value = job("query", {"method": "value"}, contract=b"replicated")

    async def both() -> set[bytes]:
        outcomes = await asyncio.gather(*(pool.run_query(value) for _ in range(8)))
        return {outcome.result for outcome in outcomes}

    for version in range(1, 100, 7):
        for step in range(7):
            pool.apply_changes(value.contract, {b"total": str(version + step).encode()})
        assert asyncio.run(both()) == {str(version + 6).encode()}
    pool.drop_state(value.contract)
    assert asyncio.run(both()) == {b"0"}


def test_replicas_beyond_the_limit_are_sent_again() -> None:
    with EnginePool(children=1, replica_bytes_max=3_000) as pool:
        jobs = [job("query", {"method": "value"}, contract=b"%d" % at) for at in range(5)]
        for at, each in enumerate(jobs):
            pool.set_state(each.contract, {b"total": b"%d" % at, b"x": bytes(1_000)})

        for _ in range(2):
            assert [run(pool, each).result for each in jobs] == [b"0", b"1", b"2", b"3", b"4"]
        (child,) = pool.children
        assert len(child.replicas) == 2


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ("while True: pass", ErrorKind.FUEL, "fuel"),
        ("import re; re.match('(a+)+$', 'a' * 40 + 'b')", ErrorKind.FUEL, "fuel"),
        ("return 10 ** 10 ** 7 % 7", ErrorKind.FUEL, "fuel"),
        ("kept = []\nwhile True: kept.append(bytes(1 << 20))", ErrorKind.MEMORY, "memory is full"),
        ("return 'a' * (1 << 30)", ErrorKind.MEMORY, "memory is full"),
        ("def f(): return f()\nf()", ErrorKind.STACK, "recursed too deep"),
        (
            "deep = []\nfor _ in range(100_000): deep = [deep]\nreturn repr(deep)",
            ErrorKind.STACK,
            "recursed too deep",
        ),
        ("raise ValueError('no \\ud800')", ErrorKind.RAISED, "ValueError: no ? (contract.py line"),
        ("raise Refused('closed')", ErrorKind.REFUSED, "closed"),
        ("raise SystemExit(3)", ErrorKind.RAISED, "SystemExit: 3"),
        ("raise KeyboardInterrupt", ErrorKind.RAISED, "KeyboardInterrupt"),
        ("self.text = 'x' * 2_000_000", ErrorKind.STATE, "text has 2000002 bytes"),
        (
            "for at in range(100): self.rows[str(at)] = 'x' * 1_000_000",
            ErrorKind.STATE,
            "more than 8388608 bytes written",
        ),
        ("return 'x' * 2_000_000", ErrorKind.OUTPUT, "a result of 2000002 bytes"),
        ("for _ in range(3): emit('E', x='x' * 500_000)", ErrorKind.OUTPUT, "events of more"),
        (
            "import wit_world.imports.host as h; h.set(bytes(2000), b'')",
            ErrorKind.STATE,
            "a key of 2000 bytes",
        ),
        (
            "import wit_world.imports.host as h; h.set(b'k', bytes(3_000_000))",
            ErrorKind.OUTPUT,
            "too many bytes leave the guest at once",
        ),
        ("import wit_world.imports.host as h; h.set(b'k', bytes(30_000_000))", None, ""),
        ("import wit_world.imports.host as h; h.log(1, 'x' * 100_000_000)", None, ""),
        ("open('/etc/passwd')", ErrorKind.RAISED, "a contract has no files"),
        ("import threading; threading.Thread(target=print).start()", ErrorKind.RAISED, "thread"),
        ("import socket", ErrorKind.RAISED, "No module named 'socket'"),
        ("return float('nan')", ErrorKind.RAISED, "not JSON compliant"),
    ],
)
def test_a_hostile_command_is_told_its_limit_and_the_next_one_works(
    pool: EnginePool, body: str, kind: ErrorKind | None, text: str
) -> None:
    children = {child.process.pid for child in pool.children}
    outcome = run(pool, trial(body))

    assert not outcome.ok
    assert outcome.error is kind or kind is None, outcome
    assert text in outcome.text
    assert run(pool, job("command", {"method": "add", "args": {"n": 1}}, contract=b"next")).ok
    assert children <= {child.process.pid for child in pool.children}, "no child had to die"


def test_writing_100_mb_ends_the_call(pool: EnginePool) -> None:
    outcome = run(pool, trial("self.text = 'x' * 100_000_000", limits=COMMAND_LIMITS))

    assert outcome.error in {ErrorKind.MEMORY, ErrorKind.STATE}


def test_too_many_host_calls_end_the_call(pool: EnginePool) -> None:
    limits = replace(COMMAND_LIMITS, host_calls_max=1_000)

    outcome = run(pool, trial("for at in range(2000): self.rows.get(str(at))", limits=limits))
    assert outcome.error is ErrorKind.HOST_CALLS


def test_a_scan_costs_what_it_finds_and_passes_not_what_was_written() -> None:
    state = State()
    state.apply({b"a/%04d" % at: b"old" for at in range(0, 3_000, 2)})
    limits = replace(COMMAND_LIMITS, fuel=20_000_000)
    call = Call(
        state, limits, writable=True, caller=None, block=BlockInfo(0, 0, bytes(32)), seed=bytes(32)
    )
    for at in range(1, 3_000, 2):
        call.set(b"a/%04d" % at, b"new")
    call.set(b"a/0001", None)
    call.set(b"b", b"new")

    assert call.scan(b"a/", b"", 3) == [
        (b"a/0000", b"old"),
        (b"a/0002", b"old"),
        (b"a/0003", b"new"),
    ]
    assert call.scan(b"a/", b"a/2998", 9) == [(b"a/2998", b"old"), (b"a/2999", b"new")]
    assert call.host_fuel == SKIP_FUEL, "one deleted key was passed"
    for at in range(3_000):
        call.set(b"a/%04d" % at, None)
    with pytest.raises(Ended, match="fuel"):
        call.scan(b"a/", b"", 1)


def test_the_clock_ends_a_query(pool: EnginePool) -> None:
    limits = replace(QUERY_LIMITS, wall_ms=200)
    started = time.monotonic()
    outcome = run(pool, trial("while True: pass", "query", limits=limits))

    assert outcome.error is ErrorKind.TIME
    assert 0.19 < time.monotonic() - started < 5


def test_a_query_cannot_write(pool: EnginePool) -> None:
    for body in ("self.total = 1", "import wit_world.imports.host as h; h.set(b'k', b'')"):
        outcome = run(pool, trial(body, "query"))

        assert outcome.error is ErrorKind.READ_ONLY
        assert not outcome.changes


def test_what_is_printed_reaches_the_log_within_its_limit(pool: EnginePool) -> None:
    outcome = run(pool, trial("print('one', 1)\nlog('two', 2)\nraise ValueError"))
    assert outcome.logs == ("one 1", "two 2")

    flood = run(pool, trial("for _ in range(3000): print('x' * 100)"))
    assert sum(map(len, flood.logs)) <= SMALL.log_bytes_max


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (b"def (", "invalid syntax (contract.py line 1)"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"x = 1", "found: none"),
        (b"\0", "null bytes"),
        (b"(" * 5_000, "too complex"),
        (b"raise SystemExit", "SystemExit"),
        (b"import numpy", "No module named 'numpy'"),
        (b" ", "found: none"),
    ],
)
def test_garbage_for_a_source_is_told_why(pool: EnginePool, source: bytes, text: str) -> None:
    for outcome in (
        pool.describe(CodeId(blake2_256(source)), source),
        run(pool, job("instantiate", {}, source=source, contract=source)),
    ):
        assert outcome.error is ErrorKind.SOURCE
        assert text in outcome.text


def test_a_source_that_loops_when_it_is_loaded_ends(pool: EnginePool) -> None:
    outcome = run(pool, job("instantiate", {}, source=b"while True: pass", limits=SMALL))

    assert outcome.error is ErrorKind.FUEL


def test_what_is_too_large_is_refused_at_the_door(pool: EnginePool) -> None:
    with pytest.raises(Invalid, match="a source of"):
        run(pool, job("command", {}, source=bytes(SOURCE_BYTES_MAX + 1)))
    with pytest.raises(Invalid, match="a request of"):
        run(pool, job("command", bytes(2 << 20)))


def test_the_interface_is_described(pool: EnginePool) -> None:
    found = json.loads(pool.describe(CodeId(blake2_256(COUNTER)), COUNTER).result)

    assert [(method["kind"], method["name"]) for method in found["methods"]] == [
        ("command", "add"),
        ("query", "value"),
    ]


CHANCE = (
    "import datetime, random, time, uuid\n"
    "return [random.random(), str(uuid.uuid4()), time.time(), str(datetime.datetime.now()),\n"
    "        hash('abc'), list({'a', 'b', 'c', 'd'}), id(self)]"
)


@pytest.mark.parametrize("body", [CHANCE, "return sum(at * 0.1 for at in range(1000))"])
def test_a_command_has_one_outcome_on_every_child(body: str) -> None:
    with EnginePool(children=1) as first, EnginePool(children=1) as second:
        run(second, job("query", {"method": "value"}))  # another history
        outcomes = [run(pool, trial(body)) for pool in (first, first, second)]

    assert outcomes[0].ok
    assert outcomes[0].fuel_used > 0
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_what_this_machine_lacks_decides_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_runtime()
    ensure_compiled(module)
    executor = Executor(Component(Engine(), module.compiled), lambda _ms: None)

    def lacking(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Call, "get", lacking)
    body = "return self.rows.get('a')"

    with pytest.raises(MemoryError):
        executor.execute(trial(body))
    assert executor.execute(trial(body, "query")).error is ErrorKind.TRAP


def test_chance_follows_the_seed_and_time_the_block(pool: EnginePool) -> None:
    draws = [run(pool, replace(trial(CHANCE), seed=bytes([at]) * 32)).result for at in (1, 2)]
    (one, two) = (json.loads(draw) for draw in draws)

    assert one[:2] != two[:2]
    assert one[2:4] == two[2:4] == [7.0, "1970-01-01 00:00:07"]


def test_a_killed_childs_command_runs_again() -> None:
    with EnginePool(children=1) as pool:
        pool.start()
        (first,) = pool.children
        body = "total = 0\nfor at in range(5_000_000): total += at\nreturn total"
        slow = trial(body, limits=COMMAND_LIMITS)
        killer = threading.Timer(0.3, os.kill, (first.process.pid, signal.SIGKILL))
        killer.start()
        outcome = run(pool, slow)
        killer.join()

        assert outcome.result == str(sum(range(5_000_000))).encode()
        assert first.process.returncode == -signal.SIGKILL


def test_a_killed_childs_query_fails_closed() -> None:
    with EnginePool(children=1) as pool:
        pool.start()
        (child,) = pool.children
        killer = threading.Timer(0.2, os.kill, (child.process.pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(Unavailable):
            run(pool, trial("while True: pass", "query"))
        killer.join()

        assert run(pool, job("query", {"method": "value"})).result == b"0"


def test_children_leave_no_trace_and_no_orphan() -> None:
    pool = EnginePool(children=1)
    pool.start()
    (child,) = pool.children
    limits = Path(f"/proc/{child.process.pid}/limits").read_text()
    pool.close()

    assert "Max core file size        0" in limits
    assert not Path(f"/proc/{child.process.pid}").exists()
    with pytest.raises(Unavailable):
        run(pool, job("query", {"method": "value"}))


def test_a_warm_contract_reads_state_anew_and_keeps_nothing_after_an_error() -> None:
    body = "global uses\nuses = globals().get('uses', 0) + 1\nreturn [uses, 1 // (3 - self.total)]"
    with EnginePool(children=1) as pool:
        warm, fresh = trial(body, "query", warm=True), trial(body, "query")
        seen = []
        for total in (0, 1, 2, 3, 1):
            pool.apply_changes(warm.contract, {b"total": b"%d" % total})
            outcome = run(pool, warm)
            seen.append(json.loads(outcome.result) if outcome.ok else outcome.error)

        assert seen == [[1, 0], [2, 0], [3, 1], ErrorKind.RAISED, [1, 0]]
        assert [run(pool, fresh).result for _ in range(2)] == [b"[1,0]", b"[1,0]"]


def test_a_fuel_class_is_the_power_of_two_above() -> None:
    assert [fuel_class(used) for used in (0, 1, 2, 3, 4, 5, 1 << 40)] == [0, 0, 1, 2, 2, 3, 40]


def dirty_kb(pid: int) -> int:
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_Dirty"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "body", ["emit('E', a=1)\nself.rows['k'] = 'v'\nreturn list(self.rows)", "1 / 0"]
)
def test_many_calls_leak_nothing(body: str, record_property: Callable[[str, object], None]) -> None:
    """Host functions, results, errors and instances, each thousands of times."""
    with EnginePool(children=1) as pool:
        each = trial(body)
        for _ in range(200):
            run(pool, each)
        (child,) = pool.children
        before = dirty_kb(child.process.pid)
        for _ in range(1_000):
            run(pool, each)
        after = dirty_kb(child.process.pid)

    record_property("dirty_kb", (before, after))
    assert after - before < 2_000, f"from {before} to {after} KB of the child's own"


def test_the_clock_of_queries_counts_time_where_sleeps_are_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ticked:
        ticks = 0

        def tick(self) -> None:
            self.ticks += 1

    late = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: REAL_SLEEP(7 * seconds))
    monkeypatch.setattr(engine_child, "time", late)
    engine, wall_ms = Ticked(), 300

    engine_child.Clock(cast("Engine", engine)).watch(wall_ms)
    deadline = time.monotonic() + 20
    while (
        engine.ticks < (wall_ms + engine_child.LINGER_MS) // TICK_MS and time.monotonic() < deadline
    ):
        REAL_SLEEP(0.02)

    assert engine.ticks >= (wall_ms + engine_child.LINGER_MS) // TICK_MS
