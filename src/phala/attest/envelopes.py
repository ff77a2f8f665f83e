"""Finds the evidence in what tools hand around: files of vendors' samples, clouds and dstack.

Nothing here is judged, and nothing that is found is trusted: an envelope is taken apart into
evidence and collateral for `verify`. What the prover must not choose, Intel's collateral and AMD's
revocation list, is never taken from one.
"""

import base64
import binascii
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from phala.attest import azure, dstack, intel, nvidia, snp
from phala.attest.certs import decode_certificate, decode_pem
from phala.attest.errors import AttestationError, EvidenceMalformed
from phala.attest.quote import VENDOR_SIMULATED, platform_of
from phala.attest.verdict import PlatformCode
from phala.attest.verify import Evidence

ENVELOPE_BYTES_MAX: Final = 1024 * 1024
ITEMS_MAX: Final = 32  # of one envelope: eight GPUs and four switches make twelve

_HEX: Final = re.compile(rb"(?:0x)?((?:[0-9a-fA-F]{2}\s*)+)")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_\s-]{200,}=*")
_PEM_HEAD: Final = "-----BEGIN CERTIFICATE-----\n"
# Types of entries of the table that an SEV-SNP host hands out with reports: Linux, sev-guest.rst.
# Their UUIDs are found in either order of bytes.
_TABLE: Final[Mapping[str, str]] = {
    "63da758de6644564adc5f4b93be8accd": "VCEK",
    "a8074bc2a25a483eaae639c045a0b8a1": "VLEK",
    "4ab7b379bbac4fe4a02f05aef327c782": "ASK",
    "c0b406a4a803495297433fb6014cd0ae": "ARK",
}
_TABLE_ENTRY_BYTES: Final = 24
_BOMS: Final = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_GZIP: Final = b"\x1f\x8b"
_TOKEN: Final = re.compile(rb"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
# What tools call a quote in JSON: dstack and clouds' verifiers, gateways to GPUs, guest agents.
_QUOTES: Final = (
    *("quote", "intel_quote", "tdx_quote", "sgx_quote", "Quote"),
    "attestation_report",
)
_DOCUMENTS: Final = ("attestation_document", "attestationDocument", "document")
_INSIDE: Final = ("tdx", "sgx", "result", "evidence")  # an object of those in another
_LISTS: Final = ("evidence_list", "device_evidence_list")  # of devices
_WRAPPER: Final = "__cmwc_t"  # the type of a collection: draft-ietf-rats-msg-wrap
_BOOT_LOG_MARK: Final = b"Spec ID Event03"
_OF_CPUS: Final = ("quote", "Nitro document", "SEV-SNP report")


@dataclass(frozen=True, slots=True)
class Opened:
    """One piece of evidence, and what came with it."""

    form: str  # of the envelope, for people
    evidence: Evidence
    collateral: Mapping[str, bytes]


def open_evidence(data: bytes) -> tuple[Opened, ...]:
    """The evidence in the file that `data` is of, or `EvidenceMalformed` where nobody's is."""
    if len(data) > ENVELOPE_BYTES_MAX:
        raise _malformed(f"{len(data)} bytes, at most {ENVELOPE_BYTES_MAX} are allowed")
    found = tuple(_opened(_unwrapped(data)))
    if not found and _TOKEN.fullmatch(data.strip()):
        raise _opinion("a token (JWT)")
    if not found:
        raise _malformed("the bytes are of no known form")
    return found


def open_quote(data: bytes) -> Opened:
    """The evidence that `data` is as a CPU's platform made it, in no envelope of text.

    Raises:
        EvidenceMalformed: it is another form's, or a device's.
    """
    found = tuple(_of_bytes(data)) if len(data) <= ENVELOPE_BYTES_MAX else ()
    if len(found) != 1 or found[0].form not in _OF_CPUS:
        raise _malformed("no quote, report or document of a CPU's platform")
    return found[0]


def open_dstack(data: bytes) -> Opened:
    """The evidence in dstack's versioned attestation, or `EvidenceMalformed`."""
    return Opened("dstack attestation", *dstack.read_dstack(data))


def _unwrapped(data: bytes) -> bytes:
    """Without what keeps it small, and in the bytes of plain text where an editor marked others."""
    if data[:2] == _GZIP:
        unpacking = zlib.decompressobj(wbits=31)
        try:
            data = unpacking.decompress(data, ENVELOPE_BYTES_MAX + 1)
        except zlib.error:
            raise _malformed("what is said to be packed by gzip, and is not") from None
        if len(data) > ENVELOPE_BYTES_MAX:
            raise _malformed(f"more than {ENVELOPE_BYTES_MAX} bytes, unpacked")
    # A quote, a report or a document does not begin so.
    marked = [encoding for mark, encoding in _BOMS.items() if data.startswith(mark)]
    if marked:
        return _decoded(lambda encoding: data.decode(encoding).encode(), marked[0])
    return data


def _opened(data: bytes) -> Iterator[Opened]:
    text = data.strip()
    if text[:1] in (b"{", b"[", b'"'):
        yield from _of_json(text)
    elif (match := _HEX.fullmatch(text)) is not None:
        yield from _of_bytes(bytes.fromhex(match[1].decode()))
    elif _BASE64.fullmatch(text) is not None:
        yield from _of_bytes(_base64(text.decode()))
    else:
        yield from _of_bytes(data)


def _of_bytes(data: bytes) -> Iterator[Opened]:
    first = int.from_bytes(data[:4], "little")
    if data[12:28] in (intel.VENDOR, VENDOR_SIMULATED):
        yield Opened("quote", Evidence(platform_of(data), data), {})
    elif data[:4] == b"HCLA":
        kind = int.from_bytes(data[0x4C8:0x4CC], "little")
        code = PlatformCode.AZURE_TDX if kind == 4 else PlatformCode.AZURE_SNP
        yield Opened("Azure HCL report", Evidence(code, data), {})
    elif data.removeprefix(b"\xd2")[:3] == b"\x84\x44\xa1":  # COSE_Sign1, its header a map of 1
        yield Opened("Nitro document", Evidence(PlatformCode.NITRO, data), {})
    elif data[1:2] == b"\xe0" and len(data) > 200:
        yield Opened("NVIDIA report", Evidence(PlatformCode.NVIDIA, data), {})
    elif 2 <= first <= 5 and len(data) >= snp.REPORT_BYTES:
        report, table = data[: snp.REPORT_BYTES], data[snp.REPORT_BYTES :]
        collateral = open_table(table, vlek=snp.signed_by_vlek(report)) if table else {}
        yield Opened("SEV-SNP report", Evidence(PlatformCode.SEV_SNP, report), collateral)
    elif (data[:1] == b"\0" and len(data) > 200) or dstack.is_map(data):
        yield open_dstack(data)


def _of_json(text: bytes) -> Iterator[Opened]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _malformed("the JSON") from None
    if isinstance(document, list):
        if len(document) > ITEMS_MAX:
            raise _malformed(f"{len(document)} items, at most {ITEMS_MAX} are allowed")
        for item in document:
            yield from _of_fields(_object(item))
        return
    if isinstance(document, str):
        yield from _opened(_utf8(document).lstrip(b'"'))
        return
    yield from _of_fields(_object(document))


def _of_fields(fields: Mapping[str, Any]) -> Iterator[Opened]:
    quotes = [name for name in _QUOTES if name in fields]
    documents = [name for name in _DOCUMENTS if name in fields]
    inside = [name for name in _INSIDE if isinstance(fields.get(name), dict)]
    if "hcl_report" in fields:
        yield _of_azure(fields)
    elif "hcl_report_base64" in fields:
        yield _of_azure(_as_azures(fields))
    elif quotes:
        found = tuple(_of_bytes(_hex_or_base64(fields, quotes[0])))
        if len(found) != 1 or found[0].form not in _OF_CPUS:
            raise _malformed(f"{quotes[0]} in the JSON is no quote, report or document")
        form = "dstack quote" if "event_log" in fields else f"{found[0].form} in JSON"
        is_snp = found[0].evidence.platform is PlatformCode.SEV_SNP
        more = _vcek(fields) if is_snp else _log(fields)
        yield Opened(form, found[0].evidence, {**found[0].collateral, **more})
        if "nvidia_payload" in fields:
            yield from _of_gpus(fields["nvidia_payload"])
    elif any(name in fields for name in _LISTS):
        yield from _of_gpus(fields)
    elif _WRAPPER in fields:
        yield from _of_wrapper(fields)
    elif "SnpReport" in fields:
        yield _of_microsoft(fields)
    elif documents:
        document = _base64(_text(fields, documents[0]))
        yield Opened("Nitro document", Evidence(PlatformCode.NITRO, document), {})
    elif "attestation" in fields:
        yield open_dstack(_hex(fields, "attestation"))
    elif "evidence" in fields and "certificate" in fields:
        yield _of_nvidia(fields)
    elif "detached_eat" in fields:
        raise _opinion("a verifier's claims")
    elif inside:
        yield from _of_fields({name: fields[inside[0]][name] for name in fields[inside[0]]
                               if name not in _INSIDE})  # fmt: skip


def _log(fields: Mapping[str, Any]) -> dict[str, bytes]:
    """The log beside a quote: dstack's in JSON, or the firmware's in base64."""
    found: dict[str, bytes] = {}
    for name in ("event_log", "cc_eventlog"):
        given = fields.get(name)
        if given is None:
            continue
        if isinstance(given, list):
            found[intel.EVENT_LOG] = json.dumps(given).encode()
            continue
        text = _text(fields, name)
        if text.lstrip()[:1] == "[":
            found[intel.EVENT_LOG] = _utf8(text)
        elif _BOOT_LOG_MARK in (log := _base64(text))[:64]:
            found[intel.BOOT_LOG] = log
        else:
            raise _malformed(f"{name} is no event log of dstack's, nor a firmware's in base64")
    return found


def _of_gpus(payload: Any) -> Iterator[Opened]:
    """Evidence of some GPUs as NVIDIA's service takes it; or that in a text of JSON."""
    if isinstance(payload, str):
        try:
            payload = json.loads(payload)
        except (ValueError, RecursionError):
            raise _malformed("the GPUs' JSON") from None
    fields = _object(payload)
    listed = next((fields[name] for name in _LISTS if name in fields), None)
    if not isinstance(listed, list) or not 0 < len(listed) <= ITEMS_MAX:
        raise _malformed(f"a list of GPUs that has not 1 to {ITEMS_MAX} items")
    for item in listed:
        yield _of_nvidia(_object(item))


def _of_microsoft(fields: Mapping[str, Any]) -> Opened:
    """What Microsoft's attestation service takes of an SEV-SNP guest."""
    report = _base64(_text(fields, "SnpReport"))
    collateral: dict[str, bytes] = {}
    if "VcekCertChain" in fields:
        key, *above = decode_pem(_base64(_text(fields, "VcekCertChain")))
        collateral[snp.KEY] = key.der
        if above:
            collateral[snp.CHAIN] = b"".join(_pem(each.der) for each in above)
    return Opened("SEV-SNP report", Evidence(PlatformCode.SEV_SNP, report), collateral)


def _of_wrapper(fields: Mapping[str, Any]) -> Iterator[Opened]:
    """A collection of conceptual messages, as NVIDIA's attestation SDK writes it since 2026: each
    value is a list of its media type and itself (draft-ietf-rats-msg-wrap)."""
    items = [each for each in fields.values() if isinstance(each, dict) and "evidence" in each]
    if not 0 < len(items) <= ITEMS_MAX:
        raise _malformed(f"{len(items)} devices in a collection, not 1 to {ITEMS_MAX}")
    for item in items:
        pairs = {name: item.get(name) for name in ("evidence", "certificate")}
        for name, pair in pairs.items():
            if not isinstance(pair, list) or len(pair) not in (2, 3):
                raise _malformed(f"{name} in a collection is no pair of type and value")
        yield _of_nvidia({name: pair[1] for name, pair in pairs.items() if pair})


def _of_nvidia(fields: Mapping[str, Any]) -> Opened:
    """An item of NVIDIA's attestation SDK."""
    report, certificates = _base64(_text(fields, "evidence")), _text(fields, "certificate")
    if (match := _HEX.fullmatch(report.strip())) is not None:
        report = bytes.fromhex(match[1].decode())
    pem = certificates.lstrip().startswith("-----BEGIN")
    chain = _utf8(certificates) if pem else _base64(certificates)
    return Opened("NVIDIA evidence", Evidence(PlatformCode.NVIDIA, report), {nvidia.CHAIN: chain})


def _of_azure(fields: Mapping[str, Any]) -> Opened:
    """Evidence of the guest components of Confidential Containers."""
    report, tpm = _blob(fields, "hcl_report"), _object(fields.get("tpm_quote"))
    pcrs = tpm.get("pcrs")
    if not isinstance(pcrs, list):
        raise _malformed("PCRs that are no list")
    collateral = {
        azure.QUOTE: _hex(tpm, "message"),
        azure.SIGNATURE: _hex(tpm, "signature"),
        azure.PCRS: b"".join(_hex({"pcr": each}, "pcr") for each in pcrs),
        **_vcek(fields),
    }
    code = PlatformCode.AZURE_SNP
    if "td_quote" in fields:
        code = PlatformCode.AZURE_TDX
        collateral[azure.TD_QUOTE] = _blob(fields, "td_quote")
        collateral.pop(snp.KEY, None)
    return Opened("Azure evidence", Evidence(code, report), collateral)


def _as_azures(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same as attested TLS calls its parts."""
    return {
        "hcl_report": fields["hcl_report_base64"],
        "td_quote": fields.get("tdx_quote_base64"),
        "tpm_quote": _object(fields.get("tpm_attestation")).get("quote"),
    }


def _vcek(fields: Mapping[str, Any]) -> dict[str, bytes]:
    """The certificate of a chip's key beside its report, in PEM or in DER as base64."""
    if fields.get("vcek") is None:
        return {}
    key = _text(fields, "vcek")
    pem = key.lstrip().startswith("-----BEGIN")
    return {snp.KEY: decode_pem(_utf8(key))[0].der if pem else _base64(key)}


def open_table(table: bytes, *, vlek: bool = False) -> dict[str, bytes]:
    """The certificates that an SEV-SNP host hands out with a report, behind it or in a file of
    their own (configfs' `auxblob`); nothing where the bytes are no such table.

    Args:
        vlek: of two keys, take the cloud's.
    """
    found: dict[str, bytes] = {}
    for at in range(0, ITEMS_MAX * _TABLE_ENTRY_BYTES, _TABLE_ENTRY_BYTES):
        entry = table[at : at + _TABLE_ENTRY_BYTES]
        if len(entry) < _TABLE_ENTRY_BYTES or not any(entry):
            break
        offset, size = (int.from_bytes(entry[place : place + 4], "little") for place in (16, 20))
        name = _TABLE.get(entry[:16].hex()) or _TABLE.get(_swapped(entry[:16]).hex())
        if name is not None:
            found[name] = _der(table[offset : offset + size])
    order = ("VLEK", "VCEK") if vlek else ("VCEK", "VLEK")
    key = next((found[name] for name in order if name in found), None)
    collateral = {} if key is None else {snp.KEY: key}
    if "ASK" in found and "ARK" in found:
        collateral[snp.CHAIN] = _pem(found["ASK"]) + _pem(found["ARK"])
    return collateral


def _der(certificate: bytes) -> bytes:
    """Hosts put in what they were given: DER, or PEM."""
    if certificate.lstrip().startswith(b"-----BEGIN"):
        return decode_pem(certificate)[0].der
    return certificate


def certificates(data: bytes) -> tuple[bytes, ...]:
    """The DER of the certificates in a file, which is one in DER, or some in PEM."""
    if data.lstrip().startswith(b"-----BEGIN"):
        return tuple(each.der for each in decode_pem(data))
    return (decode_certificate(data).der,)


def _pem(data: bytes) -> bytes:
    body = base64.b64encode(data).decode()
    return f"{_PEM_HEAD}{body}\n-----END CERTIFICATE-----\n".encode()


def _swapped(uuid: bytes) -> bytes:
    return uuid[3::-1] + uuid[5:3:-1] + uuid[7:5:-1] + uuid[8:]


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _malformed("an item that is no JSON object")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _malformed(f"{name} is no text")
    return value


def _utf8(text: str) -> bytes:
    return _decoded(str.encode, text)  # JSON's may hold half of a pair of surrogates


def _blob(fields: Mapping[str, Any], name: str) -> bytes:
    """Base64, or a list of numbers."""
    if isinstance(fields.get(name), list):
        return _listed(fields[name])
    return _base64(_text(fields, name))


def _listed(numbers: list[Any]) -> bytes:
    if not all(type(each) is int and 0 <= each <= 255 for each in numbers):
        raise _malformed("a list that is not of bytes")
    return bytes(numbers)


def _hex(fields: Mapping[str, Any], name: str) -> bytes:
    """Hex, or a list of numbers."""
    if isinstance(fields.get(name), list):
        return _listed(fields[name])
    return _decoded(lambda text: bytes.fromhex(text.removeprefix("0x")), _text(fields, name))


def _hex_or_base64(fields: Mapping[str, Any], name: str) -> bytes:
    value = fields.get(name)
    if isinstance(value, str) and _HEX.fullmatch(_utf8(value).strip()) is None:
        return _base64(value)
    return _hex(fields, name)


def _base64(text: str) -> bytes:
    """With either alphabet, padded or not."""
    plain = re.sub(r"\s", "", text).translate(str.maketrans("-_", "+/")).rstrip("=")
    return _decoded(
        lambda padded: base64.b64decode(padded, validate=True), plain + "=" * (-len(plain) % 4)
    )


def _decoded(decode: Callable[[str], bytes], text: str) -> bytes:
    try:
        return decode(text)
    except (binascii.Error, ValueError):
        raise _malformed("a field that is not hex or base64") from None


def _opinion(what: str) -> AttestationError:
    return EvidenceMalformed(
        f"{what}: somebody says in it what he thinks of evidence that is not here",
        check=4,
        mend="give the quote, report or document that he was given",
    )


def _malformed(what: str) -> AttestationError:
    return EvidenceMalformed(
        f"no evidence of a known form: {what}",
        check=4,
        mend="give a quote, a report or a document as the platform, its SDK or dstack wrote it",
    )
