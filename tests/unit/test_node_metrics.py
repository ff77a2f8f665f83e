"""What a node tells of itself to who watches it: Prometheus' text, for its owner alone."""

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.clients import chain
from tests.unit.test_node_door import ALICE, DEADLINE_S, ask, error, signed, wait_for

from phala.node.rpc.metrics import Histogram
from phala.node.rpc.scrape import CONNECTIONS_MAX

LINE = re.compile(r'([a-z_]+)(\{(?:[a-z]+="[A-Za-z0-9_.+]*",?)*\})? (\+Inf|[-+0-9.e]+)')
# That counters are called so, and nothing else is, `promtool check metrics` wants.
COMMENT = re.compile(
    r"# (HELP [a-z_]+ .+|TYPE [a-z_]+_total counter|TYPE [a-z_]+(?<!_total) (gauge|histogram))"
)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        chain.running(tmp_path_factory.mktemp("chain")) as running,
        httpx.Client(base_url=running.http, timeout=DEADLINE_S) as client,
    ):
        yield client


def read(http: httpx.Client) -> dict[str, float]:
    answer = http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    out: dict[str, float] = {}
    for line in answer.text.splitlines():
        if line.startswith("#"):
            assert COMMENT.fullmatch(line), line
            continue
        found = LINE.fullmatch(line)
        assert found, line
        out[found[1] + (found[2] or "")] = float(found[3])
    return out


def test_blocks_the_pool_calls_and_memory_are_counted(http: httpx.Client) -> None:
    before = read(http)
    ask(http, "author_submitExtrinsic", signed(http, ALICE, 0))
    wait_for(lambda: not ask(http, "author_pendingExtrinsics"))
    assert error(http, "no_such_method")
    after = read(http)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown["phala_block_height"] >= 1
    assert grown["phala_extrinsics_total"] >= 2
    assert grown["phala_block_interval_seconds_count"] == grown["phala_block_height"]
    count = 'phala_rpc_call_seconds_count{method="author_submitExtrinsic"}'
    assert grown[count] == 1
    assert after[count.replace("count{", "bucket{").replace("}", ',le="+Inf"}')] == after[count]
    assert grown['phala_rpc_call_seconds_count{method="other"}'] == 1
    assert grown["phala_rpc_errors_total"] == 1
    assert not any("no_such" in name for name in after)
    assert after['phala_memory_bytes{process="front"}'] > 1e7
    assert after['phala_memory_bytes{process="others"}'] > 1e7
    assert after['phala_store_bytes{table="headers"}'] > 0
    wait_for(lambda: ask(http, "phala_getIndexStatus")["indexed"])
    assert read(http)["phala_index_height"] >= 1
    assert after["phala_block_finalized"] <= after["phala_block_height"]
    assert {"phala_pool_ready", "phala_pool_future", "phala_rpc_websockets"} <= set(after)


@pytest.mark.parametrize("header", ["via", "x-forwarded-for", "forwarded", "origin"])
def test_nobody_else_sees_them(http: httpx.Client, header: str) -> None:
    answer = http.get("/metrics", headers={header: "a"})
    assert (answer.status_code, answer.content) == (403, b"")


def test_other_pages_are_none(http: httpx.Client) -> None:
    assert http.get("/metric").status_code == 405
    assert http.get("/").status_code == 405


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.add(value)
    assert list(histogram.lines("x", 'a="b"')) == [
        'x_bucket{a="b",le="1.0"} 2', 'x_bucket{a="b",le="2.0"} 3', 'x_bucket{a="b",le="+Inf"} 4',
        'x_sum{a="b"} 12.0', 'x_count{a="b"} 4',
    ]  # fmt: skip


def test_a_scraper_elsewhere_has_a_port_of_its_own(tmp_path: Path) -> None:
    node = chain.start(tmp_path, chain.prepare(tmp_path), "--metrics-port", "0")
    try:
        port = node.metrics_port
        away = {"x-forwarded-for": "192.0.2.1"}
        url = f"http://127.0.0.1:{port}"
        assert "phala_block_height" in httpx.get(url + "/metrics", headers=away).text
        assert httpx.get(url + "/other").status_code == 404
        assert httpx.post(url + "/metrics").status_code == 404
        with contextlib.ExitStack() as stack:
            lazy = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                for _ in range(CONNECTIONS_MAX + 4)
            ]
            for each in lazy:
                each.settimeout(DEADLINE_S)
                assert each.recv(1) == b"", "who says nothing is ended"
        assert httpx.get(url + "/metrics").status_code == 200
    finally:
        node.process.terminate()
        assert node.process.wait(DEADLINE_S) == 0
