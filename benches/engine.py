"""A contract's call inside the engine, warm and fresh, against its function in native CPython."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import phala.phat
from benches.report import Figure, Times, timed, times_of
from phala.phat import entry
from phala.phat.local import LocalHost
from phala.wasm.call import Call, State
from phala.wasm.child import Clock
from phala.wasm.engine import Component, Engine, Instance
from phala.wasm.executor import Executor
from phala.wasm.job import (
    COMMAND_LIMITS,
    COMPILE_LIMITS,
    QUERY_LIMITS,
    BlockInfo,
    CodeId,
    ContractId,
    Job,
    Kind,
)
from phala.wasm.pool import EnginePool
from phala.wasm.runtime_module import load_runtime

SOURCE = (Path(__file__).parent / "contracts" / "sums.py").read_bytes()
XS = list(range(1000, 1018))
ARGUMENTS = json.dumps({"xs": XS}, separators=(",", ":")).encode()  # a hundred bytes
ANSWER = {"sum": sum(XS), "n": len(XS)}
ROUNDS = 4  # ours and the baseline take turns, so that a busy moment meets both


@dataclass(frozen=True)
class Size:
    warm: int
    fresh: int


FULL, QUICK = Size(4_000, 400), Size(400, 40)


def native(request: bytes) -> bytes:
    """What the contract does, with nothing around it."""
    xs = json.loads(request)["xs"]
    return json.dumps({"sum": sum(xs), "n": len(xs)}).encode()


def job(kind: Kind, *, warm: bool) -> Job:
    source = SOURCE if warm else SOURCE.replace(b"warm = True", b"warm = False")
    method = b"sums" if kind == "query" else b"sums_as_command"
    return Job(
        kind=kind,
        contract=ContractId(bytes(32)),
        code_id=CodeId(blake2b(source, digest_size=32).digest()),
        source=source,
        request=b'{"method":"' + method + b'","args":' + ARGUMENTS + b"}",
        caller=None,
        block=BlockInfo(1, 1_000, bytes(32)),
        limits=QUERY_LIMITS if kind == "query" else COMMAND_LIMITS,
    )


def run(*, quick: bool) -> Iterator[Figure]:
    size = QUICK if quick else FULL
    module = load_runtime()
    engine = Engine()
    component = Component(engine, module.compiled)
    executor = Executor(component, Clock(engine).watch)
    warm, fresh = job("query", warm=True), job("command", warm=False)
    for each in (warm, fresh):
        ensure_right(executor.execute(each).result)
    ensure_right(native(ARGUMENTS))

    ours, base, guest = turns(
        size.warm,
        lambda: executor.execute(warm),
        lambda: native(ARGUMENTS),
        guest_alone(component, warm),
    )
    yield Figure(
        "contract call in the engine, warm", "us", ours.p50, "native CPython", base.p50,
        more={**ours.named, "least_us": ours.least, "guest_us": guest.p50,
              "around_it_us": ours.p50 - guest.p50, "native_phat_us": native_phat(size.warm),
              "fuel": executor.execute(warm).fuel_used, "argument_bytes": len(ARGUMENTS)},
    )  # fmt: skip
    ours, base = turns(size.fresh, lambda: executor.execute(fresh), lambda: native(ARGUMENTS))
    yield Figure(
        "contract call in the engine, fresh instance", "us", ours.p50, "native CPython", base.p50,
        more={**ours.named, "least_us": ours.least},
    )  # fmt: skip
    with EnginePool(module, children=1) as pool:
        for times, each, call, name in (
            (size.warm, warm, pool.run_query_blocking, "query through the engine's pool, warm"),
            (size.fresh, fresh, pool.run_command, "command through the engine's pool, fresh"),
        ):
            ensure_right(call(each).result)
            ours, base = turns(times, lambda: call(each), lambda: native(ARGUMENTS))  # noqa: B023
            yield Figure(
                name, "us", ours.p50, "native CPython", base.p50,
                more={**ours.named, "least_us": ours.least},
            )  # fmt: skip


def turns(times: int, *works: Callable[[], object]) -> list[Times]:
    taken: list[list[int]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for into, work in zip(taken, works, strict=True):
            into.extend(timed(work, times // ROUNDS))
    return [times_of(each) for each in taken]


def guest_alone(component: Component, asked: Job) -> Callable[[], object]:
    """The guest and the engine's calling layer, without what stands around them."""
    call = Call(
        State(), asked.limits, writable=False, caller=None, block=asked.block, seed=asked.seed
    )  # fmt: skip
    with Instance(component, COMPILE_LIMITS) as compiler:
        _, code = compiler.run("compile", call, asked.source)
    instance = Instance(component, asked.limits)
    instance.run("load", call, code, False)  # noqa: FBT003

    def again() -> None:
        instance.refuel(asked.limits)
        instance.run("query", call, asked.request)

    return again


def native_phat(times: int) -> float:
    """The same with `phat` around it, natively: what the guest's CPython and the sandbox add."""
    sys.modules["phat"] = phala.phat
    owner, host = entry.load(entry.compile_source(SOURCE)), LocalHost()
    request = job("query", warm=True).request
    return times_of(timed(lambda: entry.call(owner, host, "query", request), times)).p50


def ensure_right(result: bytes) -> None:
    if json.loads(result) != ANSWER:
        raise RuntimeError(f"{result[:200]!r} is not {ANSWER}")
