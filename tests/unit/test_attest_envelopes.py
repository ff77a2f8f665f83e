"""The forms in which people have evidence on disk: each is found out, or said to be none."""

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from phala.attest import (
    PRODUCTION,
    AttestationError,
    PlatformCode,
    azure,
    intel,
    nvidia,
    open_evidence,
    snp,
)
from phala.attest.envelopes import ENVELOPE_BYTES_MAX
from phala.attest.errors import EvidenceMalformed
from phala.cli.evidence_files import read_collateral
from phala.errors import Invalid
from phala.testing import amd_pki, intel_pki, p384_pki

INTEL, AMD = intel_pki.SimulatedIntel(), amd_pki.SimulatedAmd()
QUOTE, REPORT = INTEL.quote(), AMD.report()
KEY, ITEMS = AMD.key(), INTEL.collateral()
NITRO = p384_pki.nitro_document(p384_pki.chain(5))
DEVICE = p384_pki.chain(5)
GPU = {
    "arch": "HOPPER",
    "evidence": base64.b64encode(p384_pki.gpu_report(DEVICE)).decode(),
    "certificate": base64.b64encode(DEVICE.pem).decode(),
}
GPUS = {"nonce": "00" * 32, "evidence_list": [GPU, GPU], "arch": "HOPPER"}
CCEL = b"\0" * 32 + b"Spec ID Event03\0" + bytes(100)
LOG = json.dumps([{"imr": 3, "event_type": 0x08000001, "digest": "", "event": "a"}])


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def lines(text: str) -> str:
    return "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76))


TDX, SNP, AWS = PlatformCode.TDX, PlatformCode.SEV_SNP, PlatformCode.NITRO
FORMS: list[tuple[bytes, int, bytes]] = [
    (QUOTE, TDX, QUOTE),
    (QUOTE.hex().encode(), TDX, QUOTE),
    (b"0x" + QUOTE.hex().upper().encode() + b"\n", TDX, QUOTE),
    (lines(b64(QUOTE)).encode(), TDX, QUOTE),
    (url(QUOTE).encode(), TDX, QUOTE),
    (json.dumps(b64(QUOTE)).encode(), TDX, QUOTE),
    (gzip.compress(QUOTE), TDX, QUOTE),
    (gzip.compress(b64(QUOTE).encode()), TDX, QUOTE),
    (QUOTE.hex().encode("utf-16"), TDX, QUOTE),  # a Windows shell's redirection
    (b"\xef\xbb\xbf" + json.dumps({"quote": QUOTE.hex()}).encode(), TDX, QUOTE),
    (json.dumps({"quote": b64(QUOTE), "runtime_data": "AA=="}).encode(), TDX, QUOTE),
    (json.dumps({"quote": url(QUOTE), "runtimeData": {"data": "AA"}}).encode(), TDX, QUOTE),
    (json.dumps({"tdx": {"quote": b64(QUOTE)}}).encode(), TDX, QUOTE),
    (json.dumps({"result": {"quote": QUOTE.hex(), "event_log": LOG}}).encode(), TDX, QUOTE),
    (json.dumps({"quote": list(QUOTE)}).encode(), TDX, QUOTE),
    (json.dumps({"tdx_quote": QUOTE.hex()}).encode(), TDX, QUOTE),
    (json.dumps({"quote": b64(REPORT)}).encode(), SNP, REPORT),
    (REPORT, SNP, REPORT),
    (b64(REPORT).encode(), SNP, REPORT),
    (NITRO, AWS, NITRO),
    (b64(NITRO).encode() + b"\n", AWS, NITRO),
    (json.dumps({"attestation_document": b64(NITRO)}).encode(), AWS, NITRO),
    (json.dumps({"document": url(NITRO)}).encode(), AWS, NITRO),
]


@pytest.mark.parametrize(("data", "platform", "blob"), FORMS)
def test_evidence_is_found_in_whatever_it_was_saved_as(
    data: bytes, platform: int, blob: bytes
) -> None:
    (opened,) = open_evidence(data)

    assert (opened.evidence.platform, opened.evidence.blob) == (platform, blob)


