"""Queries of an event loop: it talks to engine children itself, beside threads that do too."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

import phala.phat
from phala.crypto.hashes import blake2_256
from phala.errors import Unavailable
from phala.wasm.job import (
    COMMAND_LIMITS,
    QUERY_LIMITS,
    BlockInfo,
    CodeId,
    ContractId,
    Job,
    Kind,
)
from phala.wasm.pool import EnginePool

COUNTER = (Path(phala.phat.__file__).parent / "templates" / "counter.py").read_bytes()
WARM = b"""
from phat import Contract, query

class Echo(Contract):
    warm = True

    @query
    def echo(self, n: int) -> int:
        return n

    @query
    def padded(self, n: int, pad: str) -> int:
        return n

    @query
    def forever(self) -> None:
        while True:
            pass
"""


def job(kind: Kind, source: bytes, method: str, **arguments: object) -> Job:
    return Job(
        kind=kind,
        contract=ContractId(blake2_256(source)),
        code_id=CodeId(blake2_256(source)),
        source=source,
        request=json.dumps({"method": method, "args": arguments}).encode(),
        caller=bytes(32),
        block=BlockInfo(7, 7_000, bytes(32)),
        limits=QUERY_LIMITS if kind == "query" else COMMAND_LIMITS,
    )


def echo(n: int) -> Job:
    return job("query", WARM, "echo", n=n)


def test_many_queries_at_once_get_each_its_own_answer() -> None:
    async def ask(pool: EnginePool) -> list[bytes]:
        outcomes = await asyncio.gather(*(pool.run_query(echo(n)) for n in range(100)))
        return [outcome.result for outcome in outcomes]

    with EnginePool(children=2) as pool:
        for _ in range(2):  # the second time in another loop
            assert asyncio.run(ask(pool)) == [str(n).encode() for n in range(100)]


def test_queries_of_a_loop_and_commands_of_threads_share_the_children() -> None:
    with EnginePool(children=1) as pool:

        async def both() -> tuple[list[bytes], list[bytes]]:
            commands = [
                asyncio.to_thread(pool.run_command, job("command", COUNTER, "add", n=n))
                for n in range(1, 6)
            ]
            queries = [pool.run_query(echo(n)) for n in range(20)]
            found = await asyncio.gather(*commands, *queries)
            results = [outcome.result for outcome in found]
            return results[:5], results[5:]

        added, echoed = asyncio.run(both())

    assert added == [str(n).encode() for n in range(1, 6)]
    assert echoed == [str(n).encode() for n in range(20)]


def test_a_killed_childs_query_fails_and_those_behind_it_are_answered() -> None:
    with EnginePool(children=1) as pool:

        async def story() -> None:
            await pool.run_query(echo(0))  # from now on the loop itself talks to the child
            (child,) = pool.children
            stuck = asyncio.create_task(pool.run_query(job("query", WARM, "forever")))
            behind = [asyncio.create_task(pool.run_query(echo(n))) for n in range(5)]
            await asyncio.sleep(0)
            os.kill(child.process.pid, signal.SIGKILL)
            with pytest.raises(Unavailable, match="ended"):
                await stuck
            assert [(await each).result for each in behind] == [b"0", b"1", b"2", b"3", b"4"]

        asyncio.run(story())


def test_a_query_that_nobody_waits_for_any_more_takes_no_child_with_it() -> None:
    with EnginePool(children=1) as pool:

        async def story() -> bytes:
            await pool.run_query(echo(0))
            tasks = [asyncio.create_task(pool.run_query(echo(n))) for n in range(600)]
            await asyncio.sleep(0)
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return (await pool.run_query(echo(7))).result

        assert asyncio.run(story()) == b"7"


def test_a_request_too_large_to_go_at_once_goes_all_the_same() -> None:
    with EnginePool(children=1) as pool:

        async def story() -> bytes:
            await pool.run_query(echo(0))
            large = job("query", WARM, "padded", n=9, pad="x" * 500_000)
            return (await pool.run_query(large)).result

        assert asyncio.run(story()) == b"9"


def test_a_child_that_forgot_the_source_gets_it_again() -> None:
    with EnginePool(children=1) as pool:

        async def story() -> bytes:
            await pool.run_query(echo(0))
            (child,) = pool.children
            other = job("query", WARM + b"# changed\n", "echo", n=3)
            child.codes.add(other.code_id)  # as if it had been sent long ago
            return (await pool.run_query(other)).result

        assert asyncio.run(story()) == b"3"


def test_a_pool_that_closes_leaves_nobody_waiting() -> None:
    pool = EnginePool(children=1)

    async def story() -> None:
        await pool.run_query(echo(0))
        stuck = asyncio.create_task(pool.run_query(job("query", WARM, "forever")))
        behind = asyncio.create_task(pool.run_query(echo(1)))
        await asyncio.sleep(0)
        pool.close()
        for each in (stuck, behind):
            with pytest.raises(Unavailable):
                await each

    asyncio.run(story())
