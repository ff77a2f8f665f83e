"""`phala account`: keys of this machine."""

import json
from pathlib import Path

import click

from phala.cli.options import DEV_NAMES, json_option
from phala.cli.render import show
from phala.cli.wallet import (
    Stored,
    load_keystore,
    load_stored,
    new_password,
    save_stored,
    stored_accounts,
    unlock,
)
from phala.primitives.address import encode_ss58
from phala.sdk.keyring import KeyType, dev_pair, new_phrase, pair_from_suri

kind_option = click.option(
    "--type",
    "kind",
    type=click.Choice([each.value for each in KeyType]),
    default=KeyType.SR25519.value,
    show_default=True,
)
password_option = click.option(
    "--password/--no-password",
    "wanted",
    default=True,
    help="Without one the key lies in the file in the clear.",
)


@click.group(short_help="Make, import and show accounts.")
def account() -> None:
    """Make, import and show accounts: polkadot-js keystores in $PHALA_HOME/accounts.

    Passwords are asked for, or taken from $PHALA_PASSWORD.

    Example: phala account new bob
    """


@account.command("new")
@click.argument("name")
@kind_option
@password_option
@json_option
def new_account(*, name: str, kind: str, wanted: bool, as_json: bool) -> None:
    """Make an account, and print the twelve words that bring it back.

    Example: phala account new bob
    """
    phrase = new_phrase()
    made = save_stored(name, pair_from_suri(phrase, KeyType(kind)), new_password(wanted=wanted))
    show(
        {**_document(made), "phrase": phrase},
        f"{made.address}\n"
        f"keystore  {made.path}\n"
        f"phrase    {phrase}\n"
        "Write the phrase down: whoever has it has the account, and nothing else brings it back.",
        as_json=as_json,
    )


@account.command("import")
@click.argument("name")
@click.argument("keystore", type=click.Path(dir_okay=False, path_type=Path), required=False)
@kind_option
@password_option
@json_option
def import_account(
    *, name: str, keystore: Path | None, kind: str, wanted: bool, as_json: bool
) -> None:
    """Take in a keystore from polkadot-js, or a secret phrase, which is asked for.

    Example: phala account import bob 5Grw….json
    """
    if keystore is not None:
        pair = unlock(load_keystore(keystore), str(keystore))
    else:
        phrase = click.prompt("Phrase or secret URI", hide_input=True, err=True)
        pair = pair_from_suri(phrase.strip(), KeyType(kind))
    made = save_stored(name, pair, new_password(wanted=wanted))
    show(_document(made), f"{made.address}\nkeystore  {made.path}", as_json=as_json)


@account.command("list")
@json_option
def list_accounts(*, as_json: bool) -> None:
    """List the accounts of this machine and the development accounts.

    Example: phala account list
    """
    stored = stored_accounts()
    dev = [(name, dev_pair(name).address) for name in DEV_NAMES]
    lines = [f"{each.name:16} {each.address}" for each in stored]
    lines += [f"{name:16} {address}  (--dev: everybody knows its key)" for name, address in dev]
    document = {
        "accounts": [_document(each) for each in stored],
        "dev": [{"name": name, "address": address} for name, address in dev],
    }
    show(document, "\n".join(lines), as_json=as_json)


@account.command("show")
@click.argument("name")
@click.option(
    "--keystore", is_flag=True, help="Print the keystore itself, as polkadot-js reads it."
)
@json_option
def show_account(*, name: str, keystore: bool, as_json: bool) -> None:
    """Show an account's address and public key.

    Example: phala account show Alice
    """
    if name.capitalize() in DEV_NAMES:
        pair = dev_pair(name.capitalize())
        public, address, path = pair.public, pair.address, None
    else:
        stored = load_stored(name)
        if keystore:
            click.echo(json.dumps(stored.document))
            return
        public, address, path = stored.account, encode_ss58(stored.account), str(stored.path)
    show(
        {"name": name, "address": address, "public": "0x" + public.hex(), "keystore": path},
        f"{address}\npublic    0x{public.hex()}" + (f"\nkeystore  {path}" if path else ""),
        as_json=as_json,
    )


def _document(stored: Stored) -> dict[str, object]:
    return {"name": stored.name, "address": stored.address, "keystore": str(stored.path)}
