"""Asks vendors, or a cache of theirs, for collateral. Nothing that comes back is believed here.

Sources: Intel SGX and TDX Provisioning Certification Service API, version 4 (a PCCS has the same
paths); AMD, VCEK Certificate and KDS Interface Specification (57230).
"""

import binascii
import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from phala.attest import snp
from phala.attest.snp import REPORTED, Report
from phala.errors import Invalid, Refused, Unavailable

INTEL_URL: Final = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL_URL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
AMD_URL: Final = "https://kdsintf.amd.com"
TEES: Final = ("sgx", "tdx")
AUTHORITIES: Final = ("platform", "processor")
LINES: Final = tuple(snp.ROOTS)
ANSWER_BYTES_MAX: Final = 512 * 1024
TIMEOUT_S: Final = 30.0

# Intel's own answer: the signature is over the exact text of the object, so it is cut out.
_SIGNED_JSON: Final = re.compile(
    rb'\s*\{\s*"(tcbInfo|enclaveIdentity)"\s*:\s*(\{.*\})\s*,'
    rb'\s*"signature"\s*:\s*"([0-9a-fA-F]+)"\s*\}\s*',
    re.DOTALL,
)
_NAMES: Final = {b"tcbInfo": "tcb_info", b"enclaveIdentity": "qe_identity"}
_TCB_CHAIN: Final = ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
_QE_CHAIN: Final = ("sgx-enclave-identity-issuer-chain",)
_CRL_CHAIN: Final = ("sgx-pck-crl-issuer-chain",)
_HEX: Final = re.compile(rb"\s*((?:[0-9a-fA-F]{2})+)\s*")
_PEM_CRL: Final = re.compile(
    rb"\s*-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----\s*"
)


@dataclass(frozen=True, slots=True)
class Vendors:
    """Where to ask: the vendors themselves, or whoever caches their answers."""

    intel: str = INTEL_URL
    intel_root_crl: str = INTEL_ROOT_CRL_URL
    amd: str = AMD_URL


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    headers: Mapping[str, str]  # by their names in lower case


def signed_text(data: bytes) -> dict[str, bytes]:
    """The text and the signature in Intel's answer, as `attest` names them; none in another's."""
    match = _SIGNED_JSON.fullmatch(data)
    if match is None:
        return {}
    name = _NAMES[match[1]]
    return {name: match[2], f"{name}_signature": match[3].lower()}


def fetch_intel(
    vendors: Vendors, tee: str, fmspc: str, authority: str, *, number: int | None = None
) -> dict[str, bytes]:
    """All nine items of `attest.intel.COLLATERAL` for a product.

    Args:
        tee: one of `TEES`.
        fmspc: 12 hex digits.
        authority: who issued the platform's certificate, one of `AUTHORITIES`.
        number: an evaluation other than the standard one.

    Raises:
        Refused: Intel has none for that product, or not of that evaluation any more.
        Unavailable: no answer of that form.
    """
    base = vendors.intel.rstrip("/")
    which = "" if number is None else f"tcbEvaluationDataNumber={number}"
    tcb = fetch(
        f"{base}/{tee}/certification/v4/tcb?fmspc={fmspc.upper()}" + (which and f"&{which}")
    )
    identity = fetch(f"{base}/{tee}/certification/v4/qe/identity" + (which and f"?{which}"))
    keys = fetch(f"{base}/sgx/certification/v4/pckcrl?ca={authority}&encoding=der")
    root = fetch(vendors.intel_root_crl)
    items = {
        **_signed("tcb_info", tcb),
        **_signed("qe_identity", identity),
        "tcb_info_issuer_chain": _chain(tcb, _TCB_CHAIN),
        "qe_identity_issuer_chain": _chain(identity, _QE_CHAIN),
        "pck_crl_issuer_chain": _chain(keys, _CRL_CHAIN),
        "pck_crl": _list(keys.body).hex().encode(),
        "root_ca_crl": _list(root.body).hex().encode(),
    }
    return {name: items[name] for name in sorted(items)}


