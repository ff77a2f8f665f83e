"""`phala verify`: whether a receipt or evidence holds, and on whose word. No network."""

import json
import time
from pathlib import Path
from typing import Any, Final

import click

from phala.attest.policy import POLICY_BYTES_MAX, PRODUCTION
from phala.cli import evidence
from phala.cli.evidence_files import read_bounded
from phala.cli.options import json_option
from phala.cli.render import show
from phala.devnet.files import home
from phala.errors import Invalid
from phala.messages.calls import Outcome
from phala.primitives.types import Hash, Moment
from phala.sdk.bundle import BUNDLE_BYTES_MAX, Bundle
from phala.sdk.trust import Trust, chosen, find_trust
from phala.sdk.verify import Check, CheckFailed, Report, verify_bundle

RESULT_CHARACTERS_MAX: Final = 2_000  # of a result, on a screen; --json has all of it
NOW_MAX: Final = 253_402_300_799  # Unix seconds: the last of the year 9999
_RECEIPT_MARK: Final = b'"phala-receipt/'


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Receipt: a network's folder that lies elsewhere: its trust.json is believed.",
)
@click.option("--genesis", help="Receipt: the genesis hash that you trust, in hex.")
@click.option(
    "--simulated-root",
    help="With --genesis or --policy dev: accept simulated evidence of this root, which protects"
    " nothing.",
)
@click.option(
    "--collateral",
    "collateral",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Evidence: what the vendor says of it; may be repeated. docs/reference/policy.md has the"
    " names.",
)
@click.option("--nonce", help="Evidence: refuse unless it was made for this nonce, in hex.")
@click.option(
    "--now",
    "now_s",
    type=click.IntRange(0, NOW_MAX),
    help="Evidence: the time to judge at, in Unix seconds.  [default: this machine's clock]",
)
@click.option(
    "--policy",
    metavar="production|devices|dev|FILE",
    help="Evidence: the policy to judge by.  [default: production]",
)
@json_option
def verify(
    *,
    file: Path,
    folder: Path | None,
    genesis: str | None,
    simulated_root: str | None,
    collateral: tuple[str, ...],
    nonce: str | None,
    now_s: int | None,
    policy: str | None,
    as_json: bool,
) -> None:
    """Check a receipt and everything under it, or evidence of a platform, offline.

    Which policy a receipt is judged by follows from its genesis hash, as this machine knows it:
    `dev` for a network that this machine made, else `production`, which accepts no simulated
    evidence.

    Evidence is a quote, report or document of SGX, TDX, SEV-SNP, Nitro, NVIDIA, Azure or dstack,
    raw, in hex or in JSON.

    Example: phala verify receipt.json

    Example: phala verify quote.bin --collateral collateral.json --now 1751624191
    """
    data = read_bounded(file, BUNDLE_BYTES_MAX, "the file")
    if _is_receipt(data):
        _refuse_options(
            "a receipt",
            {
                "--collateral": collateral or None,
                "--nonce": nonce,
                "--now": now_s,
                "--policy": policy,
            },
        )
        _verify_receipt(data, folder, genesis, simulated_root, as_json=as_json)
        return
    _refuse_options("evidence", {"--dir": folder, "--genesis": genesis})
    judge = _judge_of(policy, simulated_root, now_s, nonce, collateral)
    try:
        judged = evidence.judge_file(data, judge)
    except evidence.Failed as failed:
        if not as_json:
            click.echo(evidence.text_of_failed(failed, judge))
        raise failed.error from None
    show(evidence.document_of(judged, judge), evidence.text_of(judged, judge), as_json=as_json)


def _is_receipt(data: bytes) -> bool:
    """Whether it says what it is, be it in a receipt's broken JSON."""
    if data.lstrip()[:1] != b"{":
        return False
    if _RECEIPT_MARK in data:
        return True
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return "format" in document  # evidence in JSON has no such field of its own