def test_a_log_comes_with_its_quote_in_each_form() -> None:
    for given, name, body in (
        ({"event_log": LOG}, intel.EVENT_LOG, LOG.encode()),
        ({"event_log": json.loads(LOG)}, intel.EVENT_LOG, LOG.encode()),
        ({"cc_eventlog": b64(CCEL)}, intel.BOOT_LOG, CCEL),
        ({"event_log": b64(CCEL)}, intel.BOOT_LOG, CCEL),
    ):
        (opened,) = open_evidence(json.dumps({"quote": QUOTE.hex(), **given}).encode())
        assert opened.collateral == {name: body}
    with pytest.raises(EvidenceMalformed, match="no event log"):
        open_evidence(json.dumps({"quote": QUOTE.hex(), "event_log": "AAAA"}).encode())


def test_a_gateways_report_has_the_cpus_quote_and_each_gpus() -> None:
    report = {"intel_quote": QUOTE.hex(), "nvidia_payload": json.dumps(GPUS), "signing_address": ""}
    cpu, *gpus = open_evidence(json.dumps(report).encode())

    assert cpu.evidence.platform == TDX
    assert [each.evidence.platform for each in gpus] == [PlatformCode.NVIDIA] * 2
    assert gpus[0].collateral == {nvidia.CHAIN: DEVICE.pem}
    assert len(open_evidence(json.dumps(GPUS).encode())) == 2


def test_a_collection_of_messages_has_each_device() -> None:
    """As NVIDIA's attestation SDK of 2026 writes it: base64 for addresses, without padding."""
    device = {
        "__cmwc_t": "tag:nvidia.com,2026:evidence-item/v1",
        "evidence": ["application/vnd.nvidia.spdm-measurement-transcript",
                     url(base64.b64decode(GPU["evidence"]))],
        "certificate": ["application/vnd.nvidia.pem-cert-chain", url(DEVICE.pem), 4],
        "nonce": ["application/octet-stream", "AA"],
    }  # fmt: skip
    head = {"__cmwc_t": "tag:nvidia.com,2026:x", "nonce": ["application/octet-stream", "AA"]}
    found = open_evidence(json.dumps({**head, "gpu_0": device, "gpu_1": device}).encode())

    assert [each.collateral for each in found] == [{nvidia.CHAIN: DEVICE.pem}] * 2
    assert found[0] == open_evidence(json.dumps([GPU]).encode())[0]
    for bad in ({}, {"gpu_0": {"evidence": 7}}, {"gpu_0": {**device, "certificate": ["a"]}},
                {f"gpu_{index}": device for index in range(33)}):  # fmt: skip
        with pytest.raises(EvidenceMalformed, match="collection"):
            open_evidence(json.dumps({**head, **bad}).encode())


def test_a_device_is_found_in_the_forms_of_other_tools() -> None:
    """Confidential Containers' list; a report in hex under base64, certificates in plain PEM."""
    (plain,) = open_evidence(json.dumps([GPU]).encode())
    report = base64.b64decode(GPU["evidence"])
    given = {"evidence": b64(report.hex().encode()), "certificate": DEVICE.pem.decode()}
    assert open_evidence(json.dumps(given).encode()) == (plain,)
    assert open_evidence(json.dumps({"device_evidence_list": [GPU]}).encode()) == (plain,)
    assert open_evidence(json.dumps({"platform": "x", "evidence": GPUS}).encode()) == (plain,) * 2


def test_a_chips_certificate_comes_with_its_report() -> None:
    for key in (b64(KEY), pem(KEY).decode()):
        given = {"platform": "snp", "evidence": {"attestation_report": b64(REPORT), "vcek": key}}
        (opened,) = open_evidence(json.dumps(given).encode())
        assert (opened.evidence.blob, opened.collateral) == (REPORT, {snp.KEY: KEY})


def test_what_microsofts_service_takes_of_a_guest_is_taken_apart() -> None:
    keys = pem(KEY) + AMD.chain()
    given = {"SnpReport": url(REPORT), "VcekCertChain": url(keys)}
    (opened,) = open_evidence(json.dumps(given).encode())

    assert opened.evidence.blob == REPORT
    judged = snp.verify_report(
        opened.evidence.blob, PRODUCTION, {**opened.collateral, snp.REVOKED: AMD.revoked()},
        amd_pki.NOW, roots=amd_pki.pinned(),
    )  # fmt: skip
    assert judged.hardware


def pem(der: bytes) -> bytes:
    return (
        b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"
    )


