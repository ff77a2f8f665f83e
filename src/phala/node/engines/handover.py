"""Between the pool and an author: what is on its way, and what the author says became of it."""

import logging
from collections import deque
from collections.abc import Iterator
from typing import Final

from phala.node.core.pool import Pooled
from phala.node.engines.author import Executed, Justified, Refusals, Reverted, Written
from phala.node.service import Node
from phala.primitives.types import Hash
from phala.runtime import Problem

LOG: Final = logging.getLogger("phala.node.author")
ON_THE_WAY_MAX: Final = 1_024  # handed and not executed; the pool orders what is behind them
ON_THE_WAY_BYTES_MAX: Final = 8 * 1024 * 1024
AT_ONCE: Final = 64
INCLUDED_AT_ONCE: Final = 128


class Handover:
    """What one author has of the node's pool."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._handed: deque[Pooled] = deque()
        self._handed_bytes = 0
        self._in_block: list[Pooled] = []
        self.paused = False  # nothing is handed meanwhile
        self._later: list[Hash] = []  # to be handed again after the open block

    @property
    def on_the_way(self) -> int:
        return len(self._handed)

    def next(self) -> list[Pooled]:
        """What may be handed now, the best of the pool first."""
        out: list[Pooled] = []
        while (
            not self.paused
            and len(self._handed) < ON_THE_WAY_MAX
            and self._handed_bytes < ON_THE_WAY_BYTES_MAX
        ):
            taken = self._node.pool.take(min(AT_ONCE, ON_THE_WAY_MAX - len(self._handed)))
            if not taken:
                break
            self._handed.extend(taken)
            self._handed_bytes += sum(len(each.data) for each in taken)
            out += taken
        return out

    def executed(self, news: Executed) -> None:
        done = [self._handed.popleft() for _ in range(news.count)]
        self._handed_bytes -= sum(len(each.data) for each in done)
        self._in_block += self._without(done, news.refused)

    def written(self, news: Written) -> Iterator[None]:
        """The node's chain has grown by the block already. In steps of a few milliseconds, between
        which others may use the loop."""
        taken, self._in_block = self._without(self._in_block, news.fallen), []
        header = news.growth.header
        self._node.grown(header, frozenset(key for key, _ in news.growth.changes))
        block = header.hash()
        for first in range(0, len(taken), INCLUDED_AT_ONCE):
            yield
            self._node.included(header.number, block, taken[first : first + INCLUDED_AT_ONCE])

    def justified(self, news: Justified) -> None:
        self._node.finalized(news.number, news.justification)

    def reverted(self, news: Reverted) -> None:
        """The node's chain has shrunk already; what was on its way is gone."""
        self._handed.clear()
        self._handed_bytes = 0
        self._in_block, self._later = [], []
        self._node.reverted(news.number)

    def end_block(self) -> None:
        """All of a block was told."""
        self._node.revalidate()
        later, self._later = self._later, []
        for each in later:
            self._node.pool.give_back(each)

    def _without(self, some: list[Pooled], refused: Refusals) -> list[Pooled]:
        if not refused:
            return some
        gone = dict(refused)
        for position, refusal in refused:
            each = some[position]
            if refusal.problem is Problem.FUTURE:
                self._later.append(each.hash)
            else:
                LOG.info("not included: %s", refusal)
                self._node.drop(each.hash, refusal)
        return [each for position, each in enumerate(some) if position not in gone]
