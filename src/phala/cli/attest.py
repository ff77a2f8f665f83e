"""`phala attest`: the evidence that this machine can give of itself, and what it measures."""

import base64
import json
import secrets
from pathlib import Path
from typing import Any, Final

import click

from phala.cli.evidence import plain
from phala.cli.options import json_option
from phala.cli.render import show
from phala.errors import Invalid
from phala.tee import gpu as gpus
from phala.tee.detect import detect_platform
from phala.tee.platform import Platform, ReportData
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import load_simulated_key

REPORT_DATA_BYTES: Final = 64
NO_HARDWARE: Final = "simulated: no hardware protection, worth nothing as evidence"
# The simulated platform measures nothing by itself, and no enclave runs here.
SIMULATED_CODE: Final = b"phala attest"


@click.command(short_help="Print this machine's own evidence.")
@click.option(
    "--report-data",
    metavar="HEX",
    help="What the evidence is to say: up to 64 bytes, zeros are added.  [default: chance]",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the evidence to this file, as bytes.",
)
@click.option(
    "--simulated",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="KEYFILE",
    help="Simulate a platform with this key: no hardware protection.",
)
@click.option("--gpu", is_flag=True, help="Of the GPUs here instead, through NVIDIA's NVML.")
@json_option
def attest(
    *, report_data: str | None, out: Path | None, simulated: Path | None, gpu: bool, as_json: bool
) -> None:
    """Get evidence from the trusted hardware under this process, and show what it measures.

    Nothing is judged here: what the evidence is worth, a verifier says. Where there is no such
    hardware, the error says what was looked for (exit code 77). Run it as root, in the guest.

    Example: phala attest --report-data 00ff --out evidence.bin; phala attest --gpu --out gpus.json
    """
    said = _report_data(report_data)
    if gpu:
        _attest_gpus(said[: gpus.NONCE_BYTES], out, as_json=as_json)
        return
    word, platform = _platform(simulated)
    evidence = platform.quote(said)  # with what the host gave to judge it by
    document = {
        "platform": word,
        "hardware": simulated is None,
        "note": NO_HARDWARE if simulated is not None else None,
        "measurements": {name: value.hex() for name, value in platform.measurements.items()},
        "report_data": said.hex(),
        "evidence_bytes": len(evidence),
        "evidence": evidence.hex(),
        "file": None if out is None else str(out),
    }
    if out is not None:
        _write(out, evidence)
    show(document, _text(document), as_json=as_json)


def _attest_gpus(nonce: bytes, out: Path | None, *, as_json: bool) -> None:
    """In the shape of NVIDIA's SDKs, which `phala verify --nonce` takes."""
    found = gpus.gpu_evidence(nonce)
    items = [
        {
            "nonce": nonce.hex(),
            "evidence": base64.b64encode(each.report).decode(),
            "certificate": base64.b64encode(each.chain).decode(),
        }
        for each in found
    ]
    if out is not None:
        _write(out, json.dumps(items).encode())
    document = {
        "nonce": nonce.hex(),
        "gpus": [
            {"name": each.name, "confidential": each.confidential, "dev_tools": each.dev_tools}
            for each in found
        ],
        "evidence": items,
        "file": None if out is None else str(out),
    }
    lines = [f"nonce        {nonce.hex()}"]
    for each in found:
        mode = "confidential mode" if each.confidential else "not in confidential mode"
        tools = ", developers' tools on: its memory is open" if each.dev_tools else ""
        lines.append(f"gpu          {plain(each.name)}: {mode}{tools}")
    lines.append(f"evidence     {'in ' + str(out) if out else 'with --out or --json'}")
    show(document, "\n".join(lines), as_json=as_json)


def _platform(simulated: Path | None) -> tuple[str, Platform]:
    if simulated is None:
        found = detect_platform()
        return found.word, found
    key = load_simulated_key(simulated)
    return "simulated", SimulatedPlatform(measurement=measure(SIMULATED_CODE), key=key)


def _report_data(text: str | None) -> ReportData:
    if text is None:
        return ReportData(secrets.token_bytes(REPORT_DATA_BYTES))
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise Invalid("--report-data is not hex", mend="give up to 128 hex digits") from None
    if len(data) > REPORT_DATA_BYTES:
        raise Invalid(
            f"--report-data is {len(data)} bytes",
            mend=f"give at most {REPORT_DATA_BYTES}, such as a hash of what is to be bound",
        )
    return ReportData(data.ljust(REPORT_DATA_BYTES, b"\0"))


def _write(path: Path, evidence: bytes) -> None:
    try:
        path.write_bytes(evidence)
    except OSError as error:
        raise Invalid(
            f"{path} cannot be written: {error.strerror}", mend="name a file that can be"
        ) from None


def _text(document: dict[str, Any]) -> str:
    """For people. Nothing here is green: nothing was judged."""
    lines = [f"platform     {document['platform']}"]
    if document["note"] is not None:
        lines.append(click.style(f"             {document['note']}", fg="yellow", bold=True))
    lines += [f"{name:12} {value}" for name, value in document["measurements"].items()]
    lines.append(f"report data  {document['report_data']}")
    where = f"in {document['file']}" if document["file"] else document["evidence"]
    lines.append(f"evidence     {document['evidence_bytes']} bytes: {where}")
    return "\n".join(lines)