def fetch_amd(vendors: Vendors, line: str, signer: str) -> dict[str, bytes]:
    """A line's intermediate and root, and the root's revocation list.

    Args:
        line: one of `LINES`.
        signer: VCEK or VLEK.
    """
    base = f"{vendors.amd.rstrip('/')}/{signer.lower()}/v1/{line}"
    chain, listed = fetch(f"{base}/cert_chain"), fetch(f"{base}/crl")
    return {snp.CHAIN: chain.body, snp.REVOKED: _list(listed.body)}


def fetch_amd_key(vendors: Vendors, report: Report, line: str) -> dict[str, bytes]:
    """The certificate of the chip's own key at the firmware that the report names.

    Raises:
        Refused: the report is signed by a cloud's key, whose certificate the cloud has; or it hides
            its chip.
    """
    if report.signer != "VCEK":
        raise Refused(
            "the report is signed by a VLEK, whose certificate AMD gives to the cloud alone",
            mend="ask the host for its certificates, and give that file by --collateral",
        )
    if not any(report.chip_id):
        raise Refused(
            "the report hides its chip", mend="ask the host for the certificate of its VCEK"
        )
    chip = report.chip_id[:8] if line == "Turin" else report.chip_id
    levels = report.tcb(REPORTED, line)
    query = "&".join(f"{name}SPL={level:02}" for name, level in levels.items())
    return {snp.KEY: fetch(f"{vendors.amd.rstrip('/')}/vcek/v1/{line}/{chip.hex()}?{query}").body}


def fetch(url: str) -> Answer:
    """One answer of at most `ANSWER_BYTES_MAX`.

    Raises:
        Invalid: it is no address.
        Refused: the server knows no such thing.
        Unavailable: no answer, or another one; it may be there later.
    """
    if not url.startswith(("https://", "http://")):
        raise Invalid(f"{url!r} is no address", mend="write https://HOST")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - seen above
            body = answer.read(ANSWER_BYTES_MAX + 1)
            headers = {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(url, error) from None
    except (http.client.InvalidURL, ValueError):
        raise Invalid(f"{url!r} is no address", mend="write https://HOST") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"{url} does not answer: {type(error).__name__} {error}".rstrip(),
            mend="ask again later, or name another source",
        ) from None
    if len(body) > ANSWER_BYTES_MAX:
        raise Unavailable(
            f"{url} answers more than {ANSWER_BYTES_MAX} bytes", mend="name another source"
        )
    return Answer(body, headers)


def _refused(url: str, error: urllib.error.HTTPError) -> Refused | Unavailable:
    gone = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
    if error.code in gone:
        return Refused(
            f"{url} has none: HTTP {error.code}",
            mend="see whether the product, the authority and the evaluation number are right",
        )
    mend = "ask again later, or name another source"
    if error.code == HTTPStatus.TOO_MANY_REQUESTS:
        mend = "wait a minute: the server takes few requests from one address"
    return Unavailable(f"{url} answers HTTP {error.code}", mend=mend)


def _signed(name: str, answer: Answer) -> dict[str, bytes]:
    items = signed_text(answer.body)
    if name not in items:
        raise _odd(f"no signed {name}")
    return items


def _chain(answer: Answer, names: tuple[str, ...]) -> bytes:
    """Issuers, from a header in which the text is escaped as in addresses."""
    found = [answer.headers[name] for name in names if name in answer.headers]
    if not found:
        raise _odd(f"no header {' or '.join(names)}")
    return urllib.parse.unquote(found[0]).encode("ascii", "replace")


def _list(data: bytes) -> bytes:
    """A revocation list in DER; caches give it as hex or PEM, too."""
    if (match := _HEX.fullmatch(data)) is not None:
        return bytes.fromhex(match[1].decode())
    if (match := _PEM_CRL.fullmatch(data)) is not None:
        try:
            return binascii.a2b_base64(match[1])
        except binascii.Error:
            raise _odd("a revocation list that is not base64") from None
    return data


def _odd(what: str) -> Unavailable:
    return Unavailable(
        f"the source of collateral answered {what}", mend="name another source, or ask later"
    )
