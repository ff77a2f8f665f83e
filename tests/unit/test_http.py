"""The client of a worker's doors, against servers of every manner."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from phala.errors import Invalid, Unavailable
from phala.sdk.http import HttpClient

pytestmark = pytest.mark.anyio

FINE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def server(*answers: bytes, close_after: int = 1_000) -> AsyncIterator[tuple[str, list[int]]]:
    """Answers each request by the next bytes; a connection ends after some of them, or at b""."""
    connections: list[int] = []
    talks: list[asyncio.Task[Any]] = []
    left = list(answers)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.append(task)
        connections.append(0)
        mine = len(connections) - 1
        while connections[mine] < close_after and left:
            try:
                await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            connections[mine] += 1
            if not (said := left.pop(0)):
                break
            writer.write(said)
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", connections
    finally:
        listening.close()
        await listening.wait_closed()
        await asyncio.wait_for(asyncio.gather(*talks, return_exceptions=True), 10)


async def test_a_connection_serves_again() -> None:
    async with server(FINE, FINE, FINE) as (url, connections):
        client = HttpClient(url, timeout_s=5)
        for _ in range(3):
            assert await client.send("GET", "/", bytes_max=10) == (200, b"ok")
        await client.close()

    assert connections == [3]


async def test_a_connection_closed_while_idle_is_replaced() -> None:
    async with server(FINE, FINE, close_after=1) as (url, connections):
        client = HttpClient(url, timeout_s=5)
        for _ in range(2):
            assert await client.send("GET", "/", bytes_max=10) == (200, b"ok")
        await client.close()

    assert connections == [1, 1]


async def test_an_answer_in_chunks_is_put_together() -> None:
    chunked = b"HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    async with server(chunked) as (url, _):
        client = HttpClient(url, timeout_s=5)
        assert await client.send("POST", "/query", b"body", bytes_max=10) == (404, b"abc")
        await client.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n" + b"x" * 20,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    ],
)
async def test_what_is_no_whole_answer_is_unavailable(said: bytes) -> None:
    async with server(said, b"") as (url, _):
        client = HttpClient(url, timeout_s=0.5)
        with pytest.raises(Unavailable, match="does not answer"):
            await client.send("GET", "/", bytes_max=10)
        await client.close()


async def test_a_server_that_is_away_is_unavailable() -> None:
    async with server() as (url, _):
        pass
    client = HttpClient(url, timeout_s=1)

    with pytest.raises(Unavailable):
        await client.send("GET", "/", bytes_max=10)


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1", "127.0.0.1:80", "http://", "http://a:port", "http://[", "http://a/b"]
)
async def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="no HTTP address"):
        HttpClient(url, timeout_s=1)
