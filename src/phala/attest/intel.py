"""Judges Intel SGX and TDX quotes: `dcap-qvl` for the cryptography, and what it leaves out.

The library says yes to more than we do; what stands beside its verdict here was each shown to be
missing from it by running it: the signer's role, the status, the evaluation number, attributes,
trailing bytes. Which build of it judges is consensus: its version is pinned exactly.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from phala.attest.certs import decode_first
from phala.attest.errors import (
    AnchorRefused,
    AttestationError,
    DebugRefused,
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
    MeasurementRefused,
    RevocationRefused,
    TcbRefused,
)
from phala.attest.eventlog import check_log, decode_ccel, decode_dstack, identity
from phala.attest.policy import Policy
from phala.attest.quote import CERTIFIES_PCK_CHAIN, CERTIFIES_QE_REPORT
from phala.attest.verdict import PlatformCode, TcbStatus, Verdict
from phala.primitives.types import Hash, Moment

INTEL_ANCHOR: Final = "Intel SGX Root CA"
TCB_SIGNER: Final = "Intel SGX TCB Signing"
COLLATERAL: Final = (  # names as in `QuoteCollateralV3`; a PCK chain of the prover's is not taken
    "pck_crl",
    "pck_crl_issuer_chain",
    "qe_identity",
    "qe_identity_issuer_chain",
    "qe_identity_signature",
    "root_ca_crl",
    "tcb_info",
    "tcb_info_issuer_chain",
    "tcb_info_signature",
)

EVENT_LOG, BOOT_LOG = "event_log", "ccel"  # of a TD: dstack's in JSON, the firmware's
COLLATERAL_KEPT: Final = 16  # of about 40 KB each
LOGS: Final = (BOOT_LOG, EVENT_LOG)

VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")  # QE vendor id
_SIGNATURE_AND_KEY_BYTES: Final = 64 + 64
_QE_BYTES: Final = 384 + 64  # the quoting enclave's report, and its signature
_CHAIN: Final = re.compile(
    rb"(?:\s*-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----)+\s*\0*"
)
_HEADER_BYTES: Final = 48
_SGX_BODY_BYTES: Final = 384
_TDX_BODY_BYTES: Final = 584
_TDX_BODY_15_BYTES: Final = 648  # TD 1.5: version 5, body type 3

# SGX attributes, Intel SDM 37.7.1: what must be set, and what must not.
_SGX_INIT, _SGX_DEBUG, _SGX_MODE64 = 1 << 0, 1 << 1, 1 << 2
_SGX_PROVISION, _SGX_EINIT_TOKEN = 1 << 4, 1 << 5
# TD attributes, Intel TDX module specification, ATTRIBUTES: all that may be set.
_TD_DEBUG, _TD_SEPT_VE_DISABLE = 1 << 0, 1 << 28
# XFAM, which processor features the TD uses: what must be set (x87, SSE), and all that may be. The
# same document, and Google's go-tdx-guest; another bit is a feature that nobody judged.
_XFAM_ALWAYS, _XFAM_KNOWN = 0x3, 0x6DBE7

_STATUSES: Final = MappingProxyType(
    {
        "UpToDate": TcbStatus.UP_TO_DATE,
        "SWHardeningNeeded": TcbStatus.SW_HARDENING_NEEDED,
        "ConfigurationNeeded": TcbStatus.CONFIGURATION_NEEDED,
        "ConfigurationAndSWHardeningNeeded": TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        "OutOfDate": TcbStatus.OUT_OF_DATE,
        "OutOfDateConfigurationNeeded": TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    }
)
_CONFIDENCE: Final = MappingProxyType(
    {
        TcbStatus.UP_TO_DATE: 1,
        TcbStatus.SW_HARDENING_NEEDED: 2,
        TcbStatus.CONFIGURATION_NEEDED: 3,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: 3,
        TcbStatus.OUT_OF_DATE: 5,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: 5,
    }
)
# The original's: other advisories under "configuration needed" cost a level more.
_MILD_ADVISORIES: Final = (
    "INTEL-SA-00219",
    "INTEL-SA-00334",
    "INTEL-SA-00381",
    "INTEL-SA-00389",
)
_PANIC: Final = (
    "PanicException"  # how Rust's panics arrive: none was seen; one would stop the chain
)
_WORDS_MAX: Final = 400  # of the library's, for people
# What those words tell of the failure: its kind, its check, and the mend.
_Told: TypeAlias = tuple[type[AttestationError], int, str]
_SAID: Final[tuple[tuple[tuple[str, ...], _Told], ...]] = (
    (("revoked",), (RevocationRefused, 5, "move the enclave to a machine whose keys stand")),
    (
        ("expired", "notvalidyet", "not valid yet", "in the future"),
        (EvidenceExpired, 5, "attest again, with collateral of that time"),
    ),
    (
        ("no matching tcb level",),
        (TcbRefused, 9, "update the platform's firmware and microcode, then attest again"),
    ),
)
_ELSE: Final[_Told] = (EvidenceForged, 6, "attest again, with collateral that is current")
_CONFIG_OF_COMPOSE: Final = b"\1"  # dstack's first form of MRCONFIGID
_ROOT_NAME: Final = "Root CA"
SGX_OIDS: Final = "1.2.840.113741."  # what a platform's certificate says of itself


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things lie in a quote that was found whole."""

    version: int
    body: bytes  # an SGX report, or a TD report
    signed: bytes


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Collateral that was read; nothing of it is verified yet but who is said to sign it."""

    given: Any  # the library's, which nobody alters
    # As Intel names it: its FMSPC, which the library holds against the platform's certificate.
    product: str
    numbers: tuple[tuple[str, int], ...]  # of evaluations, by item


def verify_sgx(
    blob: bytes, policy: Policy, collateral: Mapping[str, bytes], now: Moment
) -> Verdict:
    """Checks 4 to 7 of `verify`, for an SGX quote of version 3."""
    return verify_intel(PlatformCode.SGX, blob, policy, collateral, now)


def verify_tdx(
    blob: bytes, policy: Policy, collateral: Mapping[str, bytes], now: Moment
) -> Verdict:
    """Checks 4 to 7 of `verify`, for a TDX quote of version 4 or 5."""
    return verify_intel(PlatformCode.TDX, blob, policy, collateral, now)


def verify_intel(
    platform: PlatformCode,
    blob: bytes,
    policy: Policy,
    collateral: Mapping[str, bytes],
    now: Moment,
    *,
    root: bytes | None = None,
) -> Verdict:
    """The same for either.

    Args:
        root: DER of another root than Intel's: for tests that need a vendor of their own.
    """
    layout = _layout(platform, blob)  # 4
    _check_attributes(platform, layout.body, policy)  # 7, first: cheap, and the library's are fewer
    logs = LOGS if platform is PlatformCode.TDX else ()
    items = _collateral(  # 5
        {name: item for name, item in collateral.items() if name not in logs}
    )
    prepared = _prepared(items)
    _check_numbers(prepared, policy)
    report = _judged(blob, prepared, now, root)  # 5, 6
    status = _STATUSES.get(report.status)
    if status is None:
        raise TcbRefused(
            f"the platform's status is {report.status}",
            check=9,
            mend="update the platform's firmware and microcode, then attest again",
        )
    verdict = _verdict(platform, layout, report, status, prepared.product)
    for name in logs:  # 7
        if name in collateral:
            verdict = _with_log(verdict, name, collateral[name])
    return verdict


def _layout(platform: PlatformCode, blob: bytes) -> _Layout:
    """4. One quote of this platform, and after it nothing but the zeros that some clouds add."""
    version = int.from_bytes(blob[:2], "little")
    tee = int.from_bytes(blob[4:8], "little")
    if blob[12:28] != VENDOR:
        raise _malformed(f"the vendor id {blob[12:28].hex()}")
    start = _HEADER_BYTES
    match platform, version, tee:
        case PlatformCode.SGX, 3, 0:
            size = _SGX_BODY_BYTES
        case PlatformCode.TDX, 4, 0x81:
            size = _TDX_BODY_BYTES
        case PlatformCode.TDX, 5, 0x81:
            kind = int.from_bytes(blob[start : start + 2], "little")
            size = int.from_bytes(blob[start + 2 : start + 6], "little")
            if (kind, size) not in ((2, _TDX_BODY_BYTES), (3, _TDX_BODY_15_BYTES)):
                raise _malformed(f"a body of type {kind} and {size} bytes")
            start += 6
        case _:
            raise _malformed(f"version {version}, TEE type {tee} where {platform.word} belongs")
    end = start + size
    auth_size = int.from_bytes(blob[end : end + 4], "little")
    whole = end + 4 + auth_size
    if len(blob) < end + 4 or whole > len(blob):
        raise _malformed(f"{len(blob)} bytes where {whole} belong")
    if blob[whole:].strip(b"\0"):
        raise _malformed("something follows the quote")
    _check_certification(platform, blob[end + 4 : whole])
    return _Layout(version, blob[start:end], blob[:end])


def _check_certification(platform: PlatformCode, auth: bytes) -> None:
    """4. Behind what is signed stand signature, key and what certifies it, and nothing else: the
    library looks behind none of them, nor around the certificates.
    """
    certified = auth[_SIGNATURE_AND_KEY_BYTES:]
    if platform is PlatformCode.TDX:
        kind, certified, left = _part(certified, 0)
        if kind != CERTIFIES_QE_REPORT or left.strip(b"\0"):
            raise _malformed(f"certification of type {kind}, or something follows it")
    size = int.from_bytes(certified[_QE_BYTES : _QE_BYTES + 2], "little")
    kind, chain, left = _part(certified, _QE_BYTES + 2 + size)
    if left.strip(b"\0"):
        raise _malformed("something follows the platform's certificates")
    if kind == CERTIFIES_PCK_CHAIN and _CHAIN.fullmatch(chain) is None:
        raise _malformed("other things than certificates in PEM where the platform's belong")


def _part(data: bytes, at: int) -> tuple[int, bytes, bytes]:
    """Type and content of what begins there, and what follows."""
    kind = int.from_bytes(data[at : at + 2], "little")
    end = at + 6 + int.from_bytes(data[at + 2 : at + 6], "little")
    if len(data) < max(end, at + 6):
        raise _malformed(f"certification data of {len(data)} bytes, it says {end}")
    return kind, data[at + 6 : end], data[end:]


def _check_attributes(platform: PlatformCode, body: bytes, policy: Policy) -> None:
    """7. An initialized 64-bit enclave without special keys; a TD with nothing unusual."""
    if platform is PlatformCode.SGX:
        flags = int.from_bytes(body[48:56], "little")
        debug = flags & _SGX_DEBUG
        must = _SGX_INIT | _SGX_MODE64
        good = flags & must == must and not flags & (_SGX_PROVISION | _SGX_EINIT_TOKEN)
    else:
        flags = int.from_bytes(body[120:128], "little")
        debug = flags & _TD_DEBUG
        xfam = int.from_bytes(body[128:136], "little")
        good = not flags & ~(_TD_DEBUG | _TD_SEPT_VE_DISABLE)
        good = good and xfam & _XFAM_ALWAYS == _XFAM_ALWAYS and not xfam & ~_XFAM_KNOWN
    if debug:
        raise DebugRefused(
            f"the {platform.word} attributes 0x{flags:016x} allow debugging, which no policy"
            f" accepts of hardware ({policy.name})",
            check=8,
            mend="start the enclave without its debug attribute",
        )
    if policy.config_id and platform is PlatformCode.TDX and not any(body[184:232]):
        raise EvidenceMalformed(
            f"MRCONFIGID is zero, the policy {policy.name} asks for a measured configuration",
            check=7,
            mend="start the TD with the hash of its configuration",
        )
    if not good:
        raise EvidenceMalformed(
            f"the {platform.word} attributes 0x{flags:016x}, or its features"
            f" 0x{body[48:64].hex() if platform is PlatformCode.SGX else body[128:136].hex()},"
            " are not a plain enclave's",
            check=7,
            mend="start the enclave with the attributes of its published build",
        )


def _collateral(collateral: Mapping[str, bytes]) -> tuple[str, ...]:
    """In the order of `COLLATERAL`."""
    if tuple(sorted(collateral)) != COLLATERAL:
        raise _collateral_wrong(f"it has {', '.join(sorted(collateral)) or 'nothing'}")
    try:
        return tuple(collateral[name].decode() for name in COLLATERAL)
    except UnicodeDecodeError:
        raise _collateral_wrong("it is not text") from None


def _check_signers(items: dict[str, str]) -> None:
    """5. TCB info and QE identity are signed by Intel's signer of them, not by a platform's key.

    The library takes any leaf under Intel's root, through any CA; then one leaked platform key
    makes its own TCB info. The root alone makes that signer; the library matches the names.
    """
    names = ("tcb_info_issuer_chain", "qe_identity_issuer_chain")
    for chain, name in {items[name]: name for name in names}.items():  # as a rule they are one
        try:
            leaf = decode_first(chain.encode())
            signer, above = leaf.common_name, leaf.issuer_name
        except EvidenceMalformed as error:
            raise _collateral_wrong(f"{name}: {error.what}") from None
        special = [oid for oid in leaf.extensions if oid.startswith(SGX_OIDS)]
        if signer != TCB_SIGNER or not above.endswith(_ROOT_NAME) or special:
            raise AnchorRefused(
                f"{name} begins with {signer!r} under {above!r}, not with {TCB_SIGNER!r} under the"
                " root",
                check=5,
                mend="fetch the collateral from Intel again",
            )


@lru_cache(maxsize=COLLATERAL_KEPT)
def _prepared(texts: tuple[str, ...]) -> _Prepared:
    """5. Collateral as it is read once: all evidence of a product is judged by the same."""
    # Loading it takes 90 ms, and most processes never judge an Intel quote.
    import dcap_qvl  # noqa: PLC0415

    items = dict(zip(COLLATERAL, texts, strict=True))
    _check_signers(items)
    product: Any = None
    numbers = []
    for name in ("tcb_info", "qe_identity"):
        try:
            parsed = json.loads(items[name])
            number = parsed["tcbEvaluationDataNumber"]
            product = parsed["fmspc"] if name == "tcb_info" else product
        except (ValueError, KeyError, TypeError, RecursionError):
            number = None
        if type(number) is not int or not isinstance(product, str):
            raise _collateral_wrong(f"{name} has no evaluation number, or no product")
        numbers.append((name, number))
    text = json.dumps(items)
    given = _asked(
        lambda: dcap_qvl.QuoteCollateralV3.from_json(text),
        lambda error: _collateral_wrong(_one_line(error)),
    )
    return _Prepared(given, product.lower(), tuple(numbers))


def _check_numbers(prepared: _Prepared, policy: Policy) -> None:
    """5. Neither part is older than the policy's evaluation number."""
    for name, number in prepared.numbers:
        if number < policy.evaluation_number_min:
            raise TcbRefused(
                f"{name} has the evaluation number {number}, the policy {policy.name} accepts"
                f" {policy.evaluation_number_min} and later",
                check=5,
                mend="fetch the collateral from Intel again",
            )


