"""`phala transfer`: PHA from one account to another."""

import asyncio
from pathlib import Path

import click

from phala.cli.options import chain_options, json_option, place_of, signer_options
from phala.cli.render import pha, plancks_of, show, waiting
from phala.cli.session import placed, placed_text
from phala.cli.wallet import account_of, signer_of
from phala.primitives.address import encode_ss58
from phala.sdk.chain import Call, ChainClient, Submitted
from phala.sdk.keyring import Keypair


@click.command(short_help="Send PHA.")
@click.argument("to")
@click.argument("amount", metavar="PHA")
@signer_options
@click.option("--wait/--no-wait", default=True, help="Wait until the transfer is finalized.")
@chain_options
@json_option
def transfer(
    *,
    to: str,
    amount: str,
    dev: str | None,
    account: str | None,
    wait: bool,
    folder: Path | None,
    urls: tuple[str, ...],
    as_json: bool,
) -> None:
    """Send PHA, and wait until nobody can take it back.

    Example: phala transfer Bob 12.5 --dev Alice
    """
    place = place_of(folder, urls)
    receiver, plancks = account_of(to), plancks_of(amount)
    signer = signer_of(place, dev, account)
    call = Call("Balances", "transfer_keep_alive", {"dest": {"Id": receiver}, "value": plancks})
    with waiting("waiting for the transfer to be finalized", quiet=as_json):
        done = asyncio.run(_send(place.nodes[0], call, signer, wait=wait))
    sent = f"{pha(plancks)} from {signer.address} to {encode_ss58(receiver)}"
    document: dict[str, object] = {
        "from": signer.address,
        "to": encode_ss58(receiver),
        "plancks": str(plancks),
        "finalized": done is not None,
    }
    if done is None:
        show(document, f"Sent {sent}, not waiting for it.", as_json=as_json)
        return
    document |= placed(done)
    show(
        document,
        f"Sent {sent}\n{placed_text(done)}, finalized",
        as_json=as_json,
    )


async def _send(url: str, call: Call, signer: Keypair, *, wait: bool) -> Submitted | None:
    async with ChainClient(url) as chain:
        return await chain.submit(call, signer, wait="finalized" if wait else None)
