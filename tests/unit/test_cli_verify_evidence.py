"""`phala verify` on evidence: the published verdicts, in words; any other file is a clear error."""

import base64
import hashlib
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.unit.attesting import ALL, LENIENT, ROOT, index, read

from phala.attest import PRODUCTION, AttestationError
from phala.attest.errors import (
    AnchorRefused,
    DebugRefused,
    EvidenceMalformed,
    MeasurementRefused,
    PlatformRefused,
    RevocationRefused,
)
from phala.attest.nitro import verify_document
from phala.cli import evidence_files
from phala.cli.evidence import NonceRefused, check_nonce
from phala.cli.main import main
from phala.cli.verify import verify
from phala.errors import Invalid, PhalaError
from phala.tee.platform import ReportData
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import SimulatedKey
from phala.testing import p384_pki
from phala.testing.receipts import ReceiptChain

COMMITTED = ROOT / "vectors" / "tee"
NITRO = COMMITTED / "nitro" / "dstack-nitro_attestation.cbor"
NITRO_S = 1_766_678_659
GENOA = COMMITTED / "amd" / "genoa-v3-azure.bin"
GENOA_S = 1_740_277_308
KEY = SimulatedKey(bytes(31) + b"\1", b"k" * 32)
SAID = bytes(range(64))
SIMULATED = SimulatedPlatform(measurement=measure(b"code"), key=KEY).quote(ReportData(SAID))
ROOT_KEY = KEY.public_root.hex()
GPU_S = 1_770_000_000


def run(*arguments: Any, color: bool = False) -> Result:
    return CliRunner().invoke(verify, [str(each) for each in arguments], color=color)


def error_of(result: Result) -> PhalaError:
    assert isinstance(result.exception, PhalaError), (result.output, result.exception)
    return result.exception


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.exception
    found: dict[str, Any] = json.loads(result.output)
    return found


@pytest.fixture
def lenient(tmp_path: Path) -> Path:
    path = tmp_path / "lenient.json"
    path.write_bytes(LENIENT.encode())
    return path


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    path = tmp_path / "quote.bin"
    path.write_bytes(SIMULATED)
    return path


# ---- what is said


def test_a_person_can_follow_the_verdict() -> None:
    output = run(NITRO, "--now", NITRO_S, color=True).output

    assert "\x1b[32m" in output
    plain = re.sub(r"\x1b\[[0-9]*m", "", output)
    assert "judged at   2025-12-25 16:04:19 UTC, by --now" in plain
    assert "policy      production (built in)" in plain
    assert re.findall(r"^ +([0-9]+) ", plain, re.MULTILINE) == [str(n) for n in range(1, 12)]
    assert "pcr0   eb7d0dab08ff4154" in plain
    assert "TCB status  up-to-date, confidence 3" in plain
    assert "you believe AWS" in plain
    assert "freshness    not checked" in plain
    assert plain.endswith("verified; AWS Nitro Enclaves Root G1\n")


def test_without_a_time_this_machines_clock_judges() -> None:
    result = run(NITRO)

    assert isinstance(error_of(result), AttestationError)
    assert "by this machine's clock" in result.output
    assert " FAILED" in result.output


def test_programs_get_the_verdict_as_one_object() -> None:
    found = document(run(NITRO, "--now", NITRO_S, "--json"))

    assert (found["verified"], found["kind"], found["hardware"]) == (True, "evidence", True)
    assert (found["policy"], found["judged_at_ms"]) == ("production", NITRO_S * 1000)
    assert (found["clock"], found["nonce"]) == ("--now", None)
    (item,) = found["items"]
    assert (item["platform"], item["tcb_status"], item["advisories"]) == ("nitro", "up-to-date", [])
    assert item["measurements"]["pcr0"].startswith("0xeb7d0dab")
    assert [each["number"] for each in item["checks"]] == list(range(1, 12))


def test_programs_learn_why_evidence_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["phala", "verify", str(GENOA), "--json"])
    with pytest.raises(SystemExit) as caught:
        main()

    error = json.loads(capsys.readouterr().out)["error"]
    assert caught.value.code in (65, 77)
    assert error["what"].startswith("attestation check ")