def _judged(blob: bytes, prepared: _Prepared, now: Moment, root: bytes | None) -> Any:
    """5, 6. The library's report. Its words differ by version: they are for people only."""
    import dcap_qvl  # noqa: PLC0415 - as above

    seconds = now // 1000

    def verified() -> Any:
        if root is None:
            return dcap_qvl.verify(blob, prepared.given, seconds)
        return dcap_qvl.verify_with_root_ca(blob, prepared.given, root, seconds)

    return _asked(verified, lambda error: _unverified(error, seconds))


def _asked(work: Callable[[], Any], wrong: Callable[[BaseException], AttestationError]) -> Any:
    """The library's answer; whatever it raises becomes one of ours, its panics too."""
    try:
        return work()
    except (ValueError, OverflowError) as error:
        raise wrong(error) from None
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise wrong(error) from None


def _unverified(error: BaseException, seconds: int) -> AttestationError:
    """5, 6, 9. That it is refused does not hang on the library's words; whom to ask for what does:
    what is out of its time, revoked or unknown to Intel is genuine, perhaps."""
    words = _one_line(error)
    said = words.lower()
    kind, check, mend = next(
        (told for marks, told in _SAID if any(mark in said for mark in marks)), _ELSE
    )
    return kind(
        f"the quote or its collateral does not verify at {seconds} s: {words}",
        check=check,
        mend=mend,
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_WORDS_MAX]


