"""Unmodified `polkadot-api` against our node, by the new JSON-RPC API alone."""

from typing import Any

import pytest
from tests.clients.test_polkadot_js import PHA, ran


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return ran("papi.mjs", tmp_path_factory.mktemp("chain"))


def test_the_chain_is_known_by_its_spec(story: dict[str, Any]) -> None:
    assert story["spec"]["name"] == "Phala Development"
    assert story["spec"]["properties"]["tokenSymbol"] == "PHA"
    assert len(story["spec"]["genesisHash"]) == 66


def test_state_is_read_at_the_best_and_at_the_final_block(story: dict[str, Any]) -> None:
    assert story["before"]["best"] == story["before"]["final"]
    assert int(story["before"]["best"]) > PHA
    assert story["accounts"] >= 6


def test_a_transfer_is_watched_to_finality(story: dict[str, Any]) -> None:
    seen = list(dict.fromkeys(story["seen"]))  # each state once
    assert seen == ["signed", "broadcasted", "txBestBlocksState", "finalized"]
    assert story["ok"]
    assert "Balances.Transfer" in story["events"]
    assert "System.ExtrinsicSuccess" in story["events"]
    assert story["index"] == 1  # after timestamp.set
    assert story["extrinsics"] == 2


def test_the_money_went_where_it_was_sent_and_the_fee_was_the_estimate(
    story: dict[str, Any],
) -> None:
    assert int(story["received"]) == 3 * PHA
    assert int(story["paid"]) == 3 * PHA + int(story["fee"])


def test_a_failing_call_tells_its_error(story: dict[str, Any]) -> None:
    assert story["failed"] == {
        "ok": False,
        "error": {"type": "Token", "value": {"type": "FundsUnavailable"}},
    }
