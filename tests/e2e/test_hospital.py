"""The demo, as `make run` runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.network import environment

DEMO = Path(__file__).parents[2] / "examples" / "hospital" / "demo.py"
DEMO_S_MAX = 90


@pytest.mark.timeout(180)
def test_the_story_is_told_from_start_to_end(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, DEMO, "--dir", tmp_path / "network"],
        capture_output=True,
        text=True,
        timeout=DEMO_S_MAX,
        check=False,
        env=environment(tmp_path),
    )

    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    for part in (
        "up after",
        "code id",
        "fee",
        "simulated, no hardware protection",
        "190 of 190 patients in",
        "round",
        "North alone",
        "South alone",
        "together",
        "found 0 times",
        "Every process that was started has ended.",
    ):
        assert part in ran.stdout
    accuracies = re.findall(r"([\d.]+) %   (\d+) of 189 right", ran.stdout)
    assert len(accuracies) == 3
    for shown, right in accuracies:
        assert shown == f"{100 * int(right) / 189:.1f}"
        assert float(shown) > 90
