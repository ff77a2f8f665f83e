"""`phala attest` prints this machine's evidence, and what it is worth if it is simulated."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from phala.attest import open_evidence
from phala.attest.verdict import PlatformCode
from phala.cli import attest as command
from phala.cli.main import main, phala
from phala.errors import Invalid
from phala.tee.configfs import Tsm
from phala.tee.detect import detect_platform
from phala.tee.simulated_key import create_simulated_key
from phala.tee.tdx import TdxPlatform
from phala.testing.intel_pki import SimulatedIntel
from phala.testing.kernel import FakeKernel

TDX = SimulatedIntel(tdx=True)


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "simulated.key"
    create_simulated_key(path)
    return str(path)


def test_a_simulated_machine_says_that_nothing_is_protected(key_file: str) -> None:
    said = CliRunner().invoke(phala, ["attest", "--simulated", key_file], color=True)

    assert said.exit_code == 0
    assert "no hardware protection" in said.output
    assert "\x1b[32m" not in said.output


def test_the_document_and_the_file_hold_the_same_evidence(key_file: str, tmp_path: Path) -> None:
    out = tmp_path / "evidence.bin"
    arguments = ["--report-data", "0x00ff", "--out", str(out), "--json"]
    said = CliRunner().invoke(phala, ["attest", "--simulated", key_file, *arguments])

    document = json.loads(said.output)
    (opened,) = open_evidence(out.read_bytes())
    assert bytes.fromhex(document["evidence"]) == out.read_bytes() == opened.evidence.blob
    assert opened.evidence.platform == PlatformCode.SIMULATED
    assert document["platform"] == "simulated"
    assert document["hardware"] is False
    assert "no hardware protection" in document["note"]
    assert document["report_data"] == "00ff" + "00" * 62
    assert set(document["measurements"]) == {"mrtd"}


def test_a_trust_domain_shows_its_registers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = FakeKernel(report=lambda said: TDX.quote(report_data=said))
    monkeypatch.setattr(command, "detect_platform", lambda: detect_platform(kernel))
    said = CliRunner().invoke(phala, ["attest", "--json"])

    document = json.loads(said.output)
    assert document["platform"] == TdxPlatform(Tsm(kernel)).word == "tdx"
    assert document["hardware"] is True
    assert document["note"] is None
    assert sorted(document["measurements"]) == ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"]
    assert document["report_data"] in document["evidence"]


def test_a_machine_without_hardware_is_told_what_was_looked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = FakeKernel(mounted=False)
    monkeypatch.setattr(command, "detect_platform", lambda: detect_platform(kernel))
    monkeypatch.setattr(sys, "argv", ["phala", "attest"])
    with pytest.raises(SystemExit) as stopped:
        main()

    assert stopped.value.code == 77
    error = capsys.readouterr().err
    assert "no trusted hardware is under this process" in error
    assert "/sys/kernel/config/tsm/report" in error
    assert "mend: run inside a TDX or SEV-SNP guest" in error


@pytest.mark.parametrize("text", ["zz", "0", "00" * 65])
def test_what_is_no_report_data_is_refused(text: str, key_file: str) -> None:
    said = CliRunner().invoke(phala, ["attest", "--simulated", key_file, "--report-data", text])

    assert isinstance(said.exception, Invalid)


def test_a_file_that_cannot_be_written_is_told(key_file: str, tmp_path: Path) -> None:
    out = str(tmp_path / "none" / "evidence.bin")
    said = CliRunner().invoke(phala, ["attest", "--simulated", key_file, "--out", out])

    assert isinstance(said.exception, Invalid)
    assert "cannot be written" in str(said.exception)
