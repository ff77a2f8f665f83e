"""Evidence of any platform, judged and told: what was checked, and on whose word. No network."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import click

from phala.attest import (
    DEV,
    DEVICES,
    PRODUCTION,
    AttestationError,
    Opened,
    PlatformCode,
    Policy,
    TcbStatus,
    Verdict,
    open_evidence,
    verify,
)
from phala.attest.envelopes import ENVELOPE_BYTES_MAX, certificates
from phala.attest.verdict import CONFIDENCE_WORST
from phala.attest.verify import EVIDENCE_BYTES_MAX
from phala.cli.evidence_files import items_of, read_collateral
from phala.errors import Invalid, Refused
from phala.primitives.types import Moment

POLICIES: Final = {policy.name: policy for policy in (PRODUCTION, DEVICES, DEV)}
REPORT_DATA_BYTES: Final = 64
SHOWN_BYTES_MAX: Final = 64  # of one value, on a screen; --json has all of it
_GPU_NONCE_BYTES: Final = 32

PLATFORM_NAMES: Final = {
    PlatformCode.SIMULATED: "simulated: no hardware at all",
    PlatformCode.SGX: "Intel SGX enclave",
    PlatformCode.TDX: "Intel TDX virtual machine",
    PlatformCode.SEV_SNP: "AMD SEV-SNP virtual machine",
    PlatformCode.NITRO: "AWS Nitro enclave",
    PlatformCode.NVIDIA: "NVIDIA GPU or switch",
    PlatformCode.AZURE_SNP: "Azure virtual machine on AMD SEV-SNP",
    PlatformCode.AZURE_TDX: "Azure virtual machine on Intel TDX",
}
_INTEL_WORD: Final = "you believe Intel: that it made this processor, and what it says of its state"
_AMD_WORD: Final = (
    "you believe AMD that it made this processor; of its firmware, the policy's floors"
)
_AZURE_WORD: Final = "; and the virtual TPM of Microsoft's inside the guest"
ANCHOR_WORDS: Final = {
    PlatformCode.SIMULATED: "any program on any machine can say the same",
    PlatformCode.SGX: _INTEL_WORD,
    PlatformCode.TDX: _INTEL_WORD,
    PlatformCode.SEV_SNP: _AMD_WORD,
    PlatformCode.NITRO: "you believe AWS, which made the machine, runs it and signs for it",
    PlatformCode.NVIDIA: "you believe NVIDIA that it made this device; not which machine it is in",
    PlatformCode.AZURE_SNP: _AMD_WORD + _AZURE_WORD,
    PlatformCode.AZURE_TDX: _INTEL_WORD + _AZURE_WORD,
}
# As `phala.attest.verify` numbers them.
CHECKS: Final = (
    *("platform", "policy", "size", "format", "certificate", "signature"),
    *("attributes", "debug", "tcb", "product", "block list"),
)
_ALONE: Final = 3  # the checks before a platform's own, which find 4 to 9 in an order of theirs
_LAST_OF_PLATFORM: Final = 9


class NonceRefused(Refused):
    """The evidence was not made for this nonce: it may be old, or made for someone else."""


@dataclass(frozen=True, slots=True)
class Judge:
    """How evidence is judged."""

    policy: Policy
    policy_from: str  # for people: a file's name, or "built in"
    now: Moment
    clock: str  # whose time that is
    nonce: bytes | None
    files: tuple[str, ...]  # of collateral


@dataclass(frozen=True, slots=True)
class Judged:
    """Evidence that passed."""

    opened: Opened
    items: tuple[str, ...]  # the collateral, by name
    verdict: Verdict
    # What was checked of whatever it came in: number, name, words. Freshness is among them.
    more: tuple[tuple[int, str, str], ...] = ()


class Failed(Exception):
    """Which evidence of a file failed, and why."""

    def __init__(self, number: int, opened: Opened, error: AttestationError | NonceRefused) -> None:
        super().__init__(error)
        self.number = number
        self.opened = opened
        self.error = error


def judge_file(data: bytes, judge: Judge) -> tuple[Judged, ...]:
    """All evidence in a file.

    Raises:
        Failed: one of them is not accepted.
        AttestationError: there is none.
        Invalid: the collateral's files.
    """
    if len(data) > ENVELOPE_BYTES_MAX:
        raise Invalid(
            f"the file has more than {ENVELOPE_BYTES_MAX} bytes, and is no receipt",
            mend="give the evidence alone",
        )
    try:
        found = open_evidence(data)
    except AttestationError as error:
        if items := items_of(data, -1):
            error.mend = (
                f"this looks like collateral ({', '.join(sorted(items))}): give the evidence,"
                " and this file by --collateral"
            )
        elif is_any_certificate(data):
            error.mend = (
                "this is a certificate that carries no evidence of RA-TLS: whoever made it may"
                " believe it, nobody else has a reason to"
            )
        elif data.lstrip()[:1] in (b"{", b"["):
            error.mend = f"this is JSON of something else; {error.mend}"
        raise
    judged = []
    for number, opened in enumerate(found):
        given = read_collateral(judge.files, opened.evidence.platform)
        items = {**opened.collateral, **given}
        try:
            verdict = verify(opened.evidence, judge.policy, items, judge.now)
            if judge.nonce is not None:
                check_nonce(verdict, judge.nonce)
        except AttestationError as error:
            if error.check == 2:
                error.mend += "; --policy chooses another policy"
            error.what = plain(error.what)  # it may quote the evidence
            raise Failed(number, opened, error) from error
        except NonceRefused as error:
            raise Failed(number, opened, error) from error
        judged.append(Judged(opened, tuple(sorted(items)), verdict))
    return tuple(judged)


def is_any_certificate(data: bytes) -> bool:
    """Whether the bytes are X.509, whatever stands in it."""
    try:
        certificates(data)
    except AttestationError:
        return False
    return True


def check_nonce(verdict: Verdict, nonce: bytes) -> None:
    """That the evidence was made for the nonce, which stands where its platform puts it.

    Raises:
        NonceRefused: another stands there, or none.
    """
    padded = nonce.ljust(REPORT_DATA_BYTES, b"\0")
    in_user_data = any(nonce) and verdict.report_data == padded
    if verdict.platform is PlatformCode.NITRO and not in_user_data:
        # Whoever asks the security module may put it into either field; ours is in the user's data.
        where, found, wanted = "nonce", verdict.measurements.get("nonce", b""), nonce
    elif verdict.platform is PlatformCode.NVIDIA:
        where, found, wanted = "nonce", verdict.report_data[:_GPU_NONCE_BYTES], nonce
    else:
        where, found, wanted = "report data", verdict.report_data, padded
    if found != wanted:
        raise NonceRefused(
            f"check {len(CHECKS) + 1} (nonce): the {where} is"
            f" {found[:SHOWN_BYTES_MAX].hex() or 'absent'}, not {wanted[:SHOWN_BYTES_MAX].hex()}",
            mend="ask the enclave for evidence of your own nonce",
        )


# ---- for programs


def document_of(judged: tuple[Judged, ...], judge: Judge) -> dict[str, Any]:
    """What `--json` prints; its shape is kept."""
    return {
        "verified": True,
        "kind": "evidence",
        "hardware": all(each.verdict.hardware for each in judged),
        "policy": judge.policy.name,
        "policy_hash": _0x(hashlib.sha256(judge.policy.encode()).digest()),
        "judged_at_ms": judge.now,
        "clock": judge.clock,
        "nonce": None if judge.nonce is None else _0x(judge.nonce),
        "items": [_item(each, judge) for each in judged],
    }


def _item(judged: Judged, judge: Judge) -> dict[str, Any]:
    verdict = judged.verdict
    return {
        "form": judged.opened.form,
        "platform": verdict.platform.word,
        "product": verdict.product,
        "hardware": verdict.hardware,
        "anchor": verdict.anchor,
        "confidence": verdict.confidence,
        "debug": verdict.debug,
        "tcb_status": verdict.tcb_status.word,
        "advisories": list(verdict.advisories),
        "measurement": _0x(verdict.measurement),
        "measurements": {name: _0x(value) for name, value in verdict.measurements.items()},
        "report_data": _0x(verdict.report_data),
        "svn": dict(verdict.svn),
        "platform_id": _0x(verdict.platform_id),
        "signed_hash": _0x(verdict.signed_hash),
        "issued_ms": verdict.issued,
        "collateral": list(judged.items),
        "notes": list(verdict.notes),
        "checks": [
            {"number": number, "name": name, "what": what}
            for number, name, what in _checks(judged, judge)
        ],
    }


# ---- for people


def text_of(judged: tuple[Judged, ...], judge: Judge) -> str:
    """Green is hardware, up to date and unbroken, that no debugger reads; nothing else is."""
    lines = head(judge)
    for number, each in enumerate(judged):
        if len(judged) > 1:
            lines += ["", f"{number + 1} of {len(judged)}"]
        lines += told(each, judge)
    return "\n".join(lines)


def text_of_failed(failed: Failed, judge: Judge) -> str:
    """What is sure to have been checked, and what failed; the error itself comes after it."""
    lines = [*head(judge), f"evidence {failed.number + 1} of the file: {failed.opened.form}"]
    blob, code = failed.opened.evidence.blob, failed.opened.evidence.platform
    name = PLATFORM_NAMES[PlatformCode(code)]
    known = (name, f"{judge.policy.name} accepts it", f"{len(blob)} bytes")
    if isinstance(failed.error, NonceRefused):
        at, sure, what = len(CHECKS) + 1, len(CHECKS), "nonce"
    else:
        at = failed.error.check
        sure = at - 1 if at <= _ALONE or at > _LAST_OF_PLATFORM else _ALONE
        what = CHECKS[at - 1] if at <= len(CHECKS) else ""
    for number in range(1, sure + 1):
        words = known[number - 1] if number <= len(known) else "passed"
        lines.append(line(number, CHECKS[number - 1], words, None))
    lines.append(click.style(f"  {at:2} {what:<12} FAILED", fg="red"))
    return "\n".join(lines)


def head(judge: Judge) -> list[str]:
    """By whose time, and by which policy."""
    return [
        f"judged at   {when(judge.now)}, by {judge.clock}",
        f"policy      {plain(judge.policy.name)} ({plain(judge.policy_from)})",
    ]


def told(judged: Judged, judge: Judge) -> list[str]:
    """One piece of evidence; the last line is the verdict."""
    verdict = judged.verdict
    good = verdict.hardware and not verdict.debug and verdict.confidence < CONFIDENCE_WORST
    good = good and verdict.tcb_status is TcbStatus.UP_TO_DATE
    colour = "green" if good else "yellow"
    lines = [f"platform    {PLATFORM_NAMES[verdict.platform]} {plain(verdict.product)}".rstrip()]
    lines += [line(number, name, what, colour) for number, name, what in _checks(judged, judge)]
    if judge.nonce is None and not judged.more:
        lines.append("     freshness    not checked: no --nonce was given")
    lines += ["", f"measurement {verdict.measurement.hex()}"]
    width = max((len(plain(name)) for name in verdict.measurements), default=0)
    for name, value in verdict.measurements.items():
        lines.append(f"  {plain(name):<{width}}  {_value(value)}")
    lines.append(f"report data {_value(verdict.report_data)}")
    if verdict.svn:
        lines.append("firmware    " + ", ".join(f"{k} {v}" for k, v in verdict.svn.items()))
    lines.append(
        f"TCB status  {verdict.tcb_status.word}, confidence {verdict.confidence} of 1 to 5"
    )
    lines.append(f"advisories  {', '.join(map(plain, verdict.advisories)) or 'none'}")
    if verdict.platform_id:
        lines.append(f"machine     {verdict.platform_id.hex()}")
    if verdict.issued is not None:
        lines.append(f"made        {when(verdict.issued)}")
    lines += [f"note        {plain(note)}" for note in verdict.notes]
    lines.append(f"anchor      {plain(verdict.anchor)}; {ANCHOR_WORDS[verdict.platform]}")
    lines.append(click.style(f"verified; {plain(verdict.anchor)}", fg=colour, bold=True))
    return lines


def _checks(judged: Judged, judge: Judge) -> list[tuple[int, str, str]]:
    """The numbered checks of `phala.attest.verify`, in words on this evidence."""
    verdict, size = judged.verdict, len(judged.opened.evidence.blob)
    advisories = ", ".join(map(plain, verdict.advisories)) or "no advisories"
    root = plain(verdict.anchor) if verdict.hardware else "the policy's simulated root, no vendor,"
    debug = "no debugger can read it"
    if verdict.debug:
        debug = "the host's debugger CAN read it; the policy allows that"
    elif verdict.platform is PlatformCode.NVIDIA:
        debug = "a device's report does not tell"
    blocked = "this machine is not blocked"
    if not verdict.platform_id:
        blocked = "the evidence does not name its machine, so none could be blocked"
    words = (
        PLATFORM_NAMES[verdict.platform],
        f"{plain(judge.policy.name)} accepts {verdict.platform.word}",
        f"{size} bytes of at most {EVIDENCE_BYTES_MAX}; {len(judged.items)} items of collateral",
        f"{judged.opened.form}, read to its last byte",
        f"{root} certified the key that signed",
        "that key signed these bytes",
        "as the platform makes them; unused fields are zero",
        debug,
        f"{verdict.tcb_status.word}, {advisories}: the policy accepts that",
        f"{plain(verdict.product) or 'no product is named'}: not excluded",
        blocked,
    )
    checks = [(at + 1, CHECKS[at], what) for at, what in enumerate(words)]
    checks += judged.more
    if judge.nonce is not None and not judged.more:
        checks.append((len(CHECKS) + 1, "nonce", "the evidence was made for your nonce"))
    return checks


def line(number: int, name: str, what: str, colour: str | None) -> str:
    """One check."""
    return click.style(f"  {number:2} {name:<12}", fg=colour) + f" {what}"


def _value(value: bytes) -> str:
    """Hex, with the text that it is where it is one."""
    if len(value) > 1 and not any(value):
        return f"{len(value)} zero bytes"
    hexed = value[:SHOWN_BYTES_MAX].hex() or "empty"
    if len(value) > SHOWN_BYTES_MAX:
        return f"{hexed}… ({len(value)} bytes)"
    text = value.rstrip(b"\0")
    if text and all(0x20 <= byte < 0x7F for byte in text):
        return f"{hexed}  {json.dumps(text.decode())}"
    return hexed


def plain(text: str) -> str:
    """A stranger's words must not steer the terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def when(moment: Moment) -> str:
    """For people."""
    try:
        return datetime.fromtimestamp(moment // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{moment} ms after 1970"


def _0x(data: bytes) -> str:
    return "0x" + data.hex()


def policy_named(name: str, data: bytes | None, simulated_root: bytes | None) -> Policy:
    """The policy of that name, or the one that a file's bytes are.

    Raises:
        Invalid: the file holds none, or the policy takes no simulated root.
    """
    policy = POLICIES[name] if data is None else Policy.decode(data)
    return policy if simulated_root is None else policy.trusting(simulated_root)


def ensure_nonce(text: str) -> bytes:
    """The nonce in hex, 1 to 512 bytes.

    Raises:
        Invalid: it is none.
    """
    try:
        nonce = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        nonce = b""
    if not 1 <= len(nonce) <= 512:
        raise Invalid("--nonce is not hex of 1 to 512 bytes", mend="give the nonce in hex digits")
    return nonce
