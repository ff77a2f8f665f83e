"""What a node counts, in Prometheus' text form, for `GET /metrics` of its owner.

Written by hand rather than through `prometheus-client`: that is some forty lines, and the door
counts each request on its fastest way, where additions and a bisection take the place of locks.
Source: the Prometheus exposition format, version 0.0.4.
"""

import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from phala.node.rpc.explorer_index import Shelf
from phala.node.rpc.server import Gauge, Methods
from phala.node.service import Finalized, Happening, NewHead, Node, Watched

CALL_S: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)  # buckets' ends
BLOCK_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
OTHER: Final = "other"  # names that are no methods: what strangers send makes no series
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Histogram:
    """How many observations were at most each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, label: str = "") -> Iterator[str]:
        total = 0
        front = f"{label}," if label else ""
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{{front}le="{bound}"}} {total}'
        braces = f"{{{label}}}" if label else ""
        yield f"{name}_sum{braces} {self.sum}"
        yield f"{name}_count{braces} {total}"


class Metrics:
    """Counts of one node since it started."""

    def __init__(self, node: Node, methods: Methods, gauge: Gauge, shelf: Shelf) -> None:
        self._node = node
        self._gauge = gauge
        self._shelf = shelf
        self._calls = {name: Histogram(CALL_S) for name in (*methods.names(), OTHER)}
        self._blocks = Histogram(BLOCK_S)
        self._extrinsics = 0
        self._last_block = time.monotonic()
        self._finalized = 0
        gauge.called = self.called
        node.listen(self.hear)

    def called(self, method: str, seconds: float) -> None:
        found = self._calls.get(method) or self._calls[OTHER]
        found.counts[bisect_left(CALL_S, seconds)] += 1  # `add`, without its call
        found.sum += seconds

    def hear(self, happening: Happening) -> None:
        if isinstance(happening, NewHead):
            now = time.monotonic()
            self._blocks.add(now - self._last_block)
            self._last_block = now
            self._extrinsics += len(self._node.chain.store.body(happening.header.number))
        elif isinstance(happening, Finalized):
            self._finalized += 1

    def text(self) -> bytes:
        return "\n".join((*self._lines(), "")).encode()

    def _lines(self) -> Iterator[str]:
        chain, pool, gauge = self._node.chain, self._node.pool, self._gauge
        indexer = self._node.indexer or Watched(alive=False)
        simple = (
            ("block_height", "gauge", "The head's number.", chain.head.number),
            ("block_finalized", "gauge", "The last final block's number.", chain.finalized),
            ("state_oldest", "gauge", "The oldest block whose state is kept.", chain.oldest),
            ("index_height", "gauge", "The last block in the index.", self._shelf.indexed),
            ("indexer_up", "gauge", "Whether the indexer runs.", int(indexer.alive)),
            ("indexer_restarts_total", "counter", "How often it began anew.", indexer.restarts),
            ("pool_ready", "gauge", "Transactions that are ready.", len(pool)),
            ("pool_future", "gauge", "Transactions that wait for others.", pool.future_count),
            ("pool_ready_bytes", "gauge", "Bytes of ready transactions.", pool.ready_bytes),
            ("extrinsics_total", "counter", "Extrinsics in blocks since the start.",
             self._extrinsics),
            ("rpc_websockets", "gauge", "Open WebSockets.", gauge.websockets),
            ("rpc_dropped_total", "counter", "Connections ended for not reading.", gauge.dropped),
            ("rpc_errors_total", "counter", "Requests answered by an error.", gauge.errors),
            ("uptime_seconds", "gauge", "Since the start.",
             time.monotonic() - self._node.started),
        )  # fmt: skip
        for name, kind, words, value in simple:
            yield from head(name, kind, words)
            yield f"phala_{name} {value}"
        yield from head("block_interval_seconds", "histogram", "From one block to the next.")
        yield from self._blocks.lines("phala_block_interval_seconds")
        yield from head("rpc_call_seconds", "histogram", "Answering a request, by its method.")
        for method, histogram in self._calls.items():
            if any(histogram.counts):
                yield from histogram.lines("phala_rpc_call_seconds", f'method="{method}"')
        yield from head("store_bytes", "gauge", "Pages of a table of the store.")
        for table, (_, size) in chain.store.sizes().items():
            yield f'phala_store_bytes{{table="{table}"}} {size}'
        yield from head("memory_bytes", "gauge", "Resident memory, of this process and its own.")
        for process, size in memory():
            yield f'phala_memory_bytes{{process="{process}"}} {size}'


def head(name: str, kind: str, words: str) -> Iterable[str]:
    return f"# HELP phala_{name} {words}", f"# TYPE phala_{name} {kind}"


def memory() -> Iterator[tuple[str, int]]:
    """Of this process, and of those that it started, together. Linux tells; others do not."""
    with suppress(OSError, ValueError):
        yield "front", resident("self")
        children = Path("/proc/thread-self/children").read_text().split()
        yield "others", sum(resident(each) for each in children)


def resident(process: str) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE_BYTES
