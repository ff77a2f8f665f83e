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


def ran(script: str, folder: Path) -> dict[str, Any]:
    """What a script saw of a fresh chain."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no Node.js on this machine: install Node.js 20 with npm")
    assert (HERE / "node_modules").exists(), "`make test` installs the clients; run that"
    with chain.running(folder) as node:
        done = subprocess.run(
            ["node", script, node.websocket],
            cwd=HERE, capture_output=True, text=True, timeout=50, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + (node.folder / "node.log").read_text()[-3000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ran("transfer.mjs", tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ran("calls_in_calls.mjs", tmp_path_factory.mktemp("chain"))


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


# ---- calls inside calls


def test_a_batch_with_a_failing_item_tells_which(nested: dict[str, Any]) -> None:
    assert nested["batch"]["error"] is None
    assert "utility.ItemCompleted" in nested["batch"]["names"]
    assert nested["batch"]["names"].count("balances.Transfer") == 1
    assert nested["interruptedAt"] == 1
    assert "FundsUnavailable" in nested["interruptedBy"]


def test_batch_all_ends_with_its_items_error(nested: dict[str, Any]) -> None:
    assert "FundsUnavailable" in nested["all"]["error"]
    assert "balances.Transfer" not in nested["all"]["names"]


def test_a_forced_batch_goes_on(nested: dict[str, Any]) -> None:
    names = [each for each in nested["force"]["names"] if each.startswith("utility")]
    assert names == [
        "utility.ItemFailed",
        "utility.ItemCompleted",
        "utility.BatchCompletedWithErrors",
    ]


def test_a_multisig_of_two_pays(nested: dict[str, Any]) -> None:
    assert "multisig.NewMultisig" in nested["begun"]["names"]
    assert nested["when"] == {"height": nested["begunAt"], "index": nested["begunIndex"]}
    assert "multisig.MultisigExecuted" in nested["ended"]["names"]
    assert int(nested["multisig"]) == 9 * PHA


def test_a_proxy_does_no_more_than_its_type(nested: dict[str, Any]) -> None:
    assert nested["proxied"]["error"] is None
    assert nested["proxyError"] == "CallFiltered"
    assert nested["proxyType"] == "NonTransfer"
    assert int(nested["stranger"]) == 3 * PHA  # of batch, force_batch and the multisig
