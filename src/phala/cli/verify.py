"""`phala verify`: whether a receipt, evidence, certificate or worker holds, and on whose word.

Files are judged without a network. An address or a worker's id is asked over it, and judged alike.
"""

import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click

from phala.attest import AttestationError
from phala.attest.policy import POLICY_BYTES_MAX, PRODUCTION
from phala.attest.ratls import is_certificate
from phala.cli import certificates, evidence, peers
from phala.cli.evidence_files import read_bounded
from phala.cli.options import json_option, place_of
from phala.cli.render import show
from phala.cli.session import trust_of
from phala.devnet.files import home
from phala.errors import Invalid
from phala.messages.calls import Outcome
from phala.messages.registration import SignedRegistration
from phala.messages.types import WorkerId
from phala.primitives.types import Hash, Moment
from phala.sdk.bundle import BUNDLE_BYTES_MAX, Bundle
from phala.sdk.light import load_light_start
from phala.sdk.trust import Trust, chosen, find_trust
from phala.sdk.verify import Check, CheckFailed, Report, verify_bundle

RESULT_CHARACTERS_MAX: Final = 2_000  # of a result, on a screen; --json has all of it
NOW_MAX: Final = 253_402_300_799  # Unix seconds: the last of the year 9999
_RECEIPT_MARK: Final = b'"phala-receipt/'
_WORKER: Final = re.compile(r"(?:worker:(?:0x)?|0x)([0-9a-fA-F]{64})")
_ADDRESS: Final = re.compile(r"(https?|ratls)://.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Given:
    """The options, as they were given."""

    folder: Path | None
    genesis: str | None
    simulated_root: str | None
    collateral: tuple[str, ...]
    nonce: str | None
    now_s: int | None
    policy: str | None
    legacy: bool
    nodes: tuple[str, ...]
    worker: str | None

    def refuse(self, what: str, *names: str) -> None:
        """Options that say nothing about what is judged would be believed to."""
        given = {
            "--dir": self.folder,
            "--genesis": self.genesis,
            "--simulated-root": self.simulated_root,
            "--collateral": self.collateral or None,
            "--nonce": self.nonce,
            "--now": self.now_s,
            "--policy": self.policy,
            "--legacy-gramine": self.legacy or None,
            "--node": self.nodes or None,
            "--worker": self.worker,
        }
        found = [name for name in names if given[name] is not None]
        if found:
            raise Invalid(
                f"{what} is to be verified, which {', '.join(found)} says nothing about",
                mend="leave that out: see phala verify --help",
            )


@click.command(short_help="Check a receipt, evidence, a certificate or a worker.")
@click.argument("target", metavar="FILE|URL|worker:ID")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="A network's folder that lies elsewhere: its trust.json is believed.",
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
    " names; phala collateral fetch saves them.",
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
    help="Evidence: the policy to judge by.  [default: that of the chain it names, as this machine"
    " knows it, else production]",
)
@click.option(
    "--legacy-gramine",
    "legacy",
    is_flag=True,
    help="Certificate: accept the form of Gramine before 1.8, which binds the key and no purpose.",
)
@click.option(
    "--node",
    "nodes",
    multiple=True,
    help="Worker: a node's address, instead of the network's own; two of them outside dev.",
)
@click.option("--worker", help="Worker: its address, instead of the network's own.")
@json_option
def verify(*, target: str, as_json: bool, **options: Any) -> None:
    """Check a receipt and everything under it, or evidence of a platform, and say on whose word.

    FILE is a receipt; evidence (a quote, report or document of SGX, TDX, SEV-SNP, Nitro, NVIDIA,
    Azure or dstack, raw, in hex, base64 or JSON, gzipped or not); an RA-TLS certificate in PEM or
    DER; or what a worker's /evidence said. URL is https://HOST:PORT or ratls://HOST:PORT, whose TLS
    certificate is judged, or http://HOST:PORT of a worker, whose registration is. worker:ID asks
    the chain, too.

    Which policy is used follows from the genesis hash, as this machine knows it: dev for a network
    that this machine made, else production, which accepts no simulated evidence. Nothing simulated
    is ever shown green.

    Exit codes: 0 verified, 65 forged or no evidence, 75 something did not answer, 77 refused.

    Example: phala verify receipt.json

    Example: phala verify quote.bin --collateral collateral.json --now 1751624191

    Example: phala verify https://enclave.example:8443 --collateral collateral.json
    """
    given = Given(**options)
    if (match := _WORKER.fullmatch(target)) is not None:
        _verify_worker(WorkerId(bytes.fromhex(match[1])), given, as_json=as_json)
    elif (match := _ADDRESS.fullmatch(target)) is not None:
        if match[1] in peers.TLS_SCHEMES:
            _verify_certificate(peers.certificate_at(target), given, target, as_json=as_json)
        else:
            _verify_registration(peers.registration_at(target), given, as_json=as_json)
    elif target.startswith("worker:"):
        raise Invalid(
            f"{target[:80]!r} names no worker", mend="write worker: and its id, 64 hex digits"
        )
    else:
        _verify_file(Path(target), given, as_json=as_json)