OTHERS: list[tuple[bytes, str]] = [
    (b"eyJhbGciOiJSUzI1NiJ9." + b"A" * 300 + b"." + b"B" * 300, "JWT"),
    (json.dumps({"claims": [], "detached_eat": ["JWT", "x"]}).encode(), "claims"),
    (gzip.compress(QUOTE)[:-20][:100], "no known form"),
    (b"\x1f\x8b" + bytes(100), "gzip"),
    (gzip.compress(bytes(ENVELOPE_BYTES_MAX + 1)), "unpacked"),
    (b"\xff\xfe\x00", "hex or base64"),
    (json.dumps({"quote": "zz"}).encode(), "no quote"),
    (json.dumps({"tdx": {"tdx": {"quote": QUOTE.hex()}}}).encode(), "no known form"),
    (json.dumps({"intel_quote": QUOTE.hex(), "nvidia_payload": "{"}).encode(), "GPUs"),
    (json.dumps({"intel_quote": QUOTE.hex(), "nvidia_payload": {}}).encode(), "list of GPUs"),
    (json.dumps({"evidence_list": [GPU] * 33}).encode(), "list of GPUs"),
    (json.dumps({"SnpReport": 7}).encode(), "no text"),
    (json.dumps(json.dumps(json.dumps("x"))).encode(), "no known form"),
    (b"00000000: 0400 0200 8100 0000 0000 0000 939a 7233  ......r3\n", "no known form"),
]


@pytest.mark.parametrize(("data", "why"), OTHERS)
def test_anything_else_is_said_to_be_none(data: bytes, why: str) -> None:
    with pytest.raises(AttestationError, match=f"(?s)check 4.*{why}"):
        open_evidence(data)


# ---- collateral


@pytest.mark.parametrize("form", [pem, bytes])
def test_a_folder_of_amds_certificates_is_one_collateral(
    tmp_path: Path, form: Callable[[bytes], bytes]
) -> None:
    """As snpguest saves them: vcek, ask and ark, in PEM or DER."""
    ask, ark = (der_of(text) for text in AMD.chain().split(b"-----END CERTIFICATE-----\n")[:2])
    for name, body in (("ark", ark), ("ask", ask), ("vcek", KEY)):
        (tmp_path / f"{name}.crt").write_bytes(form(body))
    items = read_collateral((str(tmp_path),), PlatformCode.SEV_SNP)

    assert items[snp.KEY] == KEY
    snp.verify_report(REPORT, PRODUCTION, {**items, snp.REVOKED: AMD.revoked()}, amd_pki.NOW,
                      roots=amd_pki.pinned())  # fmt: skip
    for number in range(40):
        (tmp_path / f"{number}.crt").write_bytes(form(ask))
    with pytest.raises(Invalid, match="43 files"):
        read_collateral((str(tmp_path),), PlatformCode.SEV_SNP)


def test_amds_chain_is_known_in_either_order_and_with_words_between(tmp_path: Path) -> None:
    ask, ark = (der_of(text) for text in AMD.chain().split(b"-----END CERTIFICATE-----\n")[:2])
    path = tmp_path / "chain.pem"
    for text in (
        pem(ark) + pem(ask),
        b" 0 s:CN = ASK\n" + pem(ask) + b" 1 s:CN = ARK\n---\n" + pem(ark) + b"---\n",
    ):
        path.write_bytes(text + pem(KEY))
        items = read_collateral((str(path),), PlatformCode.SEV_SNP)
        assert items[snp.KEY] == KEY
        snp.verify_report(REPORT, PRODUCTION, {**items, snp.REVOKED: AMD.revoked()}, amd_pki.NOW,
                          roots=amd_pki.pinned())  # fmt: skip


def test_a_hosts_table_in_a_file_of_its_own_is_collateral(tmp_path: Path) -> None:
    """As the kernel's configfs hands it out, beside the report: `auxblob`."""
    name = bytes.fromhex("63da758de6644564adc5f4b93be8accd")
    path = tmp_path / "auxblob"
    path.write_bytes(
        name + (48).to_bytes(4, "little") + len(KEY).to_bytes(4, "little") + bytes(24) + KEY
    )
    assert read_collateral((str(path),), PlatformCode.SEV_SNP) == {snp.KEY: KEY}


