"""`phala dev`: what the owner of a development network may do with it."""

import asyncio
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from phala.cli.options import (
    DEV_NAMES,
    argument_options,
    arguments_of,
    chain_options,
    json_option,
    place_of,
    timeout_option,
)
from phala.cli.render import pha, plancks_of, show, waiting
from phala.cli.wallet import account_of
from phala.devnet.files import save_bytes
from phala.errors import Invalid, Refused
from phala.primitives.address import encode_ss58
from phala.sdk.chain import ChainClient
from phala.sdk.keyring import dev_pair
from phala.sdk.rpc import RpcRefused, hex_of

F = TypeVar("F", bound=Callable[..., Any])

NO_METHOD: Final = -32601
DUMP_BYTES_MAX: Final = 14 * 1024 * 1024  # a node takes 15 MiB in one request
SPAN: Final = re.compile(r"([0-9]{1,9})(ms|s|m|h|d|w)", re.ASCII)
UNITS_MS: Final = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
ROOT: Final = "root"


@click.group(short_help="Cheat on a dev chain: mine, time, impersonate, snapshots.")
def dev() -> None:
    """Do with a development network what no other chain allows: each answer says "dev chain".

    A node takes these from its own machine alone. What changes the state is in the chain's blocks,
    so light clients and workers keep following. What is final stays final: while a snapshot is
    kept, no block after it becomes final, and workers, who follow what is final, wait.

    \b
    Examples:
      phala dev mine 10
      phala dev forward 3d --blocks 100
      phala dev impersonate Bob Balances.transfer_all --arg dest=Alice --arg keep_alive=true
      phala dev snapshot before-test
      phala dev revert before-test
    """


def common_options(function: F) -> F:
    return timeout_option(chain_options(json_option(function)))


def ask(
    folder: Path | None, urls: tuple[str, ...], timeout_s: float, method: str, *params: Any
) -> dict[str, Any]:
    """The node's answer. Raises `Refused` where it has no such method."""
    place = place_of(folder, urls)

    async def asked() -> Any:
        async with ChainClient(place.nodes[0], timeout_s=timeout_s) as chain:
            return await chain.rpc.call(method, *params)

    return _answer(asyncio.run(_translated(asked())))


async def _translated(asked: Any) -> Any:
    try:
        return await asked
    except RpcRefused as error:
        if error.code != NO_METHOD:
            raise
        raise Refused(
            "the node takes no cheats: its chain is no dev chain, or it is on another machine",
            mend="ask the node of `phala up` from its own machine",
        ) from None