def _verdict(
    platform: PlatformCode, layout: _Layout, report: Any, status: TcbStatus, product: str
) -> Verdict:
    body = layout.body
    if platform is PlatformCode.SGX:
        measurement, report_data = body[64:96], body[320:384]
        measurements = {
            "mrenclave": measurement,
            "mrsigner": body[128:160],
            "isvprodid": body[256:258],
            "isvsvn": body[258:260],
        }
    else:
        report_data = body[520:584]
        measurements = {
            "mrtd": body[136:184],
            "mrconfigid": body[184:232],
            "xfam": body[128:136],
            **{f"rtmr{index}": body[328 + 48 * index : 376 + 48 * index] for index in range(4)},
        }
        code = b"".join(measurements[name] for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2"))
        measurement = hashlib.sha384(code).digest()  # RTMR3 is the application's own
    advisories = tuple(sorted(report.advisory_ids))
    confidence = _CONFIDENCE[status]
    if confidence == 3 and any(each not in _MILD_ADVISORIES for each in advisories):
        confidence = 4
    return Verdict(
        platform=platform,
        hardware=True,
        anchor=INTEL_ANCHOR,
        measurement=measurement,
        measurements=MappingProxyType(measurements),
        report_data=report_data,
        debug=False,
        tcb_status=status,
        advisories=advisories,
        confidence=confidence,
        platform_id=bytes(report.ppid),
        signed_hash=Hash(hashlib.sha256(layout.signed).digest()),
        notes=("physical attacks on memory buses are outside the vendor's claims",),
        product=product,
    )


def _with_log(verdict: Verdict, name: str, data: bytes) -> Verdict:
    """7. The log ends in the registers; what dstack's says of identity is measured by that."""
    events = decode_dstack(data) if name == EVENT_LOG else decode_ccel(data)
    check_log(events, [verdict.measurements[f"rtmr{index}"] for index in range(4)])
    told = identity(events) if name == EVENT_LOG else {}
    config = verdict.measurements["mrconfigid"]
    compose = told.get("compose-hash")
    if (
        config[:1] == _CONFIG_OF_COMPOSE
        and compose is not None
        and config != (_CONFIG_OF_COMPOSE + compose).ljust(len(config), b"\0")
    ):
        raise MeasurementRefused(
            f"MRCONFIGID is {config.hex()}, the log tells the compose hash {compose.hex()}",
            check=7,
            mend="start the TD with the configuration that its application is of",
        )
    return replace(
        verdict,
        measurements=MappingProxyType({**verdict.measurements, **told}),
        notes=(*verdict.notes, f"{name}: {len(events)} events end in the registers"),
    )


def _malformed(what: str) -> AttestationError:
    return EvidenceMalformed(
        f"no Intel quote: {what}", check=4, mend="give the quote as the platform made it"
    )


def _collateral_wrong(what: str) -> AttestationError:
    return EvidenceMalformed(
        f"the collateral does not serve: {what}",
        check=5,
        mend=f"give exactly: {', '.join(COLLATERAL)}",
    )