def test_a_manifest_is_known_as_nvidias_service_answers(tmp_path: Path) -> None:
    manifest = p384_pki.manifest(p384_pki.chain(4), "999.01", {1: bytes(48)})
    path = tmp_path / "rim"
    for given, found in (
        ({"id": "NV_GPU_DRIVER_X", "rim": b64(manifest), "sha256": ""}, {nvidia.DRIVER: manifest}),
        ({"rim": "****"}, None),
        ({"rim": b64(b"{}")}, None),
    ):
        path.write_text(json.dumps(given))
        if found is None:
            with pytest.raises(Invalid, match="nobody can tell"):
                read_collateral((str(path),), PlatformCode.NVIDIA)
        else:
            assert read_collateral((str(path),), PlatformCode.NVIDIA) == found


def test_a_list_may_hold_evidence_of_any_kind() -> None:
    items = [{"quote": QUOTE.hex()}, GPU, {"document": b64(NITRO)}]
    found = open_evidence(json.dumps(items).encode())
    assert [each.evidence.platform for each in found] == [TDX, PlatformCode.NVIDIA, AWS]
    with pytest.raises(EvidenceMalformed, match="no known form"):
        open_evidence(json.dumps([{"imr": 3, "digest": ""}]).encode())


def test_a_chain_out_of_a_header_is_known(tmp_path: Path) -> None:
    """Intel's service names who signed in headers, escaped as in an address."""
    path = tmp_path / "chain"
    path.write_text(quote(ITEMS["tcb_info_issuer_chain"].decode(), safe=""))
    found = read_collateral((str(path),), PlatformCode.TDX)
    assert found["tcb_info_issuer_chain"] == ITEMS["tcb_info_issuer_chain"]


def der_of(text: bytes) -> bytes:
    return base64.b64decode(b"".join(text.split(b"\n")[1:]))


def test_azures_parts_are_found_under_either_tools_names() -> None:
    """Confidential Containers' document, and that of attested TLS."""
    hcl = (b"HCLA" + bytes(0x4C4) + b"\4").ljust(2600, b"\0")
    lists = {"message": [1, 2], "signature": [3], "pcrs": [[4] * 32, [5] * 32]}
    texts = {"message": "0102", "signature": "03", "pcrs": ["04" * 32, "05" * 32]}
    coco = {"hcl_report": url(hcl), "td_quote": url(QUOTE), "tpm_quote": texts, "version": 1}
    tls: dict[str, Any] = {"hcl_report_base64": url(hcl), "tdx_quote_base64": b64(QUOTE)}
    tls["tpm_attestation"] = {"quote": lists, "event_log": [], "ak_certificate_pem": ""}
    (first,), (second,) = (open_evidence(json.dumps(each).encode()) for each in (coco, tls))

    assert first == second
    assert (first.evidence.platform, first.evidence.blob) == (PlatformCode.AZURE_TDX, hcl)
    assert first.collateral == {
        azure.QUOTE: b"\1\2", azure.SIGNATURE: b"\3", azure.TD_QUOTE: QUOTE,
        azure.PCRS: b"\4" * 32 + b"\5" * 32,
    }  # fmt: skip
    with pytest.raises(EvidenceMalformed):
        open_evidence(json.dumps({**tls, "tpm_attestation": {"quote": []}}).encode())


def test_what_azure_tells_its_machine_is_collateral(tmp_path: Path) -> None:
    told = {
        "vcekCert": pem(KEY).decode(),
        "tcbm": "",
        "certificateChain": AMD.chain().decode(),
    }
    (tmp_path / "thim.json").write_text(json.dumps(told))
    items = read_collateral((str(tmp_path / "thim.json"),), PlatformCode.SEV_SNP)

    snp.verify_report(REPORT, PRODUCTION, {**items, snp.REVOKED: AMD.revoked()}, amd_pki.NOW,
                      roots=amd_pki.pinned())  # fmt: skip


def test_the_librarys_own_text_of_collateral_is_known_without_the_provers_chain(
    tmp_path: Path,
) -> None:
    whole = {name: item.decode() for name, item in ITEMS.items()}
    (tmp_path / "c.json").write_text(json.dumps({**whole, "pck_certificate_chain": "x"}))

    assert read_collateral((str(tmp_path / "c.json"),), TDX) == ITEMS
