"""`phala query`: a private question to a contract."""

from pathlib import Path

import click

from phala.cli.contracts import contract_of, load_names
from phala.cli.options import (
    argument_options,
    arguments_of,
    json_option,
    network_options,
    place_of,
    receipt_option,
    signer_options,
)
from phala.cli.render import show, waiting
from phala.cli.session import answered, connected, result_text, save_receipt
from phala.cli.wallet import signer_of


@click.command(short_help="Ask a contract privately.")
@click.argument("contract")
@click.argument("method")
@argument_options
@signer_options
@receipt_option
@network_options
@json_option
def query(
    *,
    contract: str,
    method: str,
    pairs: tuple[str, ...],
    document: str | None,
    dev: str | None,
    account: str | None,
    receipt: Path | None,
    folder: Path | None,
    urls: tuple[str, ...],
    worker: str | None,
    as_json: bool,
) -> None:
    """Ask a contract privately; nothing changes, and the chain hears nothing.

    The worker is verified before anything is sent to it. Unless you name an account, the contract
    does not learn who asks.

    Example: phala query counter value
    """
    arguments = arguments_of(pairs, document)
    place = place_of(folder, urls, worker)
    signer = signer_of(place, dev, account) if dev or account else None
    with waiting(f"waiting for {method}", quiet=as_json), connected(place) as phala:
        known = contract_of(contract, load_names(place.files, phala.network.trust.genesis))
        answer = phala.query(known, method, arguments, signer=signer)
        saved = save_receipt(phala, answer, receipt)
        value = answer.value()
    show(
        {
            "contract": "0x" + answer.receipt.body.contract.hex(),
            "method": method,
            **answered(answer),
            "result": value,
            "receipt": saved,
        },
        result_text(value) + (f"\nreceipt {saved}" if saved else ""),
        as_json=as_json,
    )