def test_collateral_is_known_by_its_content_or_its_name(tmp_path: Path, lenient: Path) -> None:
    key, chain = COMMITTED / "amd" / "genoa-v3-azure.der", COMMITTED / "amd" / "ask_ark_genoa.pem"
    base = (GENOA, "--now", GENOA_S, "--policy", lenient)
    told = document(run(*base, "--collateral", key, "--collateral", chain, "--json"))
    named = (f"amd_key={key}", f"amd_chain={chain}")
    again = run(*base, "--collateral", named[0], "--collateral", named[1], "--json")

    assert told == document(again)
    assert told["items"][0]["collateral"] == ["amd_chain", "amd_key"]
    assert told["items"][0]["product"] == "genoa"

    wrong = run(*base, "--collateral", f"amd_key={chain}", "--collateral", chain)
    assert isinstance(error_of(wrong), AttestationError)
    assert "no collateral is called" in str(error_of(run(*base, "--collateral", f"key={key}")))
    odd = tmp_path / "odd"
    odd.write_bytes(b"\x89PNG")
    assert "nobody can tell" in str(error_of(run(*base, "--collateral", odd)))
    assert "cannot be read" in str(error_of(run(*base, "--collateral", tmp_path / "none")))
    assert "nobody can tell" in str(error_of(run(*base, "--collateral", tmp_path)))


def test_production_says_what_it_lacks() -> None:
    key, chain = COMMITTED / "amd" / "genoa-v3-azure.der", COMMITTED / "amd" / "ask_ark_genoa.pem"
    result = run(GENOA, "--now", GENOA_S, "--collateral", key, "--collateral", chain)

    assert isinstance(error_of(result), RevocationRefused)
    assert " 5 certificate  FAILED" in result.output


def test_collateral_given_as_the_evidence_is_told_apart() -> None:
    error = error_of(run(COMMITTED / "amd" / "ask_ark_genoa.pem"))

    assert isinstance(error, EvidenceMalformed)
    assert "looks like collateral (amd_chain)" in error.mend


# ---- simulated evidence


def test_simulated_evidence_is_refused_by_default(simulated: Path) -> None:
    assert isinstance(error_of(run(simulated)), PlatformRefused)
    assert isinstance(error_of(run(simulated, "--policy", "dev")), AnchorRefused)


def test_simulated_evidence_is_never_green(simulated: Path) -> None:
    output = run(
        simulated,
        "--policy",
        "dev",
        "--simulated-root",
        ROOT_KEY,
        "--nonce",
        SAID.hex(),
        color=True,
    ).output

    assert "\x1b[33m" in output
    assert "\x1b[32m" not in output
    assert "no hardware" in output


def test_a_debuggable_enclave_is_never_green(lenient: Path) -> None:
    index()
    debug = ALL / "nitro" / "dstack-nitro_attestation_dbg.cbor"
    result = run(debug, "--now", 1_766_650_846, "--policy", lenient, color=True)

    assert result.exit_code == 0
    assert "\x1b[32m" not in result.output
    assert "debugger CAN read it" in result.output
    assert isinstance(error_of(run(debug, "--now", 1_766_650_846)), DebugRefused)


def test_a_broken_product_is_never_green(lenient: Path) -> None:
    index()
    chain = ALL / "amd" / "chains" / "ask_ark_milan.pem"
    options = ("--policy", lenient, "--now", GPU_S, "--collateral", chain)
    result = run(ALL / "azure" / "snp-milan-v3.json", *options, color=True)

    assert result.exit_code == 0
    assert "\x1b[32m" not in result.output
    assert "can be read out by software" in result.output


# ---- options


def test_evidence_of_another_nonce_is_refused(simulated: Path) -> None:
    options = (simulated, "--policy", "dev", "--simulated-root", ROOT_KEY)

    assert run(*options, "--nonce", "0x" + SAID.hex()).exit_code == 0
    assert isinstance(error_of(run(*options, "--nonce", SAID[:32].hex())), NonceRefused)
    result = run(NITRO, "--now", NITRO_S, "--nonce", "00")
    assert isinstance(error_of(result), NonceRefused)
    assert "12 nonce        FAILED" in result.output


