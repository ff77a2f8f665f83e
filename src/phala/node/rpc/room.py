"""Bounds what all connections together make the node hold: what came and is not whole yet, and what
waits for peers to read. A limit of each alone would be of none: there may be thousands."""

from typing import Final

SHARE_BYTES: Final = 128 * 1024  # of one connection, whatever the others hold


class Room:
    """Bytes for all."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used = 0


class Held:
    """What one connection holds of it."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._bytes = 0

    def take(self, count: int) -> bool:
        """Whether that much more is to be held: else it is its holder who gives something up."""
        self._bytes += count
        self._room.used += count
        return self._room.used <= self._room.bytes_max or self._bytes <= SHARE_BYTES

    def give_back(self, count: int | None = None) -> None:
        """So much of it, or all."""
        count = self._bytes if count is None else min(count, self._bytes)
        self._bytes -= count
        self._room.used -= count
