"""`phala collateral`: fetched from servers shaped like the vendors', checked, saved, and told."""

import json
import threading
import urllib.parse
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.unit.attesting import ROOT

from phala.attest import AttestationError, intel, snp
from phala.attest.errors import EvidenceExpired
from phala.attest.kept import verify_amd_collateral
from phala.cli import vendor_words
from phala.cli.collateral import collateral
from phala.cli.session import collateral_call
from phala.cli.verify import verify
from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.messages.collateral import AMD, INTEL
from phala.pallets.collateral import PhalaCollateral
from phala.sdk import vendors
from phala.sdk.vendors import Vendors
from phala.testing.amd_pki import LEVELS, NOW, SimulatedAmd, pinned

FOLDER = ROOT / "vectors" / "tee" / "intel"
QUOTE = FOLDER / "quotes" / "tdx-v4-uptodate.bin"
NOW_S = 1_751_624_191
FMSPC = "b0c06f000000"
SAVED = FOLDER / "collateral" / "tdx-B0C06F000000-2025-06.json"
PARTS: dict[str, str] = json.loads(SAVED.read_text())


class Server(ThreadingHTTPServer):
    """Answers by path and query: status, body, headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, body, headers = self.server.answers.get(self.path, (404, b"none", {}))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join(20)
    found.server_close()


@pytest.fixture
def intels(server: Server) -> Server:
    """With Intel's genuine answers, in the shapes of its service."""
    chain = {name: urllib.parse.quote(PARTS[f"{name}_issuer_chain"], safe="")
             for name in ("tcb_info", "qe_identity", "pck_crl")}  # fmt: skip
    tcb = f'{{"tcbInfo":{PARTS["tcb_info"]},"signature":"{PARTS["tcb_info_signature"]}"}}'
    identity = (
        f'{{"enclaveIdentity":{PARTS["qe_identity"]},'
        f'"signature":"{PARTS["qe_identity_signature"]}"}}'
    )
    base = "/tdx/certification/v4"
    server.answers = {
        f"{base}/tcb?fmspc={FMSPC.upper()}":
            (200, tcb.encode(), {"TCB-Info-Issuer-Chain": chain["tcb_info"]}),
        f"{base}/qe/identity":
            (200, identity.encode(), {"SGX-Enclave-Identity-Issuer-Chain": chain["qe_identity"]}),
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der":
            (200, bytes.fromhex(PARTS["pck_crl"]), {"SGX-PCK-CRL-Issuer-Chain": chain["pck_crl"]}),
        "/root.crl": (200, bytes.fromhex(PARTS["root_ca_crl"]), {}),
    }  # fmt: skip
    return server


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(collateral, [str(each) for each in arguments])


def error_of(result: Result) -> PhalaError:
    assert isinstance(result.exception, PhalaError), (result.output, result.exception)
    return result.exception


def places(server: Server) -> tuple[str, ...]:
    root = f"{server.url}/root.crl"
    return ("--pcs", server.url, "--root-crl", root, "--kds", server.url)


# ---- Intel


def test_what_a_quote_needs_is_fetched_and_the_quote_verifies_by_it(
    intels: Server, tmp_path: Path
) -> None:
    out = tmp_path / "collateral.json"
    result = run("fetch", QUOTE, *places(intels), "--out", out, "--now", NOW_S)

    assert result.exit_code == 0, result.exception
    assert "Intel: the product b0c06f000000 (FMSPC) as tdx" in result.output
    assert json.loads(out.read_text()) == {name: PARTS[name] for name in intel.COLLATERAL}
    judged = CliRunner().invoke(verify, [str(QUOTE), "--now", str(NOW_S), "--collateral", str(out)])
    assert judged.exit_code == 0, judged.exception
    assert "verified; Intel SGX Root CA" in judged.output


