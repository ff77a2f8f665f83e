"""What the enclave's process does with requests that come while another is answered."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

from phala.messages.host import (
    HOST_REPLY,
    HOST_REQUEST,
    Advance,
    Advanced,
    Attest,
    Failure,
    HostReply,
)
from phala.primitives.types import BlockNumber, Hash
from phala.sealed.boot import Booted
from phala.sealed.server import Server

FEED = HOST_REQUEST.encode(Advance((), (), (), ()))


class SlowEnclave:
    """Applies a feed for as long as it is told to."""

    def __init__(self) -> None:
        self.store = None
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.feeds = 0

    def advance(self, _feed: Advance) -> Advanced:
        self.feeds += 1
        self.begun.set()
        assert self.go_on.wait(20)
        return Advanced(BlockNumber(self.feeds), Hash(bytes(32)))

    def attest(self, _request: Attest) -> Advanced:
        raise ZeroDivisionError("a bug")


def serving(enclave: SlowEnclave) -> Server:
    checkpoint = SimpleNamespace(compact_if_due=lambda _store: False)
    booted = SimpleNamespace(enclave=enclave, engines=None, checkpoint=checkpoint)
    return Server(cast("Booted", booted))


async def ask(server: Server, request: bytes) -> HostReply:
    reply: Any = HOST_REPLY.decode(await server.reply(request))
    return cast("HostReply", reply)


def test_a_feed_while_another_is_applied_is_not_queued() -> None:
    enclave = SlowEnclave()
    server = serving(enclave)

    async def story() -> None:
        first = asyncio.create_task(ask(server, FEED))
        await asyncio.to_thread(enclave.begun.wait, 20)
        for _ in range(3):
            refused = await ask(server, FEED)
            assert isinstance(refused, Failure)
            assert (refused.family, refused.kind) == (2, "Unavailable")
        enclave.go_on.set()
        assert await first == Advanced(BlockNumber(1), Hash(bytes(32)))
        assert await ask(server, FEED) == Advanced(BlockNumber(2), Hash(bytes(32)))

    asyncio.run(story())


def test_a_bug_met_by_one_request_is_an_answer_without_its_words() -> None:
    server = serving(SlowEnclave())

    failed = asyncio.run(ask(server, HOST_REQUEST.encode(Attest(None, ()))))
    assert isinstance(failed, Failure)
    assert failed.kind == "Stuck"
    assert "a bug" not in failed.what
