"""What `phala up` and `phala status` tell people."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from phala.cli import status as status_command
from phala.cli.main import phala
from phala.cli.up import words_of
from phala.devnet.supervisor import Died, Serving, Started, Starting, Stopping

DOCUMENT: dict[str, Any] = {
    "name": "Phala Development",
    "genesis": "0x" + "ab" * 32,
    "policy": "dev",
    "dir": "/home/me/net",
    "node": "ws://127.0.0.1:9944",
    "worker": "http://127.0.0.1:8000",
    "pid": 1,
    "services": {"node": {"pid": 2, "restarts": 0}, "worker": {"pid": 3, "restarts": 2}},
}


def test_each_news_is_a_line() -> None:
    assert words_of(Starting("node")) == "starting node"
    assert words_of(Started("node", 9944, 1.25)) == "  node serves on port 9944 (1.2 s)"
    assert words_of(Started("pherry", None, 0.5)) == "  pherry serves (0.5 s)"
    assert words_of(Died("worker", -9, 0.2)) == "worker ended (signal 9); it starts again in 0.2 s"
    assert words_of(Died("worker", 1, 5)) == "worker ended (exit code 1); it starts again in 5 s"
    assert words_of(Stopping()) == "stopping"


def test_a_network_that_is_up_says_how_to_use_it() -> None:
    text = words_of(Serving(DOCUMENT, 4.2))

    for part in (
        "simulated: no hardware protection",
        "ws://127.0.0.1:9944",
        "http://127.0.0.1:8000",
        "phala new counter\n",
        "phala deploy counter.py --dir /home/me/net",
        "phala call counter add --arg n=2 --dir /home/me/net",
        "Ctrl-C stops it",
    ):
        assert part in text


def test_the_default_folder_needs_no_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PHALA_HOME", str(tmp_path))

    text = words_of(Serving({**DOCUMENT, "dir": str(tmp_path / "dev")}, 4.2))

    assert "--dir" not in text


@pytest.mark.parametrize(
    ("chain", "enclave", "told"),
    [
        ({"best": 9, "finalized": 8}, {"ready": True, "height": 8}, "block 9, finalized 8"),
        (None, {"ready": False, "height": 0}, "the node does not answer"),
        ({"best": 9, "finalized": 8}, None, "the worker does not answer"),
    ],
)
def test_status_says_what_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, chain: Any, enclave: Any, told: str
) -> None:
    services = {name: {**each, "alive": True} for name, each in DOCUMENT["services"].items()}
    found = {**DOCUMENT, "services": services, "chain": chain, "enclave": enclave}
    monkeypatch.setattr(status_command, "fetch_status", lambda _: found)

    said = CliRunner().invoke(phala, ["status"]).output

    assert told in said
    assert "worker   running, restarted 2 times" in said
