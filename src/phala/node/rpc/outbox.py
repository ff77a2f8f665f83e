"""Answers of one turn of the event loop, sent together at its end.

Each sending may wake its reader, who then runs where this process did: were answers sent as they
come, a busy node would be put aside for each.
"""

import asyncio
from typing import Final

SENT_AT_ONCE: Final = 32  # answers; so many do not wait for the end of the turn
LARGE_BYTES: Final = 64 * 1024  # one of them; it does not, either


class Outbox:
    """Of one door: what goes to all its connections, in the order in which it was put."""

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, data: bytes) -> None:
        self._waiting.append((transport, data))
        if len(self._waiting) >= SENT_AT_ONCE or len(data) >= LARGE_BYTES:
            self.send()
        elif len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self.send)

    def send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
