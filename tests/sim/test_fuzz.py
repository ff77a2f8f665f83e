"""Hostile bytes to every reader of the chain. The long run: python -m phala.testing.fuzz."""

import os
from pathlib import Path
from random import Random

import pytest
from tests.clients import chain

from phala.testing.fuzz import TARGETS, altered, run

CASES = int(os.environ.get("PHALA_FUZZ", "10000"))
SEED = int(os.environ.get("PHALA_FUZZ_SEED", "20261125"))
GROWTH_BYTES_MAX = 64 * 2**20


@pytest.mark.timeout(60 + CASES // 500)
def test_hostile_bytes_meet_typed_errors_and_cost_no_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chain.running(tmp_path) as node:
        report = run(CASES, SEED, node=node.http)
        assert node.process.poll() is None, "the node ended"
    with capsys.disabled():
        print(f"\nseed {SEED}", *report.rows(), sep="\n")  # noqa: T201

    assert sum(count.cases for count in report.counts.values()) == CASES
    for name, count in report.counts.items():
        assert count.accepted < count.cases, f"{name}: nothing was refused"
    for name in TARGETS:
        assert report.counts[name].accepted > 0, f"{name}: nothing got through to be judged"
    assert report.growth_bytes < GROWTH_BYTES_MAX


def test_what_alters_bytes_does_so_and_is_the_same_for_a_seed() -> None:
    genuine = bytes(range(64))
    first, again = ([altered(Random(seed), genuine) for seed in range(200)] for _ in range(2))

    assert first == again
    assert sum(each != genuine for each in first) > 140