def _refuse_options(what: str, options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise Invalid(
            f"the file is {what}, which {', '.join(given)} says nothing about",
            mend="leave that out: see phala verify --help",
        )


def _judge_of(
    policy: str | None,
    simulated_root: str | None,
    now_s: int | None,
    nonce: str | None,
    collateral: tuple[str, ...],
) -> evidence.Judge:
    name = policy or PRODUCTION.name
    built_in = name in evidence.POLICIES
    text = None if built_in else read_bounded(Path(name), POLICY_BYTES_MAX, "the policy")
    root = None if simulated_root is None else _hex(simulated_root, 33, "--simulated-root")
    if root is not None and policy is None:
        raise Invalid(
            "--simulated-root stands without --policy", mend="add --policy dev, or leave it out"
        )
    own = now_s is None
    return evidence.Judge(
        policy=evidence.policy_named(name, text, root),
        policy_from="built in" if built_in else name,
        now=Moment(time.time_ns() // 1_000_000 if now_s is None else now_s * 1000),
        clock="this machine's clock" if own else "--now",
        nonce=None if nonce is None else evidence.ensure_nonce(nonce),
        files=collateral,
    )


def _verify_receipt(
    data: bytes,
    folder: Path | None,
    genesis: str | None,
    simulated_root: str | None,
    *,
    as_json: bool,
) -> None:
    bundle = Bundle.decode(data)
    trust = _trust_of(bundle, folder, genesis, simulated_root)
    try:
        report = verify_bundle(bundle, trust)
    except CheckFailed as error:
        if not as_json:
            click.echo("\n".join(_line(check, None) for check in error.passed))
            click.echo(click.style(f"  {error.check:2} {error.name:<13} FAILED", fg="red"))
        raise
    show(document_of(report), text_of(report), as_json=as_json)


def _trust_of(
    bundle: Bundle, folder: Path | None, genesis: str | None, simulated_root: str | None
) -> Trust:
    if genesis is not None:
        root = None if simulated_root is None else _hex(simulated_root, 33, "--simulated-root")
        return chosen(Hash(_hex(genesis, 32, "--genesis")), simulated_root=root)
    if simulated_root is not None:
        raise Invalid(
            "--simulated-root stands without --genesis", mend="name the chain that it is of"
        )
    return find_trust(bundle.receipt.body.genesis, home(), network=folder)


def _hex(text: str, size: int, option: str) -> bytes:
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != size:
        raise Invalid(f"{option} is not {size} bytes of hex", mend=f"give {2 * size} hex digits")
    return data


def document_of(report: Report) -> dict[str, Any]:
    """What `--json` prints; its shape is kept."""
    receipt, verdict, outcome = report.receipt, report.verdict, report.outcome
    return {
        "verified": True,
        "hardware": verdict.hardware,
        "anchor": verdict.anchor,
        "platform": verdict.platform.word,
        "confidence": verdict.confidence,
        "measurement": verdict.measurement.hex(),
        "policy": report.trust.policy.name,
        "network": report.trust.name,
        "genesis": _0x(receipt.genesis),
        "worker": _0x(receipt.worker),
        "cluster": _0x(receipt.cluster),
        "contract": _0x(receipt.contract),
        "code_id": _0x(receipt.code_id),
        "kind": report.kind,
        "call": _0x(receipt.call),
        "method": report.method,
        "height": receipt.height,
        "block_hash": _0x(receipt.block_hash),
        "proven_height": report.proven_height,
        "proven_time_ms": report.proven_time,
        "outcome": {
            "ok": outcome.ok,
            "result": _result(outcome),
            "error_kind": outcome.error_kind,
            "error": outcome.error,
        },
        "checks": [
            {"number": check.number, "name": check.name, "what": check.what, "word": check.word}
            for check in report.checks
        ],
    }


def text_of(report: Report) -> str:
    """For people. Nothing simulated is ever green."""
    colour = "green" if report.verdict.hardware else "yellow"
    receipt = report.receipt
    what = report.kind if report.method is None else f"{report.kind} {json.dumps(report.method)}"
    answer = json.dumps(_result(report.outcome) if report.outcome.ok else report.outcome.error)
    return "\n".join(
        (
            *(_line(check, colour) for check in report.checks),
            "",
            f"{what} to contract {_0x(receipt.contract)} (code {_0x(receipt.code_id)})",
            f"{'answered' if report.outcome.ok else 'failed'}: {answer[:RESULT_CHARACTERS_MAX]}",
            click.style(f"verified; {report.verdict.anchor}", fg=colour, bold=True),
        )
    )


def _line(check: Check, colour: str | None) -> str:
    mark = click.style(f"  {check.number:2} {check.name:<13}", fg=colour)
    return f"{mark} {check.what}\n                   on the word of: {check.word}"


def _result(outcome: Outcome) -> Any:
    """The JSON value, or its bytes as hex where a worker sent none."""
    try:
        return json.loads(outcome.result) if outcome.ok else None
    except (ValueError, RecursionError):
        return _0x(outcome.result)


def _0x(data: bytes) -> str:
    return "0x" + data.hex()