def _answer(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise Invalid(f"the node answered {str(found)[:80]}", mend="ask a node of Phala's")
    return found


# ---- blocks and time


@dev.command(short_help="Mine blocks at once.")
@click.argument("blocks", type=click.IntRange(1, 4_096), default=1)
@common_options
def mine(
    *, blocks: int, folder: Path | None, urls: tuple[str, ...], timeout_s: float, as_json: bool
) -> None:
    """Mine blocks at once, the first with all that waits.

    Example: phala dev mine 10
    """
    with waiting("mining", quiet=as_json):
        found = ask(folder, urls, timeout_s, "dev_mine", blocks)
    show(found, f"dev chain: {blocks} blocks, the head is {found['number']}", as_json=as_json)


@dev.command("time", short_help="Set the time.")
@click.argument("moment", metavar="TIME")
@common_options
def set_time(
    *, moment: str, folder: Path | None, urls: tuple[str, ...], timeout_s: float, as_json: bool
) -> None:
    """Set the time of the next block: it goes on from there. TIME is ISO 8601, in UTC unless it
    says otherwise, or milliseconds since 1970. It never runs back: revert to a snapshot for that.

    Example: phala dev time 2027-01-01T00:00:00
    """
    found = ask(folder, urls, timeout_s, "dev_setTime", milliseconds_of(moment))
    show(found, f"dev chain: it is {_shown(found['time_ms'])}", as_json=as_json)


@dev.command(short_help="Let time pass, over blocks.")
@click.argument("span", metavar="SPAN")
@click.option("--blocks", type=click.IntRange(1, 4_096), default=1, show_default=True,
              help="How many blocks it takes.")  # fmt: skip
@common_options
def forward(
    *,
    span: str,
    blocks: int,
    folder: Path | None,
    urls: tuple[str, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """Let so much time pass, in even steps over so many blocks. SPAN is a number with ms, s, m, h,
    d or w.

    Example: phala dev forward 3d --blocks 100
    """
    span_ms = span_of(span)
    with waiting("mining", quiet=as_json):
        found = ask(folder, urls, timeout_s, "dev_forward", span_ms / 1_000, blocks)
    words = f"dev chain: the head is {found['number']}, it is {_shown(found['time_ms'])}"
    show(found, words, as_json=as_json)


def span_of(text: str) -> int:
    """Milliseconds. Raises `Invalid`."""
    found = SPAN.fullmatch(text)
    if found is None:
        raise Invalid(f"{text!r} is no span of time", mend="write it as 90s, 15m, 6h or 3d")
    return int(found[1]) * UNITS_MS[found[2]]


def milliseconds_of(text: str) -> int:
    """Since 1970. Raises `Invalid`."""
    if text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(f"{text!r} is no time", mend="write it as 2027-01-01T00:00:00") from None
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1_000)


def _shown(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError):  # later than the year 9999
        return f"{time_ms} ms after 1970"


# ---- calls


@dev.command(short_help="Run a call as any account.")
@click.argument("who")
@click.argument("call", metavar="PALLET.CALL")
@argument_options
@common_options
def impersonate(
    *,
    who: str,
    call: str,
    pairs: tuple[str, ...],
    document: str | None,
    folder: Path | None,
    urls: tuple[str, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """Run a call as an account, or as `root`, without its signature and without a fee. Exit by
    what became of it. Names like Bob stand for accounts; bytes are hex with 0x.

    Example: phala dev impersonate Bob Balances.burn --arg value=5 --arg keep_alive=true
    """
    pallet, point, name = call.partition(".")
    if not point:
        raise Invalid(f"{call!r} is no call", mend="write it as Balances.transfer_all")
    arguments = _named(arguments_of(pairs, document))
    account = ROOT if who == ROOT else encode_ss58(account_of(who))
    place = place_of(folder, urls)

    async def sent() -> Any:
        async with ChainClient(place.nodes[0], timeout_s=timeout_s) as chain:
            data = (await chain.metadata()).encode_call(pallet, name, arguments)
            return await chain.rpc.call("dev_impersonate", account, hex_of(data))

    found = _answer(asyncio.run(_translated(sent())))
    if not found["ok"]:
        raise Refused(
            f"dev chain: {call} as {account} failed in block {found['number']}: {found['error']}",
            mend="see what the error says of the call",
        )
    show(found, f"dev chain: {call} as {account} in block {found['number']}", as_json=as_json)


def _named(value: Any) -> Any:
    """The same, with development accounts' addresses for their names."""
    match value:
        case str() if value in DEV_NAMES:
            return encode_ss58(dev_pair(value).account)
        case dict():
            return {name: _named(each) for name, each in value.items()}
        case list():
            return [_named(each) for each in value]
        case _:
            return value


@dev.command("set-balance", short_help="Set what an account has.")
@click.argument("who")
@click.argument("amount", metavar="PHA")
@common_options
def set_balance(
    *,
    who: str,
    amount: str,
    folder: Path | None,
    urls: tuple[str, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """Set what an account has that is free.

    Example: phala dev set-balance Bob 1000
    """
    account, plancks = account_of(who), plancks_of(amount)
    found = ask(folder, urls, timeout_s, "dev_setBalance", encode_ss58(account), str(plancks))
    if not found["ok"]:
        raise Refused(f"dev chain: {found['error']}", mend="see what the error says")
    show(found, f"dev chain: {encode_ss58(account)} has {pha(plancks)}", as_json=as_json)


@dev.command("set-storage", short_help="Write a key of the state.")
@click.argument("key")
@click.argument("value", required=False)
@common_options
def set_storage(
    *,
    key: str,
    value: str | None,
    folder: Path | None,
    urls: tuple[str, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """Write a key of the state, both as hex with 0x; without a VALUE, delete it. `phala
    storage-key` tells keys.

    Example: phala dev set-storage 0x26aa394eea5630e07c48ae0c9558cef7 0x01
    """
    found = ask(folder, urls, timeout_s, "dev_setStorage", {key: value})
    show(found, f"dev chain: written in block {found['number']}", as_json=as_json)


# ---- snapshots and states


@dev.command(short_help="Keep the present head to come back to.")
@click.argument("name")
@common_options
def snapshot(
    *, name: str, folder: Path | None, urls: tuple[str, ...], timeout_s: float, as_json: bool
) -> None:
    """Keep the present head under a name. Until it is reverted to or released, nothing after it
    becomes final; the node keeps it while it runs, for 4,096 blocks at most.

    Example: phala dev snapshot before-test
    """
    found = ask(folder, urls, timeout_s, "dev_snapshot", name)
    show(found, f"dev chain: {name} is block {found['number']}", as_json=as_json)


@dev.command(short_help="Go back to a snapshot.")
@click.argument("name")
@click.option("--keep", is_flag=True, help="Keep the snapshot, to come back again.")
@common_options
def revert(
    *,
    name: str,
    keep: bool,
    folder: Path | None,
    urls: tuple[str, ...],
    timeout_s: float,
    as_json: bool,
) -> None:
    """Forget all blocks after a snapshot, and what waits for a block. The snapshot is used up, and
    so are those after it.

    Example: phala dev revert before-test
    """
    found = ask(folder, urls, timeout_s, "dev_revert", name, keep)
    words = f"dev chain: back at block {found['number']}, {found['gone']} blocks are gone"
    show(found, words, as_json=as_json)


@dev.command(short_help="Forget a snapshot.")
@click.argument("name")
@common_options
def release(
    *, name: str, folder: Path | None, urls: tuple[str, ...], timeout_s: float, as_json: bool
) -> None:
    """Forget a snapshot, so that blocks after it become final.

    Example: phala dev release before-test
    """
    found = ask(folder, urls, timeout_s, "dev_release", name)
    show(found, f"dev chain: {name} is forgotten", as_json=as_json)


@dev.command(short_help="List the snapshots.")
@common_options
def snapshots(
    *, folder: Path | None, urls: tuple[str, ...], timeout_s: float, as_json: bool
) -> None:
    """List the snapshots that the node keeps.

    Example: phala dev snapshots
    """
    found = ask(folder, urls, timeout_s, "dev_snapshots")
    kept = [f"  {name}: block {each['number']}" for name, each in found["snapshots"].items()]
    show(found, "\n".join(["dev chain: " + ("" if kept else "no snapshots"), *kept]),
         as_json=as_json)  # fmt: skip


@dev.command(short_help="Save the state to a file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@common_options
def dump(
    *, file: Path, folder: Path | None, urls: tuple[str, ...], timeout_s: float, as_json: bool
) -> None:
    """Save all pairs of the head's state, as JSON with hex.

    Example: phala dev dump state.json
    """
    found = ask(folder, urls, timeout_s, "dev_dumpState")
    top = found.pop("top")
    save_bytes(file.absolute(), json.dumps({**found, "top": top}, indent=0).encode())
    document = {**found, "pairs": len(top), "file": str(file)}
    words = f"dev chain: {len(top)} pairs of block {found['number']} are in {file}"
    show(document, words, as_json=as_json)


@dev.command(short_help="Load a state from a file.")
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@common_options
def load(
    *, file: Path, folder: Path | None, urls: tuple[str, ...], timeout_s: float, as_json: bool
) -> None:
    """Make accounts, and what pallets keep for them, what a dump has, in blocks of this chain. Its
    own blocks, time, finality and enclaves stay.

    Example: phala dev load state.json
    """
    found = ask(folder, urls, timeout_s, "dev_loadState", top_of(file))
    words = f"dev chain: {found['changed']} pairs changed, {found['left_out']} are not for loading"
    show(found, words, as_json=as_json)


def top_of(file: Path) -> dict[str, Any]:
    """The pairs of a dump. Raises `Invalid`."""
    try:
        if file.stat().st_size > DUMP_BYTES_MAX:
            raise Invalid(f"{file} has over {DUMP_BYTES_MAX} bytes", mend="give a smaller dump")
        top = json.loads(file.read_text())["top"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Invalid(f"{file} is no dump: {error!r}", mend="make it by phala dev dump") from None
    if not isinstance(top, dict):
        raise Invalid(f"{file} is no dump", mend="make it by phala dev dump")
    return top