@pytest.mark.parametrize(
    "options",
    [
        ("--nonce", "zz"),
        ("--nonce", ""),
        ("--policy", "absent.json"),
        ("--simulated-root", ROOT_KEY),
        ("--policy", "production", "--simulated-root", ROOT_KEY),
        ("--genesis", "00" * 32),
        ("--collateral", "absent"),
        ("--collateral", "="),
    ],
)
def test_options_that_make_no_sense_for_evidence_are_refused(
    simulated: Path, options: tuple[str, ...]
) -> None:
    assert isinstance(error_of(run(simulated, *options)), Invalid)


def test_a_receipt_takes_no_options_of_evidence(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    path.write_bytes(ReceiptChain().bundle().encode())

    error = error_of(run(path, "--now", "1", "--policy", "dev"))
    assert "a receipt is to be verified, which --now, --policy says nothing about" in error.what


def test_a_receipt_is_known_whatever_the_order_of_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    fields = json.loads(ReceiptChain().bundle().encode())
    order = sorted(fields, key=lambda name: name == "format")
    whole = json.dumps({name: fields[name] for name in order}).encode()
    for data in (whole, whole[:-1], whole.replace(b"phala-receipt", b"ohala-receipt")):
        path.write_bytes(data)
        assert not isinstance(error_of(run(path)), AttestationError)


def test_a_policy_of_a_file_judges(tmp_path: Path, lenient: Path) -> None:
    found = document(run(NITRO, "--now", NITRO_S, "--policy", lenient, "--json"))
    assert found["policy"] == "lenient"

    broken = tmp_path / "broken.json"
    broken.write_bytes(PRODUCTION.encode()[:-1])
    assert "no attestation policy" in str(error_of(run(NITRO, "--policy", broken)))


# ---- any other file


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}",
        b"[]",
        b"[1]",
        b"{" * 100_000,
        b"[" * 100_000,
        b"\x89PNG\r\n\x1a\n" + bytes(4096),
        b"%PDF-1.7\n",
        b"hello\n",
        b"\xff" * 300,
        b"A" * 300,
        b"00" * 600,
        bytes(2 * 1024 * 1024),
        b'{"format": "phala-receipt/1"}',
        b'{"quote": "00"}',
        b'{"quote": "\\ud800"}',
    ],
)
def test_what_is_no_evidence_is_a_clear_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    error = error_of(run(path))

    assert isinstance(error, Invalid)
    assert error.mend


def test_what_is_no_file_is_a_clear_error(tmp_path: Path) -> None:
    for name in (tmp_path, tmp_path / "absent", "/dev/null"):
        assert isinstance(error_of(run(name)), Invalid)


def test_a_pipe_is_read_to_its_end_and_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_files, "PATIENCE_S", 0.2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "did not end within" in str(error_of(run(pipe)))
    assert "did not end within" in str(error_of(run(GENOA, "--collateral", f"amd_key={pipe}")))

    monkeypatch.setattr(evidence_files, "PATIENCE_S", 30.0)
    halves = NITRO.read_bytes()[:2000], NITRO.read_bytes()[2000:]

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            for half in halves:
                file.write(half)

    writer = Thread(target=write)
    writer.start()
    error = error_of(run(pipe, "--now", NITRO_S + 10**6))
    writer.join()
    assert str(error) == str(error_of(run(NITRO, "--now", NITRO_S + 10**6)))


def test_200_random_and_altered_files_never_trace(tmp_path: Path, lenient: Path) -> None:
    random = Random(5)
    sources = [SIMULATED, NITRO.read_bytes(), GENOA.read_bytes(), ReceiptChain().bundle().encode()]
    if ALL.exists():
        sources += [
            path.read_bytes()
            for path in sorted(ALL.rglob("*"))
            if path.is_file() and path.stat().st_size < 64 * 1024
        ]
    path = tmp_path / "file"
    for number in range(200):
        if number % 5 == 0:
            data = bytearray(random.randbytes(random.choice((1, 20, 500, 1184, 5000))))
        else:
            data = bytearray(random.choice(sources))
            for _ in range(random.choice((1, 1, 8))):
                data[random.randrange(len(data))] = random.randrange(256)
            if number % 7 == 0:
                del data[random.randrange(1, len(data)) :]
        path.write_bytes(data)
        options = ("--policy", lenient, "--now", GPU_S) if b"phala-receipt" not in data else ()
        # The altered file as the collateral, too: both doors are open to strangers.
        for arguments in ((path, *options), (NITRO, "--now", NITRO_S, "--collateral", path)):
            result = run(*arguments)
            good = result.exit_code == 0 or isinstance(result.exception, PhalaError)
            assert good, (number, result.exc_info)
            assert all(each.isprintable() or each == "\n" for each in result.output)


