"""The story of two hospitals, as it happens: `make run`.

It starts a network with `phala up`, is the client of three people on it (a coordinator, hospital
North, hospital South), and stops it. Every figure is of this run.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from data import Division, Patient, batches, divide, load_patients

from phala.attest import Verdict
from phala.cli.options import Place
from phala.cli.render import pha, waiting
from phala.cli.session import connected, trust_of
from phala.devnet.files import NetworkFiles
from phala.errors import PhalaError
from phala.sdk.bundle import load_bundle
from phala.sdk.calls import Answer
from phala.sdk.keyring import Keypair, dev_pair
from phala.sdk.network import Deployed, Sent
from phala.sdk.rpc import bytes_of, hex_of
from phala.sdk.sync import Phala
from phala.sdk.verify import verify_bundle

HERE: Final = Path(__file__).parent
PHALA: Final = Path(sys.executable).with_name("phala")
STOP_S_MAX: Final = 20.0
MARK_BYTES_MAX: Final = 64
FIT_COMMANDS_MAX: Final = 8
ROUNDS: Final = 5
FIT_FUEL: Final = 32  # class: a fit of all patients takes half of 2^32
SHOWN_BYTES: Final = 96
SIMULATED: Final = "simulated, no hardware protection"
COORDINATOR, NORTH, SOUTH = dev_pair("Alice"), dev_pair("Bob"), dev_pair("Charlie")
MODELS: Final = (
    ("North alone", NORTH, ("North",)),
    ("South alone", SOUTH, ("South",)),
    ("together", NORTH, ("North", "South")),
)


def say(text: str = "") -> None:
    click.echo(text)


def step(number: int, title: str) -> None:
    say(f"\n{click.style(f'{number}. {title}', bold=True)}\n")


def fact(name: str, value: object) -> None:
    say(f"   {name:<12} {value}")


def short(data: bytes) -> str:
    return f"0x{data[:4].hex()}…{data[-3:].hex()}"


def shortened(text: str) -> str:
    """The same with its long hex cut: a check's words are made for a wider page."""
    return re.sub(r"\b((?:0x)?[0-9a-f]{8})[0-9a-f]{16,}([0-9a-f]{6})\b", r"\1…\2", text)


def tick(verdict: Verdict) -> str:
    """Never green for what no hardware stands behind."""
    return click.style("✓", fg="green" if verdict.hardware else "yellow")


def anchor_of(verdict: Verdict) -> str:
    """Whose word all of it rests on; never without saying when no hardware stands behind it."""
    return verdict.anchor if verdict.hardware else f"{SIMULATED}, root of this network alone"


@dataclass(frozen=True, slots=True)
class Study:
    """The contract on its network."""

    phala: Phala
    place: Place
    deployed: Deployed
    division: Division


