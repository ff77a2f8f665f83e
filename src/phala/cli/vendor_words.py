"""Collateral, told: what it is of, who signed it, and until when."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import click

from phala.attest import AttestationError, intel, snp, verify_intel_collateral
from phala.attest.certs import decode_certificate, decode_pem, decode_revocation_list
from phala.attest.errors import EvidenceExpired
from phala.attest.kept import verify_amd_collateral
from phala.cli.evidence import plain, when
from phala.errors import Invalid
from phala.primitives.types import Moment

BINARY: Final = (snp.KEY, snp.REVOKED)  # DER: in a file they stand as hex
LEVELS_SHOWN: Final = 8
_DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Told:
    """What collateral is, as far as it is what it seems."""

    document: dict[str, Any]
    text: str
    expired: bool
    error: AttestationError | None  # why it does not count now


def judged(items: Mapping[str, bytes], now: Moment) -> Told:
    """Judge all of it at `now`; what only expired is told too.

    Raises:
        Invalid: it is no whole collateral of Intel's or AMD's.
    """
    if "tcb_info" in items:
        return _intel(items, now)
    if snp.CHAIN in items and snp.REVOKED in items:
        return _amd(items, now)
    raise Invalid(
        f"a part of collateral alone: {', '.join(sorted(items))}",
        mend="give one file with all of it, as phala collateral fetch saves it",
    )


def left(expires: Moment, now: Moment) -> str:
    """How long something counts, for people."""
    span = abs(expires - now)
    days, hours = span // _DAY_MS, span % _DAY_MS // _HOUR_MS
    word = f"{days} days" if days >= 2 else f"{24 * days + hours} hours"
    return f"expires in {word}" if expires >= now else f"EXPIRED {word} ago"


def _at(judge: Callable[[Moment], Any], now: Moment, issued: Moment) -> tuple[Any, Any]:
    """The verdict and no error; or, where it only expired, the verdict of when it was issued."""
    try:
        return judge(now), None
    except EvidenceExpired as error:
        return judge(issued), error


def _intel(items: Mapping[str, bytes], now: Moment) -> Told:
    issued = _issued(items)
    found, error = _at(lambda at: verify_intel_collateral(items, at), now, issued)
    info, identity = json.loads(items["tcb_info"]), json.loads(items["qe_identity"])
    keys = decode_revocation_list(bytes.fromhex(items["pck_crl"].decode()))
    signer = decode_pem(items["tcb_info_issuer_chain"])[0].common_name
    authority = decode_pem(items["pck_crl_issuer_chain"])[0].common_name
    levels = [
        {
            "date": str(level.get("tcbDate", ""))[:10],
            "status": str(level.get("tcbStatus", "")),
            "advisories": [str(each) for each in level.get("advisoryIDs", ())],
        }
        for level in info.get("tcbLevels", ())
    ]
    document = {
        "vendor": "Intel",
        "platform": found.platform.word,
        "fmspc": found.product,
        "evaluation_number": found.number,
        "signer": signer,
        "authority": authority,
        "root": intel.INTEL_ANCHOR,
        "issued_ms": found.issued,
        "expires_ms": found.expires,
        "valid": error is None,
        "judged_at_ms": now,
        "qe_issued": str(identity.get("issueDate")),
        "revoked_keys": len(keys.serials),
        "levels": levels,
    }
    lines = [
        f"vendor      Intel: the product {found.product} (FMSPC) as {found.platform.word}",
        f"signed by   {plain(signer)}, under {intel.INTEL_ANCHOR}",
        f"keys        of {plain(authority)}; {len(keys.serials)} are revoked",
        f"evaluation  number {found.number}",
        f"issued      {when(found.issued)}",
        _until(found.expires, now),
        "levels      the platform's firmware is of the first that it reaches:",
    ]
    for level in levels[:LEVELS_SHOWN]:
        open_ = ", ".join(level["advisories"])
        lines.append(plain(f"  {level['date']}  {level['status']}  {open_}".rstrip()))
    if len(levels) > LEVELS_SHOWN:
        lines.append(f"  and {len(levels) - LEVELS_SHOWN} older ones; --json has all")
    return _told(document, lines, error)


def _issued(items: Mapping[str, bytes]) -> Moment:
    """A moment at which all parts counted, if there was one: when the last of them was issued."""
    lists, texts = ("pck_crl", "root_ca_crl"), ("tcb_info", "qe_identity")
    try:
        begins = [decode_revocation_list(bytes.fromhex(items[each].decode())) for each in lists]
        dates = [_moment(str(json.loads(items[each])["issueDate"])) for each in texts]
    except (AttestationError, KeyError, TypeError, ValueError, RecursionError):
        return Moment(0)  # whoever judges it says what is wrong
    return max(*(each.issued for each in begins), *dates)


def _moment(text: str) -> Moment:
    return Moment(int(datetime.fromisoformat(text).timestamp()) * 1000)


def _amd(items: Mapping[str, bytes], now: Moment) -> Told:
    chain, listed = items[snp.CHAIN], items[snp.REVOKED]
    crl = decode_revocation_list(listed)
    _, error = _at(lambda at: verify_amd_collateral(listed, chain, at), now, crl.issued)
    intermediate, root = decode_pem(chain)
    key = decode_certificate(items[snp.KEY]) if snp.KEY in items else None
    document = {
        "vendor": "AMD",
        "platform": "sev-snp",
        "line": root.common_name.removeprefix("ARK-"),
        "signer": intermediate.common_name,
        "root": root.common_name,
        "issued_ms": crl.issued,
        "expires_ms": crl.expires,
        "valid": error is None,
        "judged_at_ms": now,
        "revoked_keys": len(crl.serials),
        "key": None if key is None else key.common_name,
    }
    lines = [
        f"vendor      AMD: the line {document['line']}",
        f"signed by   {plain(intermediate.common_name)}, under {plain(root.common_name)}",
        f"revoked     {len(crl.serials)} certificates",
        f"issued      {when(crl.issued)}",
        _until(crl.expires, now),
    ]
    if key is not None:
        dates = f"{when(key.not_before)} to {when(key.not_after)}"
        lines.append(f"key         {plain(key.common_name)}, {dates}; judged with its report")
    return _told(document, lines, error)


def _until(expires: Moment, now: Moment) -> str:
    colour = "green" if expires >= now else "red"
    return f"until       {when(expires)}, " + click.style(left(expires, now), fg=colour)


def _told(document: dict[str, Any], lines: list[str], error: AttestationError | None) -> Told:
    if error is not None:
        lines.append(click.style(f"not valid   {plain(error.what)}", fg="red"))
    return Told(document, "\n".join(lines), expired=error is not None, error=error)
