"""Unmodified `@polkadot/api` against our node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.clients import chain

HERE = Path(__file__).parent
PHA = 10**12


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script saw."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no Node.js on this machine: install Node.js 20 with npm")
    assert (HERE / "node_modules").exists(), "`make test` installs the clients; run that"
    with chain.running(tmp_path_factory.mktemp("chain")) as node:
        ran = subprocess.run(
            ["node", "transfer.mjs", node.websocket],
            cwd=HERE, capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr + (node.folder / "node.log").read_text()[-3000:]
        found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        return found


def test_a_transfer_is_included_then_finalized(story: dict[str, Any]) -> None:
    seen = [each for each in story["sent"]["seen"] if each != "Broadcast"]

    assert seen == ["Ready", "InBlock", "Finalized"]
    assert "balances.Transfer" in story["sent"]["events"]
    assert "system.ExtrinsicSuccess" in story["sent"]["events"]
    assert story["extrinsics"] == ["timestamp.set", "balances.transferKeepAlive"]
    assert story["justification"][0][0] == "FRNK"


def test_the_money_went_where_it_was_sent_and_the_fee_was_the_estimate(
    story: dict[str, Any],
) -> None:
    assert int(story["received"]) == 3 * PHA
    assert int(story["paid"]) == 3 * PHA + int(story["fee"])
    assert story["receivedThen"] == story["bob"]


def test_a_failing_call_tells_its_error(story: dict[str, Any]) -> None:
    assert "system.ExtrinsicFailed" in story["failed"]["events"]
    assert "FundsUnavailable" in story["failed"]["error"]


def test_the_chain_is_known_by_its_names(story: dict[str, Any]) -> None:
    assert story["chain"] == "Phala Development"
    assert story["address"] == "45R2pfjQUW2s9PQRHU48HQKLKHVMaDja7N3wpBtmF28UYDs2"
    assert int(story["existentialDeposit"]) == PHA // 100
    assert {"System", "Balances", "PhalaRegistry", "PhalaMq", "PhalaPhatContracts"} <= set(
        story["pallets"]
    )
    assert story["accounts"] >= 6