def _verify_file(path: Path, given: Given, *, as_json: bool) -> None:
    data = read_bounded(path, BUNDLE_BYTES_MAX, "the file")
    if _is_receipt(data):
        given.refuse("a receipt", "--collateral", "--nonce", "--now", "--policy")
        given.refuse("a receipt", "--node", "--worker", "--legacy-gramine")
        _verify_receipt(data, given.folder, given.genesis, given.simulated_root, as_json=as_json)
    elif is_certificate(leaf := certificates.leaf_of(data)):
        _verify_certificate(leaf, given, None, as_json=as_json)
    elif (signed := peers.registration_in(data)) is not None:
        _verify_registration(signed, given, as_json=as_json)
    else:
        _verify_evidence(data, given, as_json=as_json)


def _verify_evidence(data: bytes, given: Given, *, as_json: bool) -> None:
    given.refuse("evidence", "--dir", "--genesis", "--node", "--worker", "--legacy-gramine")
    judge = _judge_of(given)
    try:
        judged = evidence.judge_file(data, judge)
    except evidence.Failed as failed:
        if not as_json:
            click.echo(evidence.text_of_failed(failed, judge))
        raise failed.error from None
    show(evidence.document_of(judged, judge), evidence.text_of(judged, judge), as_json=as_json)


def _verify_certificate(data: bytes, given: Given, seen: str | None, *, as_json: bool) -> None:
    given.refuse("a certificate", "--genesis", "--node", "--worker")
    judge = _judge_of(given)
    trust = None
    if given.policy is None and (trust := certificates.trust_for(data, given.folder)) is not None:
        judge = _by(judge, trust)
    asked = certificates.Asked(judge, given.legacy, seen, trust)
    try:
        found = certificates.judge_certificate(data, asked)
    except AttestationError as error:
        if not as_json:
            click.echo(certificates.text_of_failed(error, asked))
        raise
    show(certificates.document_of(found, asked), certificates.text_of(found, asked),
         as_json=as_json)  # fmt: skip


def _verify_registration(signed: SignedRegistration, given: Given, *, as_json: bool) -> None:
    given.refuse("a registration", "--genesis", "--node", "--worker", "--nonce")
    given.refuse("a registration", "--legacy-gramine")
    judge = _judge_of(given)
    if given.policy is None:
        judge = _by(judge, peers.trust_for(signed, given.folder))
    judged = peers.judge_registration(signed, judge)
    _show_worker(judged, signed, judge, as_json=as_json)


def _verify_worker(worker: WorkerId, given: Given, *, as_json: bool) -> None:
    given.refuse("a worker", "--collateral", "--nonce", "--now", "--policy", "--genesis")
    given.refuse("a worker", "--simulated-root", "--legacy-gramine")
    place = place_of(given.folder, given.nodes, given.worker)
    if place.worker is None:
        raise Invalid(
            "the chain keeps the hash of a worker's evidence, and nobody who has it is named",
            mend="name the worker's own address by --worker http://HOST:PORT",
        )
    trust = trust_of(place)
    began = load_light_start(place.files.light, trust.genesis) if place.own else None
    listed = peers.verify_listed_worker(worker, place.nodes, place.worker, trust, began)
    judge = _by(_judge_of(given), trust)
    judge = replace(judge, now=listed.verified.at, clock="the chain's proven time")
    _show_worker(peers.judged_of(listed), listed.verified.registration, judge, as_json=as_json)


def _show_worker(
    judged: evidence.Judged, signed: SignedRegistration, judge: evidence.Judge, *, as_json: bool
) -> None:
    manifest = signed.body.manifest
    document = {
        **evidence.document_of((judged,), judge),
        "kind": "worker",
        "worker": _0x(manifest.worker),
        "genesis": _0x(manifest.genesis),
        "height": signed.body.height,
    }
    show(document, evidence.text_of((judged,), judge), as_json=as_json)


def _by(judge: evidence.Judge, trust: Trust) -> evidence.Judge:
    return replace(judge, policy=trust.policy, policy_from=f"as said by {trust.origin}")


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


def _judge_of(given: Given) -> evidence.Judge:
    policy, simulated_root, now_s = given.policy, given.simulated_root, given.now_s
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
        nonce=None if given.nonce is None else evidence.ensure_nonce(given.nonce),
        files=given.collateral,
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
