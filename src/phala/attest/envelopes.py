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

from phala.attest import azure, intel, nvidia, snp
from phala.attest.certs import decode_certificate, decode_pem
from phala.attest.errors import AttestationError, EvidenceMalformed
from phala.attest.eventlog import EVENTS_MAX, RUNTIME_EVENT
from phala.attest.quote import VENDOR_SIMULATED
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
_QUOTES: Final = ("quote", "intel_quote", "tdx_quote", "sgx_quote", "Quote")
_DOCUMENTS: Final = ("attestation_document", "attestationDocument", "document")
_INSIDE: Final = ("tdx", "sgx", "result")  # an object of those in another
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
    return _of_dstack(data)


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
        yield Opened("quote", Evidence(_of_quote(data), data), {})
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
        collateral = _of_table(table) if table else {}
        yield Opened("SEV-SNP report", Evidence(PlatformCode.SEV_SNP, report), collateral)
    elif data[:1] == b"\0" and len(data) > 200:
        yield _of_dstack(data)


def _of_quote(data: bytes) -> PlatformCode:
    if data[12:28] == VENDOR_SIMULATED:
        return PlatformCode.SIMULATED
    is_tdx = int.from_bytes(data[4:8], "little") == 0x81
    return PlatformCode.TDX if is_tdx else PlatformCode.SGX


def _of_json(text: bytes) -> Iterator[Opened]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _malformed("the JSON") from None
    if isinstance(document, list):
        if len(document) > ITEMS_MAX:
            raise _malformed(f"{len(document)} items, at most {ITEMS_MAX} are allowed")
        for item in document:
            yield _of_nvidia(_object(item))
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
    elif quotes:
        found = tuple(_of_bytes(_hex_or_base64(fields, quotes[0])))
        if len(found) != 1 or found[0].form not in _OF_CPUS:
            raise _malformed(f"{quotes[0]} in the JSON is no quote, report or document")
        form = "dstack quote" if "event_log" in fields else f"{found[0].form} in JSON"
        yield Opened(form, found[0].evidence, {**found[0].collateral, **_log(fields)})
        if "nvidia_payload" in fields:
            yield from _of_gpus(fields["nvidia_payload"])
    elif "evidence_list" in fields:
        yield from _of_gpus(fields)
    elif "SnpReport" in fields:
        yield _of_microsoft(fields)
    elif documents:
        document = _base64(_text(fields, documents[0]))
        yield Opened("Nitro document", Evidence(PlatformCode.NITRO, document), {})
    elif "attestation" in fields:
        yield _of_dstack(_hex(fields, "attestation"))
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
    listed = _object(payload).get("evidence_list")
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


def _of_nvidia(fields: Mapping[str, Any]) -> Opened:
    """An item of NVIDIA's attestation SDK."""
    report = _base64(_text(fields, "evidence"))
    chain = _base64(_text(fields, "certificate"))
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
    }
    code = PlatformCode.AZURE_SNP
    if "td_quote" in fields:
        code = PlatformCode.AZURE_TDX
        collateral[azure.TD_QUOTE] = _blob(fields, "td_quote")
    elif "vcek" in fields:
        key = _text(fields, "vcek")
        pem = key.startswith("-----BEGIN")
        collateral[snp.KEY] = decode_pem(_utf8(key))[0].der if pem else _base64(key)
    return Opened("Azure evidence", Evidence(code, report), collateral)


def _of_table(table: bytes) -> dict[str, bytes]:
    """The certificates behind an extended SEV-SNP report."""
    found: dict[str, bytes] = {}
    for at in range(0, ITEMS_MAX * _TABLE_ENTRY_BYTES, _TABLE_ENTRY_BYTES):
        entry = table[at : at + _TABLE_ENTRY_BYTES]
        if len(entry) < _TABLE_ENTRY_BYTES or not any(entry):
            break
        offset, size = (int.from_bytes(entry[place : place + 4], "little") for place in (16, 20))
        name = _TABLE.get(entry[:16].hex()) or _TABLE.get(_swapped(entry[:16]).hex())
        if name is not None:
            found[name] = table[offset : offset + size]
    key = found.get("VCEK") or found.get("VLEK")
    collateral = {} if key is None else {snp.KEY: key}
    if "ASK" in found and "ARK" in found:
        collateral[snp.CHAIN] = _pem(found["ASK"]) + _pem(found["ARK"])
    return collateral


def _of_dstack(data: bytes) -> Opened:
    """dstack's versioned attestation, SCALE: version 0, then the platform's number.

    TDX, 0: quote, then events. Nitro, 2: document. SEV-SNP, 3: report, then certificates in PEM,
    in any order. What follows, the description of the machine, proves nothing and is left.
    """
    reader = _Scale(data, 2)
    match data[:2]:
        case b"\0\0":
            quote = reader.string()
            if not quote:
                raise _malformed("a dstack attestation of nothing")
            log = json.dumps([_dstack_event(reader) for _ in range(reader.count(EVENTS_MAX))])
            return Opened(
                "dstack attestation",
                Evidence(_of_quote(quote), quote),
                {intel.EVENT_LOG: _measured(log)},
            )
        case b"\0\2":
            return Opened("dstack attestation", Evidence(PlatformCode.NITRO, reader.string()), {})
        case b"\0\3":
            report = reader.string()
            chains = [decode_pem(reader.string()) for _ in range(reader.count(8))]
            named = {each.common_name: each.der for chain in chains for each in chain}
            collateral = {}
            for name, der in named.items():
                if name in ("SEV-VCEK", "SEV-VLEK"):
                    collateral[snp.KEY] = der
            above = sorted(
                (name for name in named if name[:4] in ("SEV-", "ARK-")),
                key=lambda name: name.startswith("ARK-"),
            )
            rest = [named[name] for name in above if name not in ("SEV-VCEK", "SEV-VLEK")]
            if rest:
                collateral[snp.CHAIN] = b"".join(map(_pem, rest))
            return Opened("dstack attestation", Evidence(PlatformCode.SEV_SNP, report), collateral)
        case _:
            raise _malformed(f"a dstack attestation of the form {data[:2].hex()}")


def _dstack_event(reader: "_Scale") -> dict[str, Any]:
    return {
        "imr": reader.number(),
        "event_type": reader.number(),
        "digest": reader.string().hex(),
        "event": reader.string().decode("utf-8", "replace"),
        "event_payload": reader.string().hex(),
    }


def _measured(log: str) -> bytes:
    """Without boot events that were picked by name: of those registers the log tells but a part."""
    events = json.loads(log)
    picked = any(each["event"] and each["event_type"] != RUNTIME_EVENT for each in events)
    kept = [each for each in events if not picked or each["event_type"] == RUNTIME_EVENT]
    return json.dumps(kept).encode()


class _Scale:
    """As much of SCALE as that attestation needs, on bytes of a stranger's."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def number(self) -> int:
        return int.from_bytes(self._take(4), "little")

    def count(self, most: int) -> int:
        first = self.data[self.at : self.at + 1]
        size = {0: 1, 1: 2, 2: 4}.get(first[0] & 3, 0) if first else 0
        if size == 0:
            raise _malformed(f"the length at byte {self.at}")
        number = int.from_bytes(self._take(size), "little") >> 2
        if number > most:
            raise _malformed(f"{number} items at byte {self.at}")
        return number

    def string(self) -> bytes:
        return self._take(self.count(ENVELOPE_BYTES_MAX))

    def _take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        if len(taken) != size:
            raise _malformed(f"it ends before byte {self.at + size}")
        self.at += size
        return taken


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
