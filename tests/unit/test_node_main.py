"""The node's process: how it starts, refuses and ends."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.clients import chain

from phala.node.engines.opening import begun_of, open_chain, runtimes_of, store_of
from phala.node.store import Damaged

WAIT_S = 20


def refused(folder: Path, spec: Path, *options: str) -> str:
    """What a node that does not start says, as its last word but one."""
    command = [sys.executable, "-m", "phala.node", "--dir", str(folder), "--spec", str(spec)]
    ran = subprocess.run(
        [*command, "--port", "0", *options],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert ran.returncode not in (0, 1), ran.stderr
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    (error,) = [line["message"] for line in lines if line["level"] == "error"]
    return str(error)


def test_it_ends_cleanly_when_asked_and_goes_on_from_there(tmp_path: Path) -> None:
    spec = chain.prepare(tmp_path)
    genesis = []
    for _ in range(2):
        node = chain.start(tmp_path, spec)
        genesis.append(node.genesis)
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(WAIT_S) == 0
    assert genesis[0] == genesis[1]
    assert re.fullmatch("0x[0-9a-f]{64}", genesis[0])
    for line in (tmp_path / "node.log").read_text().splitlines():
        assert json.loads(line)["level"] == "info"


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    spec = chain.prepare(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        assert f"port {port}" in refused(tmp_path, spec, "--port", str(port))


@pytest.mark.parametrize(
    ("option", "wrong"), [("--port", "65536"), ("--port", "any"), ("--metrics-port", "-1")]
)
def test_what_is_no_port_is_wrong_usage(tmp_path: Path, option: str, wrong: str) -> None:
    command = [sys.executable, "-m", "phala.node", "--dir", str(tmp_path), "--spec", "none"]
    ran = subprocess.run(
        [*command, option, wrong], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert ran.returncode == 2
    assert option in ran.stderr
    assert "Traceback" not in ran.stderr


def test_two_nodes_do_not_share_a_folder(tmp_path: Path) -> None:
    spec = chain.prepare(tmp_path)
    node = chain.start(tmp_path, spec)
    try:
        assert "another node uses" in refused(tmp_path, spec)
    finally:
        node.process.terminate()
        assert node.process.wait(WAIT_S) == 0


def test_another_spec_than_the_folders_is_refused(tmp_path: Path) -> None:
    spec = chain.prepare(tmp_path)
    node = chain.start(tmp_path, spec)
    node.process.kill()
    node.process.wait(WAIT_S)
    document = json.loads(spec.read_text())
    document["genesis"]["balances"].pop()
    spec.write_text(json.dumps(document))

    assert "the store holds the chain" in refused(tmp_path, spec)


def test_another_authoritys_folder_is_refused(tmp_path: Path) -> None:
    spec = chain.prepare(tmp_path)
    (tmp_path / "grandpa.key").write_text("ab" * 32)

    assert "this node's keys are" in refused(tmp_path, spec)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "\0", "7" * 100, '{"genesis": 1}'])
def test_what_is_no_spec_is_refused(tmp_path: Path, text: str | None) -> None:
    spec = tmp_path / "no.json"
    if text is not None:
        spec.write_text(text)

    assert "spec" in refused(tmp_path, spec)


@pytest.mark.parametrize("text", [None, "", "ab" * 31, "zz" * 32])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str | None) -> None:
    spec = chain.prepare(tmp_path)
    key = tmp_path / "grandpa.key"
    key.unlink()
    if text is not None:
        key.write_text(text)

    assert "holds no finality key" in refused(tmp_path, spec)


def test_a_folder_whose_chain_is_gone_does_not_begin_another(tmp_path: Path) -> None:
    """With the same key it would finalize other blocks under the same numbers."""
    spec = chain.prepare(tmp_path)
    runtimes = runtimes_of(tmp_path)
    opened = open_chain(tmp_path, spec, runtimes, archive=False)
    opened.chain.store.close()
    again = open_chain(tmp_path, spec, runtimes, archive=False)
    again.chain.store.close()
    shutil.rmtree(store_of(tmp_path))

    with pytest.raises(Damaged, match="says that it held a chain"):
        open_chain(tmp_path, spec, runtimes, archive=False)

    begun_of(tmp_path).unlink()
    open_chain(tmp_path, spec, runtimes, archive=False).chain.store.close()
