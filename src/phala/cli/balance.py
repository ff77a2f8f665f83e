"""`phala balance`: what an account has."""

import asyncio
from pathlib import Path
from typing import Any

import click

from phala.cli.options import chain_options, json_option, place_of
from phala.cli.render import pha, show
from phala.cli.wallet import account_of
from phala.primitives.address import encode_ss58
from phala.primitives.types import AccountId
from phala.sdk.chain import ChainClient


@click.command(short_help="Show what an account has.")
@click.argument("who", default="Alice")
@chain_options
@json_option
def balance(*, who: str, folder: Path | None, urls: tuple[str, ...], as_json: bool) -> None:
    """Show what an account has: an SS58 address, an account's name, or Alice … Ferdie.

    Example: phala balance Alice
    """
    account = account_of(who)
    found = asyncio.run(_fetch(place_of(folder, urls).nodes[0], account))
    data = found["data"]
    address = encode_ss58(account)
    lines = [address, f"free      {pha(data['free'])}"]
    if data["reserved"]:
        lines.append(f"reserved  {pha(data['reserved'])}")
    show(
        {
            "address": address,
            "free_plancks": str(data["free"]),
            "reserved_plancks": str(data["reserved"]),
            "nonce": found["nonce"],
        },
        "\n".join(lines),
        as_json=as_json,
    )


async def _fetch(url: str, account: AccountId) -> Any:
    async with ChainClient(url) as chain:
        return await chain.query("System", "Account", account)
