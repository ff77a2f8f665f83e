"""A receipt of a genuine network proves its call once that network is gone, and nothing in it can
be changed. Which check refuses what is `tests/unit/test_verify.py`'s."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.e2e.network import PHALA, environment, running

from phala.cli.verify import verify
from phala.sdk.bundle import BundleMalformed
from phala.sdk.verify import CheckFailed

pytestmark = pytest.mark.timeout(180)

SEED = int(os.environ.get("PHALA_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
COUNTER = Path(__file__).parents[2] / "src/phala/phat/templates/counter.py"
GREEN = "\x1b[32m"
RECEIPTS = ("deploy", "call", "failed", "query", "signed")
TRIES = 4  # of bytes in each part


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has stopped, and receipts of it."""
    folder = tmp_path_factory.mktemp("receipts")
    with running(folder) as network:
        (folder / "counter.py").write_bytes(COUNTER.read_bytes())
        network.phala("deploy", "counter.py", "--receipt", "deploy.json")
        add = ("call", "counter", "add", "--arg")
        network.phala(*add, "n=2", "--receipt", "call.json")
        network.phala(*add, "n=0", "--receipt", "failed.json", exit_code=77)
        value = ("query", "counter", "value", "--receipt")
        network.phala(*value, "query.json")
        network.phala(*value, "signed.json", "--dev", "Bob")
    assert not (folder / "network.json").exists()
    return folder


def verified(folder: Path, receipt: str | Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PHALA, "verify", receipt, "--dir", folder, *options],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=folder,
        env=environment(folder),
    )


@pytest.mark.parametrize("name", RECEIPTS)
def test_a_receipt_is_verified_when_its_network_is_gone(folder: Path, name: str) -> None:
    shown, told = (verified(folder, f"{name}.json", *extra) for extra in ((), ("--json",)))

    assert shown.returncode == told.returncode == 0, shown.stderr + told.stderr
    assert shown.stdout.endswith("verified; simulated: no hardware protection\n")
    assert shown.stdout.count("on the word of:") == len(json.loads(told.stdout)["checks"])
    document = json.loads(told.stdout)
    assert document["verified"] is True
    assert document["hardware"] is False
    assert document["outcome"]["ok"] is (name != "failed")
    results = {"call": 2, "query": 2, "signed": 2}
    assert document["outcome"]["result"] == results.get(name)
    assert document["method"] == {"deploy": None, "call": "add", "failed": "add"}.get(name, "value")


@pytest.mark.parametrize("name", RECEIPTS)
def test_what_is_simulated_is_never_green(folder: Path, name: str) -> None:
    arguments = [str(folder / f"{name}.json"), "--dir", str(folder)]
    result = CliRunner().invoke(verify, arguments, color=True)

    assert result.exit_code == 0
    assert "\x1b[" in result.output
    assert GREEN not in result.output


def test_a_machine_that_does_not_know_the_network_takes_no_simulated_evidence(
    folder: Path, tmp_path: Path
) -> None:
    refused = subprocess.run(
        [PHALA, "verify", folder / "query.json", "--json"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment(tmp_path),
    )

    assert refused.returncode == 77
    assert "(evidence)" in json.loads(refused.stdout)["error"]["what"]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of each text and number in a document."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from leaves(item, (*path, key))
    else:
        yield path


def changed(document: Any, path: tuple[str | int, ...], chance: random.Random) -> bytes:
    """The file with one byte of one part changed; a number goes up by one."""
    copy = json.loads(json.dumps(document))
    holder = copy
    for step in path[:-1]:
        holder = holder[step]
    value = holder[path[-1]]
    if isinstance(value, int):
        holder[path[-1]] = value + 1
    elif path == ("format",):
        at = chance.randrange(len(value))
        holder["format"] = value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]
    else:
        data = bytearray.fromhex(value)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        holder[path[-1]] = data.hex()
    return json.dumps(copy).encode()


@pytest.mark.parametrize("name", RECEIPTS)
def test_one_changed_byte_in_any_part_is_refused_by_name(
    folder: Path, tmp_path: Path, name: str
) -> None:
    sys.stdout.write(f"PHALA_SEED={SEED}\n")
    chance = random.Random(f"{SEED} {name}")
    document = json.loads((folder / f"{name}.json").read_bytes())
    file = tmp_path / "changed.json"
    paths = list(leaves(document))
    assert {path[0] for path in paths} == set(document) - {"collateral"}  # nothing is simulated's

    for path in paths:
        for _ in range(TRIES):
            file.write_bytes(changed(document, path, chance))
            result = CliRunner().invoke(verify, [str(file), "--dir", str(folder)])
            where = ".".join(map(str, path))
            assert isinstance(result.exception, CheckFailed | BundleMalformed), (where, result)
            assert "verified" not in result.output
            if isinstance(result.exception, CheckFailed):
                failed = result.exception
                assert f"check {failed.check} ({failed.name})" in failed.what
            else:
                assert str(path[0]) in result.exception.what


def test_the_command_exits_by_the_check_that_failed(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "query.json").read_bytes())
    file, chance = tmp_path / "changed.json", random.Random(SEED)
    for path, check in (
        (("receipt", "signature"), "receipt"),
        (("call", "response"), "plaintext"),
        (("headers", 0, "justification"), "finality"),
        (("proof", 0), "state"),
    ):
        file.write_bytes(changed(document, path, chance))
        refused = verified(folder, file)
        assert refused.returncode in (65, 77)
        assert f"({check})" in refused.stderr
        assert f"{check:<13} FAILED" in refused.stdout