# ---- the published verdicts


def judged(lenient: Path, file: str, now: int, *collateral: str | None) -> Result:
    given = [f"--collateral={ALL / each}" for each in collateral if each]
    return run(ALL / file, "--policy", lenient, "--now", now, "--json", *given)


def refused(result: Result) -> None:
    error = error_of(result)
    assert isinstance(error, AttestationError)
    assert error.mend


def test_intels_entries_are_judged_as_listed(lenient: Path) -> None:
    for case in index()["intel_dcap"]:
        result = judged(lenient, case["quote"], case.get("now", GPU_S), case["collateral"])
        if not case["ok"]:
            refused(result)
            continue
        (item,) = document(result)["items"]
        assert item["tcb_status"].replace("-", "") == case["status"].lower()
        assert item["advisories"] == sorted(case["advisories"])
        assert item["anchor"] == "Intel SGX Root CA"


def test_amds_entries_are_judged_as_listed(lenient: Path) -> None:
    for case in index()["amd_snp"]:
        if case["report"] is None:
            refused(judged(lenient, case["key"], GPU_S, case["chain"]))  # a key is no evidence
            continue
        now = case.get("now", 1_683_141_823)
        result = judged(lenient, case["report"], now, case["key"], case["chain"])
        if not case["ok"]:
            refused(result)
            continue
        (item,) = document(result)["items"]
        assert item["measurement"] == "0x" + case["measurement"]
        assert item["report_data"] == "0x" + case["report_data"]
        assert (item["product"], item["debug"]) == (case["product"].lower(), case["debug"])
        assert item["svn"].items() >= case["reported_tcb"].items()


def test_nvidias_entries_are_judged_as_listed(lenient: Path) -> None:
    for case in index()["nvidia"]:
        file = case.get("report") or case.get("evidence")
        if file is None:
            error = error_of(judged(lenient, case["rim"], GPU_S))  # a manifest is no evidence
            assert "looks like collateral (nvidia_rim_" in error.mend
            continue
        chain = file.replace("report", "chain") if "report" in case else None
        if "rim" in case:  # signers of public manifests expired: the policy must list them
            digest = hashlib.sha256(read(case["rim"])).digest()
            lenient.write_bytes(replace(LENIENT, rims=(digest,)).encode())
        result = judged(lenient, file, GPU_S, chain, case.get("rim"))
        if case.get("mismatched"):
            assert isinstance(error_of(result), MeasurementRefused)
            continue
        item = document(result)["items"][case.get("item", 0)]
        if "nonce" in case:
            assert item["report_data"].startswith("0x" + case["nonce"])
            options = ("--policy", lenient, "--now", GPU_S, "--nonce", case["nonce"])
            given = ("--collateral", ALL / chain) if chain else ()
            assert run(ALL / file, *options, *given).exit_code == 0


