"""What a development network's owner may ask of its author: blocks at once, another time, and to go
back to a snapshot. No clock of its own.

All that it changes is in headers and bodies. What is finalized stays: while a snapshot is kept, no
block above it is signed, so going back breaks no word that was given to anybody.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from phala.errors import Invalid, Refused
from phala.node.chain import WINDOW_KEYS_MAX, View
from phala.node.engines.author import Author
from phala.primitives.keys import storage_prefix
from phala.primitives.types import BlockNumber, Moment

LOG: Final = logging.getLogger("phala.node.dev")
DEVELOPMENT: Final = "Development"
AT_ONCE: Final = 32  # extrinsics
BLOCKS_MAX: Final = 4_096  # in one request
MS_MAX: Final = 1 << 43  # some 278 years after 1970, or from now
SNAPSHOTS_MAX: Final = 16
# A snapshot older than that is forgotten: states above it are in memory, and nobody is told that
# anything is final.
SNAPSHOT_BLOCKS_MAX: Final = 4_096
IS_DEV_KEY: Final = storage_prefix("Dev", "IsDev")
TIME_KEY: Final = storage_prefix("Timestamp", "Now")
NAME: Final = re.compile("[A-Za-z0-9_.-]{1,64}")


class NotADevChain(Refused):
    """The chain is not for this."""

    def __init__(self) -> None:
        super().__init__(
            "this is no dev chain: its genesis does not say that it is a development network",
            mend="begin one with `phala up`",
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """What a snapshot's name stands for."""

    number: BlockNumber
    hash: bytes
    ahead_ms: int


@dataclass(slots=True)
class Mining:
    """Blocks that are asked for and not all written."""

    blocks: int
    start_ms: int | None  # None: by the clock, as it is
    span_ms: int
    done: int = 0


def is_dev(chain: View, chain_type: str) -> bool:
    """Whether both the spec and the state of the chain say so."""
    said = chain.value(IS_DEV_KEY, chain.head.number)
    return chain_type == DEVELOPMENT and said == b"\1"


