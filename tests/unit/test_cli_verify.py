"""`phala verify` says what it checked and on whose word; simulated is never green."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from phala.cli.main import main
from phala.cli.verify import verify
from phala.errors import Invalid, Refused
from phala.sdk.bundle import BundleMalformed
from phala.sdk.verify import CheckInvalid, CheckRefused
from phala.testing.receipts import ReceiptChain

CHAIN = ReceiptChain()
GENESIS = CHAIN.genesis.hex()
ROOT = CHAIN.key.public_root.hex()


@pytest.fixture
def receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A receipt's file; the machine around it knows no network."""
    monkeypatch.setenv("PHALA_HOME", str(tmp_path / "home"))
    path = tmp_path / "receipt.json"
    path.write_bytes(CHAIN.bundle().encode())
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network's folder that this machine wrote."""
    folder = tmp_path / "network"
    folder.mkdir()
    fields = {"genesis": GENESIS, "name": "testnet", "policy": "dev", "simulatedRoot": ROOT}
    (folder / "trust.json").write_text(json.dumps(fields))
    return folder


def run(*arguments: Any, color: bool = False) -> Result:
    return CliRunner().invoke(verify, [str(argument) for argument in arguments], color=color)


def test_it_says_what_was_checked_and_on_whose_word(receipt: Path, network: Path) -> None:
    result = run(receipt, "--dir", network)

    assert result.exit_code == 0, result.output
    assert result.output.count("on the word of:") == 15
    assert "on the word of: network/trust.json on this machine" in result.output
    assert 'query "value" to contract' in result.output
    assert 'answered: {"n": 2}' in result.output
    assert result.output.endswith("verified; simulated: no hardware protection\n")
    assert "\x1b" not in result.output


def test_simulated_is_yellow_and_never_green(receipt: Path, network: Path) -> None:
    output = run(receipt, "--dir", network, color=True).output

    assert "\x1b[33m" in output
    assert "\x1b[32m" not in output


def test_programs_get_one_object(receipt: Path, network: Path) -> None:
    document = json.loads(run(receipt, "--dir", network, "--json").output)

    assert (document["verified"], document["hardware"]) == (True, False)
    assert document["anchor"] == "simulated: no hardware protection"
    assert (document["genesis"], document["network"]) == ("0x" + GENESIS, "testnet")
    assert (document["kind"], document["method"]) == ("query", "value")
    assert document["outcome"] == {
        "ok": True,
        "result": {"n": 2},
        "error_kind": 0,
        "error": "",
    }
    assert [check["number"] for check in document["checks"]] == list(range(1, 16))


def test_an_unknown_genesis_is_judged_by_production(receipt: Path) -> None:
    result = run(receipt)

    assert isinstance(result.exception, CheckRefused)
    assert "check 6 (evidence)" in result.exception.what
    assert "policy production" in result.exception.what
    assert " 5 registration" in result.output
    assert " 6 evidence      FAILED" in result.output


def test_an_explicit_root_chooses_dev(receipt: Path) -> None:
    assert run(receipt, "--genesis", GENESIS, "--simulated-root", ROOT).exit_code == 0
    assert isinstance(run(receipt, "--genesis", GENESIS).exception, CheckRefused)


def test_another_genesis_is_refused(receipt: Path) -> None:
    result = run(receipt, "--genesis", "0x" + "00" * 32, "--simulated-root", ROOT)

    assert isinstance(result.exception, CheckInvalid)
    assert "check 1 (genesis)" in result.exception.what


@pytest.mark.parametrize(
    "options",
    [("--genesis", "00"), ("--genesis", "zz" * 32), ("--simulated-root", ROOT)],
)
def test_options_that_make_no_sense_are_refused(receipt: Path, options: tuple[str, ...]) -> None:
    assert isinstance(run(receipt, *options).exception, Invalid)


def test_a_file_that_is_no_receipt_is_refused(receipt: Path) -> None:
    receipt.write_text('{"format": 1}')

    assert isinstance(run(receipt).exception, BundleMalformed)


def test_programs_learn_the_failed_check(
    receipt: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["phala", "verify", str(receipt), "--json"])
    with pytest.raises(SystemExit) as caught:
        main()

    assert caught.value.code == Refused.exit_code
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["family"], error["kind"]) == ("Refused", "CheckRefused")
    assert error["what"].startswith("check 6 (evidence): ")


def test_a_contracts_words_cannot_steer_the_terminal(receipt: Path, network: Path) -> None:
    text = run(receipt, "--dir", network).output

    assert all(character.isprintable() or character == "\n" for character in text)