def test_nitros_entries_are_judged_as_listed(lenient: Path) -> None:
    for case in index()["nitro"]:
        (item,) = document(judged(lenient, case["doc"], case["time_ms"] // 1000))["items"]
        assert (item["debug"], item["issued_ms"]) == (case["debug"], case["time_ms"])
        assert item["measurements"]["pcr0"] == "0x" + case["pcr0"]
        if case["nonce"]:
            base = (ALL / case["doc"], "--policy", lenient, "--now", case["time_ms"] // 1000)
            assert run(*base, "--nonce", case["nonce"]).exit_code == 0


def test_azures_and_the_logs_entries_are_judged_as_listed(lenient: Path) -> None:
    (case,) = index()["azure_vtpm"]
    result = judged(lenient, case["evidence"], 1_770_000_000, "amd/chains/ask_ark_milan.pem")
    assert document(result)["items"][0]["platform"] == "azure-snp"

    boot, dstack = index()["rtmr_replay"]
    google = "intel/collateral/tdx-00806F050000-2025-10.json"
    result = judged(lenient, boot["quote"], 1_761_920_231, google, boot["ccel"])
    assert f"ccel: {boot['events']} events end in the registers" in str(document(result)["items"])
    other = "intel/collateral/tdx-90C06F000000-2026-02.json"
    result = judged(lenient, dstack["json"], 1_772_707_803, other)
    assert f"{dstack['events']} events end in the registers" in str(document(result)["items"])


def test_every_item_of_a_file_is_judged(lenient: Path) -> None:
    index()
    file = ALL / "nvidia" / "multi_gpu_hopper.json"
    output = run(file, "--policy", lenient, "--now", GPU_S).output

    assert "4 of 4" in output
    assert output.count("you believe NVIDIA") == 4
    refusal = run(file, "--now", GPU_S)
    assert "--policy chooses another policy" in error_of(refusal).mend


def test_collateral_in_vendors_own_forms_is_known(tmp_path: Path) -> None:
    fields = json.loads(read("intel/collateral/tdx-00806F050000-2025-10.json"))
    parts = {
        "tcb.json": f'{{"tcbInfo":{fields["tcb_info"]},'
        f'"signature":"{fields["tcb_info_signature"]}"}}',
        "qe.json": f'{{"enclaveIdentity":{fields["qe_identity"]},'
        f'"signature":"{fields["qe_identity_signature"]}"}}',
        "tcb.pem": fields["tcb_info_issuer_chain"],
        "pck.pem": fields["pck_crl_issuer_chain"],
    }
    for name, text in parts.items():
        (tmp_path / name).write_text(text)
    for name in ("root_ca_crl", "pck_crl"):
        (tmp_path / f"{name}.der").write_bytes(bytes.fromhex(fields[name]))
    given = [f"--collateral={path}" for path in sorted(tmp_path.iterdir())]
    quote = ALL / "intel" / "quotes" / "tdx-v4-gcp-cos.bin"

    (item,) = document(run(quote, "--now", 1_761_920_231, "--json", *given))["items"]
    assert item["collateral"] == sorted(fields)


def test_lists_may_come_in_hex_or_pem_and_by_name(tmp_path: Path) -> None:
    """PCCS hands them out in hex, Intel's older library in PEM, and people name raw ones."""
    fields = json.loads(read("intel/collateral/tdx-00806F050000-2025-10.json"))
    raw = {name: bytes.fromhex(fields[name]) for name in ("root_ca_crl", "pck_crl")}
    head, end = "-----BEGIN X509 CRL-----\n", "-----END X509 CRL-----\n"
    pem = {name: head + base64.encodebytes(body).decode() + end for name, body in raw.items()}
    rest = {name: text for name, text in fields.items() if name not in raw}
    quote = ALL / "intel" / "quotes" / "tdx-v4-gcp-cos.bin"

    def judged(**files: bytes | str) -> list[str]:
        given: list[str] = []
        for name, body in files.items():
            path = tmp_path / name
            path.write_bytes(body if isinstance(body, bytes) else body.encode())
            given.append(f"--collateral={'' if name == 'all' else name + '='}{path}")
        (item,) = document(run(quote, "--now", 1_761_920_231, "--json", *given))["items"]
        return list(item["collateral"])

    for files in (
        {"all": json.dumps({**fields, **pem})},
        {"all": json.dumps(rest), **raw},
        {"all": json.dumps(rest), **pem},
        {"all": json.dumps(rest), **{name: body.hex() + "\n" for name, body in raw.items()}},
    ):
        assert judged(**files) == sorted(fields)


def test_a_nonce_of_nitros_may_stand_in_either_field() -> None:
    """`phala attest` puts what it is told into the user's data; others use the nonce's field."""
    enclave, said = p384_pki.chain(5), b"\x07\x08"
    cases: tuple[tuple[dict[int | str, Any], bool], ...] = (
        ({"user_data": said.ljust(64, b"\0"), "nonce": None}, True),
        ({"user_data": None, "nonce": said}, True),
        ({"user_data": said + b"\x01", "nonce": said + b"\x01"}, False),
        ({"user_data": None, "nonce": said.ljust(64, b"\0")}, False),
    )
    for fields, good in cases:
        verdict = verify_document(
            p384_pki.nitro_document(enclave, changes=fields),
            PRODUCTION,
            {},
            p384_pki.NOW,
            root=enclave.root_hash,
        )
        if good:
            check_nonce(verdict, said)
        else:
            with pytest.raises(NonceRefused):
                check_nonce(verdict, said)