class Cheats:
    """One author's chain, on its owner's word."""

    def __init__(self, author: Author, now: Moment) -> None:
        self._author = author
        self._chain = author.writer.chain
        self._snapshots: dict[str, Kept] = {}
        self._mining: Mining | None = None
        self._ahead_ms = max(0, self._head_ms() - now)  # where the time was set before a restart

    def clock(self, now: Moment) -> Moment:
        """What the chain's owner wants the time to be."""
        return Moment(now + self._ahead_ms)

    def _head_ms(self) -> int:
        said = self._chain.value(TIME_KEY, self._chain.head.number)
        return int.from_bytes(said or b"", "little")

    @property
    def is_mining(self) -> bool:
        return self._mining is not None

    # ---- what is asked for

    def ask(self, request: Mapping[str, Any], now: Moment) -> dict[str, Any] | None:
        """Do it, and say what was done. None: blocks are to be mined first, see `mine_one`.

        Raises:
            Invalid, Refused: nothing is done.
        """
        match request:
            case {"do": "mine", "blocks": int(blocks), "span_ms": int() | None as span_ms}:
                self._mine(blocks, span_ms, now)
                return None
            case {"do": "set_time", "ms": int(ms)}:
                return self._set_time(ms, now)
            case {"do": "snapshot", "name": str(name)}:
                return self._snapshot(name)
            case {"do": "release", "name": str(name)}:
                kept = self._kept(name)
                self._forget(name)
                return {"name": name, "number": kept.number}
            case {"do": "revert", "name": str(name), "keep": bool(keep)}:
                return self._revert(name, keep=keep)
            case {"do": "snapshots"}:
                return {"snapshots": {name: self._told(name) for name in self._snapshots}}
            case _:
                raise Invalid(f"{str(request)[:100]} is nothing to do", mend="see `dev_*`")

    def _mine(self, blocks: int, span_ms: int | None, now: Moment) -> None:
        if not 1 <= blocks <= BLOCKS_MAX:
            raise Invalid(f"{blocks} blocks", mend=f"ask for 1 to {BLOCKS_MAX} at once")
        if self._mining is not None:
            raise Refused("blocks are being mined", mend="wait for them")
        if span_ms is None:
            self._mining = Mining(blocks, None, 0)
            return
        start_ms = max(self.clock(now), self._head_ms())
        if not 0 <= span_ms <= MS_MAX or start_ms + span_ms > MS_MAX:
            raise Invalid(f"{span_ms} ms on", mend="go forward by less")
        self._write_open(now)
        self._mining = Mining(blocks, start_ms, span_ms)

    def _set_time(self, ms: int, now: Moment) -> dict[str, Any]:
        head_ms = self._head_ms()
        if not head_ms < ms <= MS_MAX:
            raise Invalid(
                f"the time {ms} ms; the head's is {head_ms}",
                mend="time never runs back: set a later one, or revert to a snapshot",
            )
        self._write_open(now)
        self._ahead_ms = ms - now
        return {"time_ms": ms}

    def _write_open(self, now: Moment) -> None:
        """A block that is open has the time at which it was begun."""
        if self._author.writer.is_open:
            self._author.write(self.clock(now))

    def _snapshot(self, name: str) -> dict[str, Any]:
        if not NAME.fullmatch(name):
            raise Invalid(f"the name {name[:80]!r}", mend="1 to 64 of A-Z a-z 0-9 _ . -")
        if len(self._snapshots) >= SNAPSHOTS_MAX and name not in self._snapshots:
            raise Refused(f"{SNAPSHOTS_MAX} snapshots are kept", mend="release one of them")
        head = self._chain.head
        self._snapshots.pop(name, None)  # the latest is the last
        self._snapshots[name] = Kept(head.number, head.hash(), self._ahead_ms)
        self._hold()
        return {"name": name, **self._told(name)}

    def _told(self, name: str) -> dict[str, Any]:
        kept = self._snapshots[name]
        return {"number": kept.number, "hash": "0x" + kept.hash.hex()}

    def _revert(self, name: str, *, keep: bool) -> dict[str, Any]:
        if self._mining is not None:
            raise Refused("blocks are being mined", mend="wait for them")
        kept = self._kept(name)
        gone = self._chain.head.number - kept.number
        self._author.revert(kept.number)
        self._ahead_ms = kept.ahead_ms
        for other, later in tuple(self._snapshots.items()):
            if later.number > kept.number:
                del self._snapshots[other]
        if not keep:
            self._snapshots.pop(name)
        self._hold()
        return {"name": name, "number": kept.number, "hash": "0x" + kept.hash.hex(), "gone": gone}

    def _kept(self, name: str) -> Kept:
        kept = self._snapshots.get(name)
        if kept is None:
            known = ", ".join(self._snapshots) or "none"
            raise Invalid(
                f"no snapshot is called {name[:80]!r}; there are: {known}", mend="take one first"
            )
        return kept

    def _forget(self, name: str) -> None:
        del self._snapshots[name]
        self._hold()

    def _hold(self) -> None:
        kept = [each.number for each in self._snapshots.values()]
        self._author.hold = min(kept, default=None)

    # ---- what goes on

    def mine_one(self, now: Moment) -> dict[str, Any] | None:
        """Write the next of the blocks that are asked for. What was done, once it was the last."""
        mining, author = self._mining, self._author
        assert mining is not None
        mining.done += 1
        if mining.start_ms is not None:
            at = mining.start_ms + mining.span_ms * mining.done // mining.blocks
            self._ahead_ms = at - now
        clock = self.clock(now)
        if mining.done == 1:
            while author.can_execute:
                author.execute(clock, count=AT_ONCE)
        author.write(clock)
        if mining.done < mining.blocks:
            return None
        self._mining = None
        head = self._chain.head
        return {
            "blocks": mining.blocks,
            "number": head.number,
            "hash": "0x" + head.hash().hex(),
            "time_ms": self._head_ms(),
        }

    def written(self) -> None:
        """A block was written: see that no snapshot is kept for ever."""
        chain = self._chain
        for name, kept in tuple(self._snapshots.items()):
            old = chain.head.number - kept.number >= SNAPSHOT_BLOCKS_MAX
            if old or chain.window_keys > 2 * WINDOW_KEYS_MAX:
                LOG.warning("dev snapshot %s of block %d is forgotten", name, kept.number)
                self._forget(name)
