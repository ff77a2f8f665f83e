"""`phala verify`: whether a receipt holds, what was checked, and on whose word. No network."""

import json
from pathlib import Path
from typing import Any, Final

import click

from phala.cli.options import json_option
from phala.cli.render import show
from phala.devnet.files import home
from phala.errors import Invalid
from phala.messages.calls import Outcome
from phala.primitives.types import Hash
from phala.sdk.bundle import Bundle, load_bundle
from phala.sdk.trust import Trust, chosen, find_trust
from phala.sdk.verify import Check, CheckFailed, Report, verify_bundle

RESULT_CHARACTERS_MAX: Final = 2_000  # of a result, on a screen; --json has all of it


@click.command()
@click.argument("receipt", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="A network's folder that lies elsewhere: its trust.json is believed.",
)
@click.option("--genesis", help="The genesis hash that you trust, in hex.")
@click.option(
    "--simulated-root",
    help="With --genesis: accept simulated evidence of this root, which protects nothing.",
)
@json_option
def verify(
    *,
    receipt: Path,
    folder: Path | None,
    genesis: str | None,
    simulated_root: str | None,
    as_json: bool,
) -> None:
    """Check a receipt and everything under it, offline.

    Which policy it is judged by follows from its genesis hash, as this machine knows it: `dev` for
    a network that this machine made, else `production`, which accepts no simulated evidence.

    Example: phala verify receipt.json
    """
    bundle = load_bundle(receipt)
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
