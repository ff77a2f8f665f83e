"""`phala deploy`: a contract onto a network."""

from pathlib import Path
from typing import Final

import click

from phala.cli.contracts import ensure_contract_name, save_name
from phala.cli.options import (
    argument_options,
    arguments_of,
    fuel_option,
    json_option,
    network_options,
    place_of,
    receipt_option,
    signer_options,
    timeout_option,
)
from phala.cli.render import show, waiting
from phala.cli.session import connected, placed, placed_text, save_receipt
from phala.cli.wallet import signer_of
from phala.errors import Invalid
from phala.messages.state import CODE_BYTES_MAX

SALT_BYTES_MAX: Final = 32


@click.command(short_help="Put a contract on a network.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--name", help="What `call` and `query` shall know it by.  [default: the file's name]"
)
@click.option("--salt", help="Hex, for an id that is known before.  [default: random]")
@argument_options
@signer_options
@fuel_option
@receipt_option
@timeout_option
@network_options
@json_option
def deploy(
    *,
    file: Path,
    name: str | None,
    salt: str | None,
    pairs: tuple[str, ...],
    document: str | None,
    dev: str | None,
    account: str | None,
    fuel: int,
    receipt: Path | None,
    timeout_s: float,
    folder: Path | None,
    urls: tuple[str, ...],
    worker: str | None,
    as_json: bool,
) -> None:
    """Put a contract on a network, and wait until it lives.

    Arguments are its constructor's. They are public, unlike those of calls.

    Example: phala deploy counter.py
    """
    source = load_source(file)
    known_as = ensure_contract_name(name or file.stem)
    arguments = arguments_of(pairs, document)
    place = place_of(folder, urls, worker)
    signer = signer_of(place, dev, account)
    with waiting(f"deploying {file.name}", quiet=as_json), connected(place) as phala:
        made = phala.deploy(
            source, arguments, signer=signer, salt=_salt(salt), fuel=fuel, timeout_s=timeout_s
        )
        save_name(place.files, phala.network.trust.genesis, known_as, made.contract)
        saved = save_receipt(phala, made.answer, receipt)
    contract = "0x" + made.contract.hex()
    show(
        {
            "contract": contract,
            "name": known_as,
            "code_id": "0x" + made.code_id.hex(),
            "cluster": "0x" + made.cluster.hex(),
            "bytes": len(source),
            "deployer": signer.address,
            "receipt": saved,
            **placed(made.submitted),
        },
        f"{known_as} is live: {contract}\n"
        f"code id   0x{made.code_id.hex()}\n"
        f"{len(source):,} bytes, {placed_text(made.submitted)}"
        + (f"\nreceipt   {saved}" if saved else ""),
        as_json=as_json,
    )


def load_source(file: Path) -> bytes:
    """A contract's source, not larger than the chain takes."""
    try:
        with file.open("rb") as opened:
            source = opened.read(CODE_BYTES_MAX + 1)
    except OSError as error:
        raise Invalid(
            f"{file} cannot be read: {error.strerror}", mend="begin one with: phala new counter"
        ) from None
    if not source or len(source) > CODE_BYTES_MAX:
        raise Invalid(
            f"{file} has {len(source)} bytes or more",
            mend=f"deploy 1 to {CODE_BYTES_MAX} bytes of Python",
        )
    return source


def _salt(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        salt = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        salt = bytes(SALT_BYTES_MAX + 1)
    if len(salt) > SALT_BYTES_MAX:
        raise Invalid(f"{text!r} is no salt", mend=f"give up to {SALT_BYTES_MAX} bytes of hex")
    return salt
