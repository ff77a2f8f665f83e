"""A development network's cheats beside an enclave: it follows over set time, calls that nobody
signed and reverts, and keeps serving."""

import json
import subprocess
from pathlib import Path

import pytest
from tests.e2e.network import PHALA, environment, running

pytestmark = pytest.mark.timeout(180)

COUNTER = Path(__file__).parents[2] / "src/phala/phat/templates/counter.py"


def test_an_enclave_follows_over_cheats(tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_bytes(COUNTER.read_bytes())
    with running(tmp_path) as network:

        def dev(*words: str) -> dict[str, object]:
            ran = subprocess.run(
                [PHALA, "dev", *words, "--dir", tmp_path, "--json"],
                capture_output=True, text=True, timeout=60, check=False, env=environment(tmp_path),
            )  # fmt: skip
            assert ran.returncode == 0, ran.stderr
            found = json.loads(ran.stdout)
            assert found["on"] == "dev chain"
            return dict(found)

        network.phala("deploy", "counter.py")
        network.phala("call", "counter", "add", "--arg", "n=2")
        dev("mine", "50")
        dev("forward", "1h", "--blocks", "20")
        dev("set-balance", "Dave", "12")
        dev("impersonate", "Dave", "Balances.transfer_all", "--arg", "dest=Eve",
            "--arg", "keep_alive=false")  # fmt: skip
        network.phala("call", "counter", "add", "--arg", "n=3")
        kept = dev("snapshot", "before")
        sent = network.phala("call", "counter", "add", "--arg", "n=100", "--no-wait")
        assert not sent["waited"]
        dev("mine", "5")
        assert dev("revert", "before")["number"] == kept["number"]

        network.phala("call", "counter", "add", "--arg", "n=4")

        assert network.phala("query", "counter", "value")["result"] == 9, "2 + 3 + 4, no 100"