def test_a_product_is_fetched_by_its_name(intels: Server, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    base = ("fetch", "--tee", "tdx", "--fmspc", FMSPC, *places(intels), "--out", out)
    result = run(*base, "--now", NOW_S, "--json")

    told = json.loads(result.output)
    assert (told["vendor"], told["fmspc"], told["platform"]) == ("Intel", FMSPC, "tdx")
    assert told["file"] == str(out)
    assert told["valid"] is True
    assert told["levels"][0]["status"] == "UpToDate"

    gone = run(*base, "--evaluation", "9", "--now", NOW_S)
    assert isinstance(error_of(gone), Refused)
    assert intels.asked[-1].endswith("&tcbEvaluationDataNumber=9")


def test_a_cache_may_answer_lists_as_hex_or_pem(intels: Server, tmp_path: Path) -> None:
    intels.answers["/root.crl"] = (200, PARTS["root_ca_crl"].encode(), {})
    out = tmp_path / "c.json"

    assert run("fetch", QUOTE, *places(intels), "--out", out, "--now", NOW_S).exit_code == 0
    assert json.loads(out.read_text())["root_ca_crl"] == PARTS["root_ca_crl"]


def test_what_does_not_verify_is_not_saved(intels: Server, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    late = run("fetch", QUOTE, *places(intels), "--out", out, "--now", NOW_S + 10**8)
    assert isinstance(error_of(late), EvidenceExpired)

    path = f"/tdx/certification/v4/tcb?fmspc={FMSPC.upper()}"
    status, body, headers = intels.answers[path]
    intels.answers[path] = (status, body.replace(b"UpToDate", b"UpToDatE"), headers)
    forged = run("fetch", QUOTE, *places(intels), "--out", out, "--now", NOW_S)
    assert isinstance(error_of(forged), AttestationError)
    assert not out.exists()


@pytest.mark.parametrize(
    ("answer", "family"),
    [
        ((404, b"", {}), Refused),
        ((429, b"", {}), Unavailable),
        ((500, b"", {}), Unavailable),
        ((200, b"<html>", {}), Unavailable),
        ((200, b"", {}), Unavailable),
        ((200, bytes(vendors.ANSWER_BYTES_MAX + 1), {}), Unavailable),
    ],
)
def test_a_source_that_answers_otherwise_is_a_clear_error(
    intels: Server, tmp_path: Path, answer: Any, family: type[PhalaError]
) -> None:
    intels.answers["/tdx/certification/v4/qe/identity"] = answer
    out = tmp_path / "c.json"
    error = error_of(run("fetch", QUOTE, *places(intels), "--out", out, "--now", NOW_S))

    assert isinstance(error, family)
    assert error.mend
    assert not out.exists()


def test_a_source_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "c.json")
    for url, family in (
        ("http://127.0.0.1:9", Unavailable),
        ("file:///etc/passwd", Invalid),
        ("https://", Invalid),
        ("http://127.0.0.1:x", Invalid),
    ):
        error = error_of(run("fetch", "--tee", "sgx", "--fmspc", FMSPC, "--pcs", url, *out))
        assert isinstance(error, family), (url, error)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--fmspc", FMSPC),
        ("--fmspc", "xyz", "--tee", "tdx"),
        ("--fmspc", FMSPC, "--amd", "Genoa", "--tee", "sgx"),
        (ROOT / "README.md",),
        (ROOT,),
        (ROOT / "vectors" / "tee" / "nitro" / "dstack-nitro_attestation.cbor",),
    ],
)
def test_what_names_nothing_to_fetch_is_a_clear_error(arguments: tuple[Any, ...]) -> None:
    error = error_of(run("fetch", *arguments))

    assert isinstance(error, Invalid)
    assert error.mend


# ---- AMD: no genuine revocation list is published with a date, so the vendor is made up here


