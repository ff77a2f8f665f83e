"""Accounts on this machine, and who signs."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from phala.cli import options
from phala.cli.main import phala
from phala.cli.options import Place
from phala.cli.wallet import account_of, load_stored, signer_of
from phala.devnet.files import NetworkFiles
from phala.errors import Invalid, Refused
from phala.sdk.keyring import DEV_NAMES, dev_pair

ALICE = dev_pair("Alice")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALA_HOME", str(tmp_path))
    monkeypatch.setenv("PHALA_PASSWORD", "correct horse")


def run(*arguments: str, given: str = "") -> Result:
    return CliRunner().invoke(phala, ["account", *arguments], input=given)


def made(*arguments: str, given: str = "") -> dict[str, Any]:
    found = run(*arguments, "--json", given=given)
    assert found.exit_code == 0, found.output
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def place(tmp_path: Path, *, own: bool) -> Place:
    return Place(NetworkFiles(tmp_path), ("ws://127.0.0.1:1",), None, own=own)


def test_a_new_account_is_a_keystore_that_its_password_opens(tmp_path: Path) -> None:
    account = made("new", "bob-2")

    path = tmp_path / "accounts" / "bob-2.json"
    assert Path(account["keystore"]) == path
    assert path.stat().st_mode & 0o077 == 0
    assert len(account["phrase"].split()) == 12
    signer = signer_of(place(tmp_path, own=False), None, "bob-2")
    assert signer.address == account["address"]


def test_its_phrase_brings_an_account_back() -> None:
    first = made("new", "mine")

    again = made("import", "again", given=first["phrase"] + "\n")

    assert again["address"] == first["address"]


def test_a_keystore_without_a_password_opens_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PHALA_PASSWORD")
    account = made("new", "open", "--no-password")

    assert signer_of(place(tmp_path, own=False), None, "open").address == account["address"]


def test_an_exported_keystore_is_taken_in_under_another_name(tmp_path: Path) -> None:
    first = made("new", "mine")
    exported = tmp_path / "exported.json"
    exported.write_text(run("show", "mine", "--keystore").output)

    assert made("import", "copy", str(exported))["address"] == first["address"]
    assert [each["name"] for each in made("list")["accounts"]] == ["copy", "mine"]


def test_another_password_does_not_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made("new", "mine")
    monkeypatch.setenv("PHALA_PASSWORD", "battery staple")

    with pytest.raises(Refused, match="password"):
        signer_of(place(tmp_path, own=False), None, "mine")


@pytest.mark.parametrize("name", ["", "../x", "a b", "Alice", "alice", "x" * 65, "-x"])
def test_what_can_be_no_name_is_refused(name: str) -> None:
    found = run("new", "--", name)

    assert isinstance(found.exception, Invalid | SystemExit)
    assert found.exit_code != 0


def test_an_account_is_never_written_over() -> None:
    made("new", "mine")

    with pytest.raises(Refused, match="exists already"):
        raise_from(run("new", "mine"))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"address": 5}', b"[" * 50_000]
)
def test_garbage_is_no_keystore(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.json"
    path.write_bytes(content)

    with pytest.raises(Invalid, match="keystore"):
        raise_from(run("import", "mine", str(path)))
    folder = tmp_path / "accounts"
    folder.mkdir()
    (folder / "broken.json").write_bytes(content)
    assert made("list")["accounts"] == []
    with pytest.raises(Invalid, match="keystore"):
        load_stored("broken")


def test_who_signs(tmp_path: Path) -> None:
    assert signer_of(place(tmp_path, own=True), "Bob", None) == dev_pair("Bob")
    assert signer_of(place(tmp_path, own=True), None, None) == ALICE
    with pytest.raises(Refused, match="nobody is named"):
        signer_of(place(tmp_path, own=False), None, None)
    with pytest.raises(Invalid, match="both"):
        signer_of(place(tmp_path, own=True), "Bob", "mine")


def test_an_account_by_address_by_name_and_of_development() -> None:
    mine = made("new", "mine")

    assert account_of("alice") == ALICE.account
    assert account_of(ALICE.address) == ALICE.account
    assert account_of("mine") == account_of(mine["address"])
    with pytest.raises(Invalid, match="is no account"):
        account_of("nobody")


def test_the_development_names_are_the_keyrings() -> None:
    assert options.DEV_NAMES == DEV_NAMES
    listed = made("list")["dev"]
    assert [each["name"] for each in listed] == list(DEV_NAMES)
    assert listed[0]["address"] == ALICE.address


def raise_from(result: Result) -> None:
    assert result.exception is not None
    raise result.exception
