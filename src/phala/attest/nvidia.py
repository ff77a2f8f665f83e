"""Judges reports of NVIDIA GPUs and switches, and holds them against NVIDIA's manifests.

Source: DMTF DSP0274 (SPDM 1.1), section 10.11; TCG DICE attestation architecture. A report proves
nothing of the machine that it stands in: its nonce must bind it to a CPU enclave, and the enclave's
report_data must bind the report. Checks, as numbered in `verify`:

4.  The report is one request for measurements and its one answer, to the last byte: blocks of
    different indices, opaque fields, 96 bytes of signature.
5a. The device's chain of 5 ends in NVIDIA's device root; each certificate is signed by the next
    (P-384, SHA-384), may sign if it does, and is valid at `now`.
5b. Where the report names the firmware's identity (FWID), the device's certificate has the same.
6.  The device's key signed all but the last 96 bytes: P-384 with SHA-384.
7.  Manifests are NVIDIA's, for the versions that the report names, and their signers are valid at
    `now`, or the policy lists the manifest by its hash.
9.  Each measurement of a manifest is among the good ones, but that of a video decoder which the
    report says is off, as it is in confidential mode: NVIDIA's own verifiers leave it out, too.
    With a driver's and a VBIOS's manifest (a switch has the latter alone) the device is up to
    date; with fewer nobody says so.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from phala.attest import der
from phala.attest.certs import Certificate, check_p384, decode_pem, p384_point, verify_chain
from phala.attest.ecdsa import SignatureMismatch, verify_p384
from phala.attest.errors import (
    AnchorRefused,
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
    MeasurementRefused,
)
from phala.attest.policy import Policy
from phala.attest.rim import Rim, verify_rim
from phala.attest.verdict import CONFIDENCE_BEST, CONFIDENCE_WORST, PlatformCode, TcbStatus, Verdict
from phala.primitives.types import Hash, Moment

# SHA-256 of the SubjectPublicKeyInfo of the "NVIDIA Device Identity CA".
DEVICE_ROOT: Final = "a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4"
CHAIN, DRIVER, VBIOS = "nvidia_chain", "nvidia_rim_driver", "nvidia_rim_vbios"  # PEM, XML, XML
COLLATERAL: Final = (CHAIN, DRIVER, VBIOS)
CHAIN_CERTIFICATES: Final = 5
RIMS_KEPT: Final = 16  # of about 25 KB each, at most 128
NO_RIMS: Final[Mapping[bytes, Rim]] = MappingProxyType({})

_REQUEST_BYTES: Final = 37  # version, code, 2 parameters, nonce, slot
_SIGNATURE_BYTES: Final = 96
_NONCE_BYTES: Final = 32
_GET_MEASUREMENTS, _MEASUREMENTS = 0xE0, 0x60
_DMTF: Final = 1
_BLOCKS_MAX, _FIELDS_MAX = 255, 64
_DRIVER_FIELD, _VBIOS_FIELD, _FWID_FIELD = 3, 6, 20
# NVIDIA's nvtrust, verifier.py, and its attestation SDK: where this field says that the decoder
# NVDEC0 is off, the measurement of that index is not what the driver's manifest tells.
_DECODER_FIELD, _DECODER_OFF, _DECODER_INDEX = 11, b"\x55", 35
_READ: Final = (_DRIVER_FIELD, _VBIOS_FIELD, _DECODER_FIELD, _FWID_FIELD)
_FWID_DEPTH_MAX: Final = 4
_SWITCH: Final = "SWITCH"  # a manifest's edition; a GPU's is "GPU"
_DICE: Final = ("2.23.133.5.4.1", "2.23.133.5.4.1.1")  # TcbInfo, MultiTcbInfo
_MEND: Final = "give the report as the device made it, and the chain that came with it"


@dataclass(frozen=True, slots=True)
class Report:
    """What the device says."""

    blob: bytes
    nonce: bytes
    blocks: Mapping[int, bytes]
    fields: Mapping[int, bytes]

    @property
    def signed(self) -> bytes:
        """All but the signature."""
        return self.blob[:-_SIGNATURE_BYTES]

    @property
    def driver(self) -> str:
        """The version of its driver, or ""."""
        return self.fields.get(_DRIVER_FIELD, b"").rstrip(b"\0").decode("ascii", "replace")

    @property
    def vbios(self) -> str:
        """The version of its VBIOS as manifests write it: 96.00.5E.00.01. Switches do, too."""
        raw = self.fields.get(_VBIOS_FIELD, b"")
        if self.is_switch:
            return raw.rstrip(b"\0").decode("ascii", "replace")
        order = (3, 2, 1, 0, 4)  # two little-endian words, the lesser part first
        return ".".join(f"{raw[at]:02X}" for at in order) if len(raw) >= 5 else ""

    @property
    def is_switch(self) -> bool:
        """A switch has no driver of its own."""
        return not self.driver

    @property
    def decoder_is_off(self) -> bool:
        """Whether a GPU says that its video decoder is off."""
        return not self.is_switch and self.fields.get(_DECODER_FIELD) == _DECODER_OFF


def verify_nvidia(
    blob: bytes,
    policy: Policy,
    collateral: Mapping[str, bytes],
    now: Moment,
    rims: Mapping[bytes, Rim] = NO_RIMS,
) -> Verdict:
    """Checks 4 to 9 of `verify`, for a report; its chain and manifests are collateral.

    Args:
        rims: manifests that `verify_rim` gave before, by the SHA-256 of their document.
    """
    return verify_device(blob, policy, collateral, now, rims=rims, root=DEVICE_ROOT)


def verify_device(
    blob: bytes,
    policy: Policy,
    collateral: Mapping[str, bytes],
    now: Moment,
    *,
    rims: Mapping[bytes, Rim],
    root: str,
) -> Verdict:
    """The same.

    Args:
        root: another pin than NVIDIA's, for tests that need a vendor of their own.
    """
    report = decode_report(blob)  # 4
    leaf = _device(collateral, now, root)  # 5a
    _check_firmware(report, leaf)  # 5b
    r, s = int.from_bytes(blob[-96:-48], "big"), int.from_bytes(blob[-48:], "big")
    try:  # 6
        verify_p384(p384_point(leaf), report.signed, r, s)
    except SignatureMismatch:
        raise EvidenceForged(
            "the report is not signed by the device's certificate", check=6, mend=_MEND
        ) from None
    given = {
        name: _manifest(name, collateral[name], report, policy, now, rims)
        for name in (DRIVER, VBIOS)
        if name in collateral
    }
    for rim in given.values():
        _check_measurements(report, rim)  # 9
    return _verdict(report, leaf, given)


def decode_report(blob: bytes) -> Report:
    """4. The report that the bytes are."""
    if len(blob) < _REQUEST_BYTES + 8 + _NONCE_BYTES + 2 + _SIGNATURE_BYTES:
        raise _malformed(f"{len(blob)} bytes")
    at = _REQUEST_BYTES
    if blob[1] != _GET_MEASUREMENTS or (blob[at], blob[at + 1]) != (blob[0], _MEASUREMENTS):
        raise _malformed("it is no request for measurements with its answer")
    count, size = blob[at + 4], int.from_bytes(blob[at + 5 : at + 8], "little")
    last = len(blob) - _SIGNATURE_BYTES
    begin, end = at + 8, at + 8 + size
    if end + _NONCE_BYTES + 2 > last:
        raise _malformed(f"{size} bytes of measurements end outside")
    blocks = _blocks(blob[begin:end])
    if len(blocks) != count:
        raise _malformed(f"{len(blocks)} measurements, it says {count}")
    begin = end + _NONCE_BYTES + 2
    if begin + int.from_bytes(blob[begin - 2 : begin], "little") != last:
        raise _malformed("the opaque part has another size than it says")
    return Report(blob, blob[4:36], MappingProxyType(blocks), _fields(blob[begin:last]))


def _blocks(record: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(record):
        head = record[at : at + 7]
        if len(head) < 7 or head[1] != _DMTF:
            raise _malformed(f"the measurement block at {at}")
        size, value = (int.from_bytes(head[place : place + 2], "little") for place in (2, 5))
        end = at + 4 + size
        if size != value + 3 or end > len(record) or head[0] in found:
            raise _malformed(f"the size of measurement {head[0]}, or it is there twice")
        found[head[0]] = record[at + 7 : end]
        at = end
    return found


def _fields(opaque: bytes) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(opaque):
        kind, size = (
            int.from_bytes(opaque[at + place : at + place + 2], "little") for place in (0, 2)
        )
        end = at + 4 + size
        if end > len(opaque) or (kind in found and kind in _READ) or len(found) == _FIELDS_MAX:
            raise _malformed(f"the opaque field {kind} ends outside, or is there twice")
        found[kind] = opaque[at + 4 : end]
        at = end
    return MappingProxyType(found)


def _device(collateral: Mapping[str, bytes], now: Moment, root: str) -> Certificate:
    """5a."""
    if CHAIN not in collateral or any(name not in COLLATERAL for name in collateral):
        raise _malformed(f"the collateral has {', '.join(sorted(collateral)) or 'nothing'}")
    chain = decode_pem(collateral[CHAIN])
    if len(chain) != CHAIN_CERTIFICATES:
        raise AnchorRefused(
            f"a chain of {len(chain)} certificates, a device's has {CHAIN_CERTIFICATES}",
            check=5,
            mend=_MEND,
        )
    return verify_chain(chain, check_p384, now, anchor=root, vendor="NVIDIA")


def _check_firmware(report: Report, leaf: Certificate) -> None:
    """5b."""
    named = report.fields.get(_FWID_FIELD)
    if named is None:
        return
    certified = [leaf.extensions[name] for name in _DICE if name in leaf.extensions]
    if not named or named not in [each for body in certified for each in _fwids(der.read(body))]:
        raise EvidenceForged(
            f"the report is of the firmware {named.hex()}, the device's certificate is not",
            check=5,
            mend=_MEND,
        )


def _fwids(info: der.Value, depth: int = _FWID_DEPTH_MAX) -> list[bytes]:
    """The digests of pairs { algorithm, digest }: NVIDIA has one in the body, TcbInfo a list."""
    parts = list(der.parts(info.body))
    if [part.tag for part in parts] == [der.OID, der.OCTET_STRING]:
        return [parts[1].body]
    below = [part for part in parts if part.tag == der.SEQUENCE or part.tag >> 5 == 0b101]
    return [each for part in below if depth for each in _fwids(part, depth - 1)]


def _manifest(
    name: str,
    document: bytes,
    report: Report,
    policy: Policy,
    now: Moment,
    rims: Mapping[bytes, Rim],
) -> Rim:
    """7."""
    digest = hashlib.sha256(document).digest()
    rim = rims[digest] if digest in rims else _verified(document)
    wanted = report.driver if name == DRIVER else report.vbios
    if (rim.edition == _SWITCH) != report.is_switch:
        raise MeasurementRefused(
            f"the manifest is of a {rim.edition or 'device of no kind'}, the report of another kind"
            " of device",
            check=7,
            mend="give NVIDIA's manifests of the device that made the report",
        )
    if rim.version.upper() != wanted.upper():
        raise MeasurementRefused(
            f"the manifest is of the version {rim.version}, the report of {wanted or 'none'}",
            check=7,
            mend="give NVIDIA's manifests of the versions that the report names",
        )
    if digest not in policy.rims and not rim.signer_begins <= now <= rim.signer_ends:
        raise EvidenceExpired(
            f"the signer of the manifest {digest.hex()} is valid from {rim.signer_begins} to"
            f" {rim.signer_ends} ms, not at {now}, and the policy {policy.name} does not list it",
            check=7,
            mend="fetch the manifest again, or ask governance to list it",
        )
    return rim


@lru_cache(maxsize=RIMS_KEPT)
def _verified(document: bytes) -> Rim:
    """Kept by its bytes: no time enters, and devices of one kind come with the same two."""
    return verify_rim(document)


def compare(report: Report, rim: Rim) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The manifest's indices of which the report's measurement is good, and of which it is not; 9
    says which is in neither."""
    good: list[int] = []
    bad: list[int] = []
    for index in sorted(rim.measurements):
        if index == _DECODER_INDEX and report.decoder_is_off:
            continue
        known = report.blocks.get(index + 1) in rim.measurements[index]
        (good if known else bad).append(index)
    return tuple(good), tuple(bad)