@pytest.fixture
def amds(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """With a made-up vendor's answers in the shapes of AMD's key server."""
    kit = SimulatedAmd()
    judge = partial(verify_amd_collateral, roots=pinned())
    monkeypatch.setattr(vendor_words, "verify_amd_collateral", judge)
    chip = kit.report()[0x1A0:0x1E0].hex()
    order = ("bl", "tee", "snp", "ucode")
    query = "&".join(f"{name}SPL={LEVELS[name]:02}" for name in order)
    server.answers = {
        "/vcek/v1/Genoa/cert_chain": (200, kit.chain(), {}),
        "/vcek/v1/Genoa/crl": (200, kit.revoked(), {}),
        f"/vcek/v1/Genoa/{chip}?{query}": (200, kit.key(), {}),
    }
    return server


def test_what_a_report_needs_is_fetched_by_its_chip_and_firmware(
    amds: Server, tmp_path: Path
) -> None:
    report, out = tmp_path / "report.bin", tmp_path / "c.json"
    report.write_bytes(SimulatedAmd().report())
    result = run("fetch", report, *places(amds), "--out", out, "--now", NOW // 1000)

    assert result.exit_code == 0, result.exception
    assert "AMD: the line Genoa" in result.output
    saved = json.loads(out.read_text())
    assert sorted(saved) == ["amd_chain", "amd_crl", "amd_key"]
    assert saved["amd_crl"].startswith("3082")
    shown = run("show", out, "--now", NOW // 1000)
    assert shown.exit_code == 0, shown.exception
    assert "judged with its report" in shown.output


def test_a_lines_collateral_is_fetched_by_its_name(amds: Server, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    result = run("fetch", "--amd", "Genoa", *places(amds), "--out", out, "--now", NOW // 1000)

    assert result.exit_code == 0, result.exception
    assert sorted(json.loads(out.read_text())) == ["amd_chain", "amd_crl"]
    assert isinstance(error_of(run("fetch", "--amd", "Milan", *places(amds))), Refused)


def test_a_clouds_key_is_not_amds_to_give() -> None:
    report = snp.decode_report(SimulatedAmd(signer="VLEK").report())
    with pytest.raises(Refused, match="the cloud alone"):
        vendors.fetch_amd_key(Vendors(), report, "Genoa")
    hidden = snp.decode_report(SimulatedAmd().report(chip=bytes(64)))
    with pytest.raises(Refused, match="hides its chip"):
        vendors.fetch_amd_key(Vendors(), hidden, "Genoa")


# ---- what a file is


def test_a_file_is_told_with_its_issuers_dates_number_and_levels() -> None:
    output = run("show", SAVED, "--now", NOW_S).output

    assert "signed by   Intel SGX TCB Signing, under Intel SGX Root CA" in output
    assert "keys        of Intel SGX PCK Platform CA" in output
    assert "evaluation  number 17" in output
    assert "expires in 14 days" in output
    assert "UpToDate" in output
    told = json.loads(run("show", SAVED, "--now", NOW_S, "--json").output)
    assert told["evaluation_number"] == 17
    assert told["issued_ms"] < NOW_S * 1000 < told["expires_ms"]


def test_expired_collateral_is_told_as_such() -> None:
    result = run("show", SAVED, "--now", NOW_S + 10**7)

    assert result.exit_code == 0
    assert "EXPIRED" in result.output
    assert json.loads(run("show", SAVED, "--now", NOW_S + 10**7, "--json").output)["valid"] is False


def test_altered_or_foreign_files_are_clear_errors(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(SAVED.read_text().replace("UpToDate", "UpToDatE"))
    assert isinstance(error_of(run("show", path, "--now", NOW_S)), AttestationError)
    for data in (b"{}", b"[]", b"x" * 100, bytes(600_000), QUOTE.read_bytes(),
                 PARTS["tcb_info_issuer_chain"].encode()):  # fmt: skip
        path.write_bytes(data)
        assert isinstance(error_of(run("show", path)), Invalid)
    assert isinstance(error_of(run("show", tmp_path)), Invalid)
    assert isinstance(error_of(run("submit", path)), Invalid)


def test_expired_collateral_is_not_submitted() -> None:
    assert isinstance(error_of(run("submit", SAVED, "--url", "ws://127.0.0.1:9")), EvidenceExpired)


def test_what_is_submitted_is_what_the_chains_call_takes(tmp_path: Path) -> None:
    items = {name: text.encode() for name, text in PARTS.items()}
    name, body = collateral_call(items)
    assert name == PhalaCollateral.calls[0].__name__
    assert INTEL.decode(body).by_name() == items

    given = SimulatedAmd().collateral()
    name, body = collateral_call(given)
    assert name == PhalaCollateral.calls[1].__name__
    assert AMD.decode(body).by_name() == {each: given[each] for each in ("amd_crl", "amd_chain")}

    del items["tcb_info"]
    with pytest.raises(Invalid, match="all of it"):
        collateral_call(items)
    part = tmp_path / "part.json"
    part.write_text(json.dumps({"pck_crl": PARTS["pck_crl"]}))
    assert isinstance(error_of(run("show", part)), Invalid)
