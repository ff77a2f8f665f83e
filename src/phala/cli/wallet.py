"""Accounts of this machine: one polkadot-js keystore a file in `$PHALA_HOME/accounts`."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from phala.cli.options import DEV_NAMES, Place
from phala.devnet.files import home, save_bytes
from phala.errors import Invalid, Refused
from phala.primitives.address import decode_ss58, encode_ss58
from phala.primitives.types import AccountId
from phala.sdk.keyring import (
    Keypair,
    decode_keystore,
    dev_pair,
    encode_keystore,
    keystore_address,
)

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
KEYSTORE_BYTES_MAX: Final = 128 * 1024
DEFAULT_DEV: Final = "Alice"


@dataclass(frozen=True, slots=True)
class Stored:
    name: str
    path: Path
    document: dict[str, Any]

    @property
    def account(self) -> AccountId:
        return keystore_address(self.document)

    @property
    def address(self) -> str:
        return encode_ss58(self.account)

    @property
    def locked(self) -> bool:
        return bool(self.document["encoding"]["type"] != ["none"])


def folder() -> Path:
    return home() / "accounts"


def ensure_name(name: str) -> str:
    """Raises `Invalid` for what can be no file's name, and for the development accounts' names."""
    if not NAME.fullmatch(name):
        raise Invalid(f"{name!r} is no name", mend="use letters, digits, - and _, at most 64")
    if name.capitalize() in DEV_NAMES:
        raise Invalid(f"{name} is a development account's name", mend="choose a name of your own")
    return name


def stored_accounts() -> list[Stored]:
    """Every keystore in the folder, by name. A file that is none is passed over."""
    found = []
    for path in sorted(folder().glob("*.json")):
        try:
            found.append(Stored(path.stem, path, load_keystore(path)))
        except Invalid:
            continue
    return found


def load_stored(name: str) -> Stored:
    path = folder() / f"{name}.json"
    if not NAME.fullmatch(name) or not path.exists():
        raise Invalid(
            f"there is no account {name!r} in {folder()}", mend="see them with: phala account list"
        )
    return Stored(name, path, load_keystore(path))


def load_keystore(path: Path) -> dict[str, Any]:
    """A keystore's document, known to be one; it may still be locked.

    Raises:
        Invalid: no such file, or no keystore.
    """
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(KEYSTORE_BYTES_MAX))
    except (OSError, ValueError, RecursionError) as error:
        raise Invalid(
            f"{path} is no keystore: {type(error).__name__}",
            mend="export the account from polkadot-js again, as JSON",
        ) from None
    keystore_address(document)
    assert isinstance(document, dict)
    return document


def save_stored(name: str, pair: Keypair, password: str | None) -> Stored:
    """Write a new keystore; never over an old one."""
    path = folder() / f"{ensure_name(name)}.json"
    if path.exists():
        raise Refused(f"the account {name} exists already", mend="choose another name")
    document = encode_keystore(pair, name=name, password=password)
    save_bytes(path, json.dumps(document).encode())
    return Stored(name, path, document)


def unlock(document: dict[str, Any], name: str) -> Keypair:
    """The key in a keystore; the password is asked for, or taken from `$PHALA_PASSWORD`."""
    if document["encoding"]["type"] == ["none"]:
        return decode_keystore(document)
    password = os.environ.get("PHALA_PASSWORD")
    if password is None:
        password = click.prompt(f"Password of {name}", hide_input=True, err=True)
    return decode_keystore(document, password)


def new_password(*, wanted: bool) -> str | None:
    """A password for a keystore to be written."""
    if not wanted:
        return None
    if "PHALA_PASSWORD" in os.environ:
        return os.environ["PHALA_PASSWORD"]
    said = click.prompt(
        "Password for the new keystore", hide_input=True, confirmation_prompt=True, err=True
    )
    return str(said)


def signer_of(place: Place, dev: str | None, account: str | None) -> Keypair:
    """Who signs. On a network that this machine made, without being told: Alice.

    Raises:
        Refused: nobody is named, and the network is another one.
    """
    if dev and account:
        raise Invalid("both --dev and --account are given", mend="name one signer")
    if dev:
        return dev_pair(dev)
    if account:
        return unlock(load_stored(account).document, account)
    if place.own:
        return dev_pair(DEFAULT_DEV)
    raise Refused(
        "nobody is named to sign, and this is no network of this machine",
        mend="name an account with --account, see: phala account list",
    )


def account_of(who: str) -> AccountId:
    """The account of an SS58 address, an account's name or a development account's.

    Raises:
        Invalid: none of these.
    """
    if who.capitalize() in DEV_NAMES:
        return dev_pair(who.capitalize()).account
    if NAME.fullmatch(who) and (folder() / f"{who}.json").exists():
        return load_stored(who).account
    try:
        return decode_ss58(who)
    except Invalid as error:
        raise Invalid(
            f"{who!r} is no account: {error.what}",
            mend="give an SS58 address, an account's name, or Alice … Ferdie",
        ) from None