@contextmanager
def network(folder: Path) -> Iterator[Place]:
    """`phala up`, until the body ends."""
    command = [str(PHALA), "up", "--dir", str(folder), "--json"]
    command += ["--port", "0", "--worker-port", "0"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            with waiting("   starting node, worker and pherry"):
                line = process.stdout.readline()
            if not line:
                sys.exit(f"phala up ended with exit code {process.wait()}")
            said = json.loads(line)
            fact("up after", f"{time.monotonic() - began:.1f} s")
            fact("node", f"{said['node']}  (the chain)")
            fact("worker", f"{said['worker']}  (untrusted host of the enclave)")
            fact("genesis", said["genesis"])
            fact("TEE", click.style(SIMULATED, fg="yellow"))
            yield running(folder)
        finally:
            process.terminate()
            with waiting("   stopping"):
                process.wait(STOP_S_MAX)


def running(folder: Path) -> Place:
    """A network of this machine that runs already."""
    files = NetworkFiles(folder.absolute())
    said = files.load_running()
    return Place(files, (said["node"],), said["worker"], own=True)


def deploy(phala: Phala, place: Place, division: Division) -> Study:
    source = (HERE / "model.py").read_bytes()
    hospitals = {"North": NORTH.address, "South": SOUTH.address}
    began = time.monotonic()
    with waiting("   deploying"):
        deployed = phala.deploy(source, {"hospitals": hospitals}, signer=COORDINATOR)
    submitted = deployed.submitted
    fact("contract", "0x" + deployed.contract.hex())
    fact("code id", "0x" + deployed.code_id.hex())
    fact("", "= blake2_256(runtime id, source): anybody can recompute it")
    fact("size", f"{len(source):,} bytes of Python")
    fact("fee", f"{pha(submitted.fee)}, in block {submitted.number}")
    fact("live after", f"{time.monotonic() - began:.1f} s")
    return Study(phala, place, deployed, division)


def verify_worker(study: Study) -> None:
    verified = study.phala.verify_worker()
    manifest, verdict = verified.registration.body.manifest, verified.verdict
    body, head = verified.registration.body, study.phala.network.light.head
    policy = study.phala.network.trust.policy.name
    checks = (
        ("block", f"block {head.number} is final: GRANDPA, followed from the genesis hash"),
        ("listed", f"the chain lists worker {short(verified.worker)}: storage proof there"),
        ("signed", "it signed its registration and its encryption key, for this genesis"),
        ("evidence", f"policy {policy!r} accepts it: code {short(verdict.measurement)} runs there"),
        ("binds", f"that key, runtime {short(manifest.runtime_id)} and block {body.height}"),
    )
    for name, text in checks:
        say(f"   {tick(verdict)} {name:<10} {text}")
    fact("on the word", click.style(anchor_of(verdict), fg="yellow"))
    say("   Every client checks this itself before it encrypts; the SDK has no way around it.")


def send_rows(study: Study, name: str, signer: Keypair, patients: tuple[Patient, ...]) -> Sent:
    """All of a hospital's patients; the first of its commands, to look at later."""
    phala, contract = study.phala, study.deployed.contract
    calls = [("add", batch) for batch in batches(patients)]
    with waiting(f"   {name} encrypts and sends"):
        sending = phala.network.send_commands(contract, calls, signer=signer)
        sent = [_raised(each) for each in phala.run(sending)]
    for each in sent:
        with waiting(f"   {name} waits for the enclave"):
            answer = phala.outcome_of(each)
        count = answer.value()
        where = f"block {each.submitted.number}, extrinsic {each.submitted.index}"
        say(f"   {name:<6} {count:>4} of {len(patients)} patients in   {where}")
    return sent[0]


def _raised(found: Sent | PhalaError) -> Sent:
    if isinstance(found, PhalaError):
        raise found
    return found


def fit(study: Study) -> None:
    for title, signer, hospitals in MODELS:
        arguments = {"hospitals": list(hospitals), "rounds": ROUNDS}
        for _ in range(FIT_COMMANDS_MAX):
            began = time.monotonic()
            with waiting(f"   {title}: {ROUNDS} rounds of Newton's method"):
                answer = study.phala.command(
                    study.deployed.contract, "fit", arguments, signer=signer, fuel=FIT_FUEL
                )
            progress = answer.value()
            say(
                f"   {title:<12} {progress['patients']} patients   "
                f"round {progress['rounds']:>2}   loss {progress['loss']:.4f}   "
                f"{time.monotonic() - began:.1f} s   fuel under 2^{answer.outcome.fuel_class}"
            )
            if progress["converged"]:
                break


def score(study: Study) -> Answer:
    """Each model on the held-out patients. Returns the last answer."""
    held_out = study.division.held_out
    arguments: dict[str, Any] = {
        "rows": [list(patient.measurements) for patient in held_out],
        "benign": [patient.benign for patient in held_out],
    }
    found: dict[str, Any] = {}
    for title, _, hospitals in MODELS:
        began = time.monotonic()
        answer = study.phala.query(
            study.deployed.contract,
            "score",
            {"hospitals": list(hospitals), **arguments},
            signer=COORDINATOR,
        )
        took_ms = 1000 * (time.monotonic() - began)
        each = found[title] = answer.value()
        accuracy = click.style(f"{100 * each['accuracy']:.1f} %", bold=True)
        say(
            f"   {title:<12} {accuracy}   {each['right']} of {each['patients']} right, "
            f"{each['missed']} malignant missed, {each['false_alarms']} false alarms, "
            f"loss {each['loss']:.3f}   ({took_ms:.0f} ms)"
        )
    together = found["together"]
    alone = max(found["North alone"], found["South alone"], key=lambda one: one["right"])
    say(
        f"\n   Together they are right on {together['right']}, the better one alone on "
        f"{alone['right']}; losses {together['loss']:.3f} and {alone['loss']:.3f}."
    )
    return answer


def verify_receipt(study: Study, answer: Answer, path: Path) -> None:
    path.write_bytes(study.phala.collect_bundle(answer).encode())
    fact("file", f"{path.name}, {path.stat().st_size:,} bytes: the call, and why to believe it")
    report = verify_bundle(load_bundle(path), trust_of(study.place))
    for check in report.checks:
        say(f"   {tick(report.verdict)} {check.name:<12} {shortened(check.what)}")
        say(f"     {'':<12} {click.style('on the word of ' + shortened(check.word), dim=True)}")
    fact("in the end", click.style(anchor_of(report.verdict), fg="yellow"))


def show_other_side(study: Study, sent: Sent) -> None:
    """The same patients, as those see them who carry them."""
    patient, place_folder = study.division.north[0], study.place.files.folder
    block = study.phala.run(
        study.phala.network.chain.rpc.call("chain_getBlock", hex_of(sent.submitted.block_hash))
    )
    extrinsic = bytes_of(block["block"]["extrinsics"][sent.submitted.index])
    row = ", ".join(f"{value:g}" for value in patient.measurements)
    say("   Hospital North's first patient, as North has it:")
    _quote(textwrap.fill(row, 92))
    say(f"   The command that carries it, as the chain has it: {len(extrinsic):,} bytes")
    _quote(textwrap.fill(extrinsic[:SHOWN_BYTES].hex() + "…", 92))
    _quote(textwrap.fill("…" + extrinsic[-SHOWN_BYTES:].hex(), 92))
    say("   What can be read in it: who sent it, to which contract, when, and its size class.")
    folders = [place_folder / name for name in ("node", "worker", "pherry", "logs")]
    looked, found = 0, 0
    for content in (extrinsic, *_contents(folders, overlap=MARK_BYTES_MAX)):
        looked += len(content)
        found += times(patient, content)
    plain = json.dumps(batches(study.division.north)[0]).encode()
    say(
        f"   That row, sought as text, JSON and float64 in it and in the {looked:,} bytes that\n"
        "   node, worker and pherry keep on disk, logs included: "
        + click.style(f"found {found} times", bold=True)
        + "\n   The same search in what North's client encrypted: "
        + click.style(f"found {times(patient, plain)} time", bold=True)
    )


def times(patient: Patient, content: bytes) -> int:
    """How often a patient's row stands in some bytes, by its first three measurements."""
    values = patient.measurements[:3]
    marks = [
        separator.join(form(value) for value in values).encode()
        for separator in (",", ", ", ";", " ")
        for form in (repr, "{:g}".format)
    ]
    marks += [struct.pack(order + "3d", *values) for order in "<>"]
    assert max(map(len, marks)) <= MARK_BYTES_MAX
    return len(re.findall(b"|".join(map(re.escape, marks)), content))


def _contents(folders: list[Path], *, overlap: int) -> Iterator[bytes]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                yield from _chunks(path, overlap=overlap)


def _chunks(path: Path, *, overlap: int, size: int = 1 << 20) -> Iterator[bytes]:
    """A file's content, without the holes of a sparse one; each piece begins in the one before."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        at = 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                return
            yield os.pread(file.fileno(), size + overlap, at)
            at += size


def _quote(text: str) -> None:
    for line in text.splitlines():
        say("      " + click.style(line, fg="cyan"))


def tell(place: Place, division: Division) -> None:
    """Steps 2 to 8, on a network that is up."""
    with connected(place) as phala:
        step(2, "The contract")
        study = deploy(phala, place, division)
        step(3, "The worker, verified")
        verify_worker(study)
        step(4, "Patients, sent encrypted, in the order of the chain")
        sent = send_rows(study, "North", NORTH, division.north)
        send_rows(study, "South", SOUTH, division.south)
        step(5, "The model, fitted inside the enclave")
        fit(study)
        step(6, f"Accuracy on the {len(division.held_out)} patients that no model has seen")
        answer = score(study)
        step(7, "The last answer's receipt, checked offline")
        verify_receipt(study, answer, place.files.folder / "receipt.json")
        step(8, "What the operator and the chain saw")
        show_other_side(study, sent)


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Keep the network here.")
@click.option("--network", "given", type=click.Path(path_type=Path), help="Use one that is up.")
@click.option("--patients", type=click.Path(path_type=Path), help="Rows of another file.")
def main(*, folder: Path | None, given: Path | None, patients: Path | None) -> None:
    """Two hospitals fit one model; neither shows a patient."""
    began = time.monotonic()
    division = divide(load_patients(patients) if patients else load_patients())
    say(click.style("Two hospitals, one model, no shared patient", bold=True))
    introduce(division)
    step(1, "A network on this machine")
    if given is not None:
        tell(running(given), division)
    else:
        place_folder = folder or Path(tempfile.mkdtemp(prefix="phala-hospital-"))
        try:
            with network(place_folder) as place:
                tell(place, division)
                say()
        finally:
            if folder is None:
                shutil.rmtree(place_folder, ignore_errors=True)
        say("Every process that was started has ended.")
    say(f"Done in {time.monotonic() - began:.0f} s.")
    say("\nNext, a contract of your own: start a network with  .venv/bin/phala up")
    say("and follow docs/guide/first-contract.md in another terminal: five commands.")


def introduce(division: Division) -> None:
    held_out, north, south = division.held_out, division.north, division.south
    say(
        f"\n{len(held_out)} of {len(held_out) + len(north) + len(south)} patients are held out. "
        f"The others are divided by mean radius:\n"
        f"hospital North has the {len(north)} up to {north[-1].measurements[0]:g}, "
        f"{_benign(north)} of them benign;\n"
        f"hospital South has the {len(south)} larger ones, {_benign(south)} of them benign."
    )


def _benign(patients: tuple[Patient, ...]) -> int:
    return sum(patient.benign for patient in patients)


if __name__ == "__main__":
    try:
        main()
    except PhalaError as error:
        sys.exit(f"{type(error).__name__}: {error.what}\n  mend: {error.mend}")
