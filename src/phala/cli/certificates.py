"""A certificate of RA-TLS, judged and told: its evidence, then what binds the key to it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from phala.attest import (
    AttestationError,
    PlatformCode,
    TlsRules,
    TlsVerdict,
    verify_certificate,
)
from phala.attest.ratls import claimed_binding
from phala.cli import evidence
from phala.cli.evidence_files import PEM, read_collateral
from phala.devnet.files import home
from phala.primitives.types import Hash
from phala.sdk.trust import Trust, find_trust

# As `phala.attest.ratls` numbers them, behind those of the evidence.
CHECKS: Final = ("form", "dates", "own key", "binding", "freshness")
FIRST: Final = 12


@dataclass(frozen=True, slots=True)
class Asked:
    """How a certificate is judged."""

    judge: evidence.Judge
    legacy: bool  # Gramine's older form, by an explicit flag
    seen: str | None  # the address whose TLS showed it; None: it is a file
    trust: Trust | None  # of the chain that its claims name, where no policy was named


def trust_for(data: bytes, network: Path | None) -> Trust | None:
    """What this machine believes of the chain that the certificate claims to be of."""
    binding = claimed_binding(data)
    return None if binding is None else find_trust(Hash(binding.genesis), home(), network=network)


def leaf_of(data: bytes) -> bytes:
    """The first certificate in PEM of a file that has several, or a key beside it: a server's own
    comes first, and those of who issued it are not judged. dstack's agent answers with a list.
    """
    if data.lstrip()[:1] == b"{":
        try:
            chain = json.loads(data).get("certificate_chain")
        except (ValueError, RecursionError):
            return data
        if not isinstance(chain, list) or not chain or not isinstance(chain[0], str):
            return data
        return chain[0].encode("utf-8", "replace")
    match = PEM.search(data)
    return data if match is None else match[0]


@dataclass(frozen=True, slots=True)
class Found:
    """A certificate that passed."""

    verdict: TlsVerdict
    items: tuple[str, ...]  # the collateral, by name


def judge_certificate(data: bytes, asked: Asked) -> Found:
    """The verdict, or the `AttestationError` that says what is wrong."""
    judge = asked.judge
    rules = TlsRules(
        legacy=asked.legacy,
        nonce=judge.nonce,
        genesis=None if asked.trust is None else asked.trust.genesis,
    )
    items = read_collateral(judge.files, PlatformCode.TDX)
    try:
        found = verify_certificate(data, judge.policy, items, judge.now, rules)
    except AttestationError as error:
        error.what = evidence.plain(error.what)
        if error.check == 2:
            error.mend += "; --policy chooses another policy"
        raise
    return Found(found, tuple(sorted({*found.opened.collateral, *items})))


def document_of(judged: Found, asked: Asked) -> dict[str, Any]:
    """What `--json` prints; its shape is kept."""
    document = evidence.document_of((_judged(judged, asked),), asked.judge)
    found = judged.verdict
    binding = found.binding
    return {
        **document,
        "kind": "certificate",
        "form": found.form.value,
        "seen": asked.seen,
        "key_hash": "0x" + found.key_hash.hex(),
        "not_before_ms": found.not_before,
        "not_after_ms": found.not_after,
        "fresh": found.fresh,
        "claims": {
            "nonce": None if found.nonce is None else "0x" + found.nonce.hex(),
            "genesis": None if binding is None else "0x" + binding.genesis.hex(),
            "worker": None if binding is None else "0x" + binding.worker.hex(),
            "height": None if binding is None else binding.height,
            "block_hash": None if binding is None else "0x" + binding.block_hash.hex(),
        },
        "certificate_notes": list(found.notes),
    }


def text_of(judged: Found, asked: Asked) -> str:
    """For people; the evidence's last line is the verdict's."""
    *lines, anchor, last = evidence.told(_judged(judged, asked), asked.judge)
    found = judged.verdict
    dates = f"{evidence.when(found.not_before)} to {evidence.when(found.not_after)}"
    lines += [
        "",
        f"certificate {found.form.value}, {dates}",
        f"TLS key     SHA-256 {found.key_hash.hex()}",
    ]
    if found.binding is not None:
        lines += [
            f"worker      0x{found.binding.worker.hex()}",
            f"chain       0x{found.binding.genesis.hex()}",
            f"since       block {found.binding.height} of that chain or later",
        ]
    lines += [f"note        {evidence.plain(note)}" for note in found.notes]
    if asked.seen is None:
        lines.append(
            "note        this is a file: that its key is still where it was made, only a TLS"
            " handshake shows"
        )
    return "\n".join([*evidence.head(asked.judge), *lines, anchor, last])


def text_of_failed(error: AttestationError, asked: Asked) -> str:
    """What failed; the error itself comes after it."""
    names = (*evidence.CHECKS, *CHECKS)
    mark = click.style(f"  {error.check:2} {names[error.check - 1]:<12} FAILED", fg="red")
    where = asked.seen or "the file"
    return "\n".join([*evidence.head(asked.judge), f"RA-TLS certificate of {where}", mark])


def _judged(judged: Found, asked: Asked) -> evidence.Judged:
    found = judged.verdict
    words = (
        f"one certificate, {found.form.value}",
        "it counts at that time",
        "its key signed it" if not found.notes else "; ".join(found.notes),
        "the evidence is of exactly this key, and for TLS",
        found.fresh,
    )
    if asked.seen is not None:
        words = (*words[:2], f"{words[2]}; the server at {asked.seen} holds it", *words[3:])
    more = tuple((FIRST + at, CHECKS[at], what) for at, what in enumerate(words))
    return evidence.Judged(found.opened, judged.items, found.verdict, more)
