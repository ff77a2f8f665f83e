"""A vendor shaped like Intel: every status, revoked keys and confused roles, in quotes of version 3
and 4 with their collateral.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from phala.attest.intel import TCB_SIGNER, VENDOR
from phala.primitives.types import Moment
from phala.testing.x509 import BEGIN, END, certificate, name, revocation_list

NOW: Final = Moment(1_780_000_000_000)  # 2026-05-28
EVALUATION_NUMBER: Final = 20
FMSPC: Final = bytes.fromhex("ffffff000000")
TD_PLAIN: Final = 1 << 28  # SEPT_VE_DISABLE
_SVNS: Final = (5,) * 16
_PCE_SVN: Final = 11
_SGX: Final = "1.2.840.113741.1.13.1"
_SHA256: Final = hashes.SHA256()

_Key = ec.EllipticCurvePrivateKey


def _generate() -> _Key:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class SimulatedIntel:
    """One platform, and all that certifies it. Change a field before asking for what it is in."""

    tdx: bool = True
    root_key: _Key = field(default_factory=_generate)
    platform_ca_key: _Key = field(default_factory=_generate)
    pck_key: _Key = field(default_factory=_generate)
    tcb_key: _Key = field(default_factory=_generate)
    attestation_key: _Key = field(default_factory=_generate)
    ppid: bytes = b"\x11" * 16  # names the machine
    fmspc: bytes = FMSPC  # and its product

    def __post_init__(self) -> None:
        root, ca = name("Simulated Root CA"), name("Simulated Platform CA")
        self.root = self._certificate(root, self.root_key, root, self.root_key, ca=True)
        self.platform_ca = self._certificate(ca, self.platform_ca_key, root, self.root_key, ca=True)
        self.tcb = self._certificate(name(TCB_SIGNER), self.tcb_key, root, self.root_key)
        self.pck = certificate(
            name("Simulated PCK Certificate"),
            self.pck_key.public_key(),
            ca,
            self.platform_ca_key,
            extensions={_SGX: sgx_extension(self.ppid, self.fmspc)},
            algorithm=_SHA256,
        )

    @staticmethod
    def _certificate(
        subject: x509.Name, key: _Key, issuer: x509.Name, signer: _Key, *, ca: bool = False
    ) -> x509.Certificate:
        return certificate(subject, key.public_key(), issuer, signer, ca=ca, algorithm=_SHA256)

    @property
    def root_der(self) -> bytes:
        return self.root.public_bytes(Encoding.DER)

    def collateral(
        self,
        *,
        levels: Sequence[tuple[str, Sequence[str]]] = (("UpToDate", ()),),
        qe_status: str = "UpToDate",
        revoked: Sequence[int] = (),
        tcb_signer: tuple[_Key, Sequence[x509.Certificate]] | None = None,
        module_svn: int = 3,
        number: int = EVALUATION_NUMBER,
        days: int = 365,
        begin: dt.datetime = BEGIN,
    ) -> dict[str, bytes]:
        """What Intel's service would answer, of `days` from `begin` on.

        Args:
            levels: status and advisories, best first: the platform is of the first.
            tcb_signer: who signs the TCB info in place of the one who may, and the certificates
                from that key's to below the root's.
            module_svn: the least version of the TDX module.
        """
        key, below = tcb_signer or (self.tcb_key, (self.tcb,))
        tcb_info = self._tcb_info(levels, module_svn, number, _window(begin, days))
        identity = self._identity(qe_status, number, _window(begin, days))
        root = name("Simulated Root CA")
        return {
            "pck_crl_issuer_chain": _pem(self.platform_ca, self.root),
            "root_ca_crl": _crl(root, self.root_key, (), begin),
            "pck_crl": _crl(name("Simulated Platform CA"), self.platform_ca_key, revoked, begin),
            "tcb_info_issuer_chain": _pem(*below, self.root),
            "tcb_info": tcb_info,
            "tcb_info_signature": signed(key, tcb_info).hex().encode(),
            "qe_identity_issuer_chain": _pem(self.tcb, self.root),
            "qe_identity": identity,
            "qe_identity_signature": signed(self.tcb_key, identity).hex().encode(),
        }

    def _tcb_info(
        self,
        levels: Sequence[tuple[str, Sequence[str]]],
        module_svn: int,
        number: int,
        window: Mapping[str, str],
    ) -> bytes:
        info: dict[str, Any] = {
            "id": "TDX" if self.tdx else "SGX",
            "version": 3,
            **window,
            "fmspc": self.fmspc.hex().upper(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": number,
        }
        if self.tdx:
            module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
            level = {"tcb": {"isvsvn": module_svn}, "tcbDate": _iso(BEGIN), "tcbStatus": "UpToDate"}
            info["tdxModule"] = module
            info["tdxModuleIdentities"] = [{"id": "TDX_01", **module, "tcbLevels": [level]}]
        info["tcbLevels"] = [
            self._level(index, status, advisories)
            for index, (status, advisories) in enumerate(levels)
        ]
        return _json(info)

    def _level(self, index: int, status: str, advisories: Sequence[str]) -> dict[str, Any]:
        tcb: dict[str, Any] = {
            "sgxtcbcomponents": [{"svn": 5 - index}] * 16,
            "pcesvn": _PCE_SVN,
        }
        if self.tdx:
            svns = (3, 0, 2, *(0,) * 13)
            tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in svns]
        level = {"tcb": tcb, "tcbDate": _iso(BEGIN), "tcbStatus": status}
        return {**level, "advisoryIDs": list(advisories)} if advisories else level

    def _identity(self, status: str, number: int, window: Mapping[str, str]) -> bytes:
        return _json(
            {
                "id": "TD_QE" if self.tdx else "QE",
                "version": 2,
                **window,
                "tcbEvaluationDataNumber": number,
                "miscselect": "00000000",
                "miscselectMask": "FFFFFFFF",
                "attributes": "11" + "00" * 15,
                "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
                "mrsigner": "AA" * 32,
                "isvprodid": 2 if self.tdx else 1,
                "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": _iso(BEGIN), "tcbStatus": status}],
            }
        )

    def quote(
        self,
        *,
        report_data: bytes = bytes(64),
        attributes: int | None = None,
        qe_attributes: int = 0x11,
        config_id: bytes = bytes(48),
        registers: Sequence[bytes] = (b"\1" * 48, b"\2" * 48, b"\3" * 48, bytes(48)),
        module_version: int = 1,
        features: int = 0x602E7,
        certifying: tuple[_Key, Sequence[x509.Certificate]] | None = None,
    ) -> bytes:
        """A quote of the platform: version 4 of a TD, version 3 of an enclave.

        Args:
            certifying: who signs the quoting enclave's report in place of the platform's key, and
                the certificates from that key's to the root's.
        """
        if self.tdx:
            header = _header(4, 0x81)
            flags = TD_PLAIN if attributes is None else attributes
            svns = bytes((3, module_version, 3)).ljust(16, b"\0")
            body = svns + b"\x5b" * 48 + bytes(48) + bytes(8) + flags.to_bytes(8, "little")
            body += features.to_bytes(8, "little") + b"\x33" * 48 + config_id + bytes(96)
            body += b"".join(registers) + report_data
        else:
            header = _header(3, 0)
            flags = 5 if attributes is None else attributes
            body = _enclave_report(flags, b"\x33" * 32, b"\x44" * 32, 7, 1, report_data)
        said = header + body
        point, auth = _point(self.attestation_key), b"\1" * 32
        bound = hashlib.sha256(point + auth).digest() + bytes(32)
        quoting = _enclave_report(
            qe_attributes, b"\x55" * 32, b"\xaa" * 32, 2 if self.tdx else 1, 8, bound
        )
        key, certificates = certifying or (self.pck_key, (self.pck, self.platform_ca, self.root))
        chain = _pem(*certificates)
        certified = quoting + signed(key, quoting) + b"\x20\0" + auth + b"\5\0"
        certified += len(chain).to_bytes(4, "little") + chain
        signature = signed(self.attestation_key, said) + point
        if self.tdx:
            signature += b"\6\0" + len(certified).to_bytes(4, "little")
        signature += certified
        return said + len(signature).to_bytes(4, "little") + signature


def _header(version: int, tee: int) -> bytes:
    head = version.to_bytes(2, "little") + b"\2\0" + tee.to_bytes(4, "little") + bytes(4)
    return head + VENDOR + bytes(20)


def _enclave_report(
    flags: int, enclave: bytes, signer: bytes, product: int, svn: int, report_data: bytes
) -> bytes:
    body = bytes(_SVNS) + bytes(32) + flags.to_bytes(8, "little") + b"\xe7" + bytes(7)
    body += enclave + bytes(32) + signer + bytes(96)
    return (
        body + product.to_bytes(2, "little") + svn.to_bytes(2, "little") + bytes(60) + report_data
    )


def _point(key: _Key) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def signed(key: _Key, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(_SHA256)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _crl(issuer: x509.Name, key: _Key, serials: Sequence[int], begin: dt.datetime) -> bytes:
    return revocation_list(issuer, key, serials, begin=begin, algorithm=_SHA256).hex().encode()


def _pem(*chain: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _iso(when: dt.datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _window(begin: dt.datetime, days: int) -> dict[str, str]:
    end = min(begin + dt.timedelta(days=days), END)
    return {"issueDate": _iso(begin), "nextUpdate": _iso(end)}


def sgx_extension(ppid: bytes, fmspc: bytes) -> bytes:
    """As Intel's PCK certificates have it: SGX PCK certificate profile 1.5."""
    svns = [
        _pair(f"{_SGX}.2.{index + 1}", _tlv(2, bytes([svn]))) for index, svn in enumerate(_SVNS)
    ]
    svns += [
        _pair(f"{_SGX}.2.17", _tlv(2, bytes([_PCE_SVN]))),
        _pair(f"{_SGX}.2.18", _tlv(4, bytes(_SVNS))),
    ]
    flags = (b"\xff", b"\0", b"\xff")  # dynamic platform, cached keys, SMT
    settings = [_pair(f"{_SGX}.7.{index + 1}", _tlv(1, flag)) for index, flag in enumerate(flags)]
    parts = (
        _pair(f"{_SGX}.1", _tlv(4, ppid)),
        _pair(f"{_SGX}.2", _tlv(0x30, b"".join(svns))),
        _pair(f"{_SGX}.3", _tlv(4, bytes(2))),
        _pair(f"{_SGX}.4", _tlv(4, fmspc)),
        _pair(f"{_SGX}.5", _tlv(10, b"\1")),
        _pair(f"{_SGX}.6", _tlv(4, b"\x22" * 16)),
        _pair(f"{_SGX}.7", _tlv(0x30, b"".join(settings))),
    )
    return _tlv(0x30, b"".join(parts))


def _pair(oid: str, value: bytes) -> bytes:
    numbers = [int(each) for each in oid.split(".")]
    body = bytes([40 * numbers[0] + numbers[1]])
    for number in numbers[2:]:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        body += bytes(reversed(digits))
    return _tlv(0x30, _tlv(6, body) + value)


def _tlv(tag: int, body: bytes) -> bytes:
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    if size < 0x100:
        return bytes([tag, 0x81, size]) + body
    return bytes([tag, 0x82]) + size.to_bytes(2, "big") + body