def _check_measurements(report: Report, rim: Rim) -> None:
    """9."""
    good, bad = compare(report, rim)
    if bad or not good:
        raise MeasurementRefused(
            f"measurements {', '.join(map(str, bad)) or 'none'} differ from the manifest"
            f" {rim.version}, {len(good)} are as it says",
            check=9,
            mend="install the driver and VBIOS that NVIDIA published, then attest again",
        )


def _verdict(report: Report, leaf: Certificate, given: Mapping[str, Rim]) -> Verdict:
    complete = VBIOS in given and (report.is_switch or DRIVER in given)
    code = b"".join(bytes([index]) + report.blocks[index] for index in sorted(report.blocks))
    notes = [
        "the report does not say whether confidential mode is on: the measured guest must",
        "NVIDIA's revocation service was not asked",
    ]
    if report.decoder_is_off and any(_DECODER_INDEX in rim.measurements for rim in given.values()):
        notes.append(f"measurement {_DECODER_INDEX} was not compared: the video decoder is off")
    if not complete:
        notes.append("measurements were not all compared with NVIDIA's manifests")
    versions = {"driver": report.driver.encode(), "vbios": report.vbios.encode()}
    return Verdict(
        platform=PlatformCode.NVIDIA,
        hardware=True,
        anchor="NVIDIA Device Identity CA",
        measurement=hashlib.sha384(code).digest(),
        measurements=MappingProxyType(
            {
                **{name: version for name, version in versions.items() if version},
                **{f"block{index}": report.blocks[index] for index in sorted(report.blocks)},
            }
        ),
        report_data=report.nonce + bytes(_NONCE_BYTES),
        debug=False,
        tcb_status=TcbStatus.UP_TO_DATE if complete else TcbStatus.NONE,
        advisories=(),
        confidence=CONFIDENCE_BEST if complete else CONFIDENCE_WORST,
        platform_id=hashlib.sha256(leaf.spki).digest(),
        signed_hash=Hash(hashlib.sha256(report.signed).digest()),
        notes=tuple(notes),
        product="nvidia-switch" if report.is_switch else "nvidia-gpu",
    )


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(f"no NVIDIA report: {what}", check=4, mend=_MEND)
