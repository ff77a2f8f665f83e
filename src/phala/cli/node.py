"""`phala node`: a node's folder, checked and moved; specs and releases."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from phala.cli.options import json_option
from phala.cli.render import show
from phala.errors import Invalid
from phala.node.runtimes.archive import own_release, save_release
from phala.node.runtimes.table import Runtimes
from phala.node.spec import load_chain_spec, raw_document
from phala.node.store import Store
from phala.node.tools import check as checking
from phala.node.tools import revert as reverting
from phala.node.tools.chainfile import export_chain, import_chain
from phala.node.tools.check_index import check_index
from phala.node.tools.snapshot import Snapshot, restore_snapshot, take_snapshot
from phala.node.tools.status import status_of
from phala.node.verifiers import Verifiers
from phala.primitives.types import Hash
from phala.runtime import Runtime
from phala.sdk.rpc import Rpc

QUIET_S: Final = 2.0  # before the first word of progress
EVERY_S: Final = 1.0

folder_argument = click.argument(
    "folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path)
)
file_argument = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
spec_option = click.option(
    "--spec", "spec_path", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="The chain's spec.",
)  # fmt: skip


@click.group(short_help="Check, move and upgrade a node's folder.")
def node() -> None:
    """Work on a node's folder: DIR is what `python -m phala.node --dir` has, and `node` in the
    folder of a network of `phala up`.

    `check`, `export`, `snapshot` and `status` only read, and may do so while the node runs. The
    others want it stopped.

    \b
    Examples:
      phala node status ~/.phala/dev/node
      phala node check ~/.phala/dev/node
      phala node export DIR chain.blocks
      phala node import OTHER chain.blocks --spec spec.json
      phala node snapshot DIR chain.state
      phala node restore OTHER chain.state --genesis 0x…
      phala node spec spec.json --raw > raw.json
      phala node release phala-2.phala
    """


class Progress:
    """A line on stderr now and then, once the work takes long."""

    def __init__(self) -> None:
        self._next = time.monotonic() + QUIET_S
        self._shown = False

    def __call__(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        words = f"{what} {done:,}" + (f" of {of:,}" if of > done else "")
        if sys.stderr.isatty():
            click.echo(f"\r\033[K{words}", err=True, nl=False)
            self._shown = True
        else:
            click.echo(words, err=True)

    def end(self) -> None:
        if self._shown:
            click.echo("\r\033[K", err=True, nl=False)


@contextmanager
def progress() -> Iterator[Progress]:
    found = Progress()
    try:
        yield found
    finally:
        found.end()


@contextmanager
def _store(folder: Path, *, reader: bool) -> Iterator[Store]:
    """A folder's store, which holds a chain."""
    if not (folder / "db" / "data.mdb").exists():
        raise Invalid(f"{folder} is no node's folder", mend="give the one with `db` in it")
    store = Store(folder / "db", reader=reader)
    try:
        if store.genesis_hash is None:
            raise Invalid(
                f"{folder} holds no chain",
                mend="import one there, or restore a snapshot into an empty folder",
            )
        yield store
    finally:
        store.close()


@node.command()
@click.argument(
    "folder", metavar="[DIR]", required=False, type=click.Path(file_okay=False, path_type=Path)
)
@click.option("--url", metavar="ws://…", help="Ask a running node instead.")
@json_option
def status(*, folder: Path | None, url: str | None, as_json: bool) -> None:
    """Show height, finality, what is kept, and sizes: of a folder, or of a node that answers.

    Example: phala node status ~/.phala/dev/node, or phala node status --url ws://127.0.0.1:9944
    """
    if (folder is None) == (url is None):
        raise Invalid("a folder or an address is wanted", mend="give DIR, or --url, and one alone")
    if url is not None:
        found = asyncio.run(_asked(url))
        lines = [
            f"genesis   {found['genesis']}  {found['chain']}",
            f"node      running, peers {found['peers']}, {found['pending']} transactions wait",
            f"head      {found['head']} {found['headHash']}",
            f"finalized {found['finalized']} {found['finalizedHash']}",
            f"runtime   {found['specName']} {found['specVersion']}",
        ]
    else:
        assert folder is not None
        with _store(folder, reader=True) as store:
            found = status_of(store, folder)
        lines = [
            f"genesis   {found['genesis']}",
            f"node      {'running' if found['running'] else 'stopped'}, peers {found['peers']}",
            f"head      {found['head']} {found['headHash']}",
            f"finalized {found['finalized']} {found['finalizedHash']}",
            f"states    from block {found['oldestState']} on ({found['pruning']})",
            f"keys      {found['keys']:,} in the flat table",
            f"disk      {found['bytes']:,} bytes",
        ]
    show(found, "\n".join(lines), as_json=as_json)


async def _asked(url: str) -> dict[str, Any]:
    async with Rpc(url) as rpc:
        health, pending = (
            await rpc.call("system_health"),
            await rpc.call("author_pendingExtrinsics"),
        )
        head, final = await rpc.call("chain_getHead"), await rpc.call("chain_getFinalizedHead")
        version = await rpc.call("state_getRuntimeVersion")
        return {
            "chain": await rpc.call("system_chain"),
            "genesis": await rpc.call("chain_getBlockHash", 0),
            "running": True,
            "head": int((await rpc.call("chain_getHeader", head))["number"], 16),
            "headHash": head,
            "finalized": int((await rpc.call("chain_getHeader", final))["number"], 16),
            "finalizedHash": final,
            "peers": health["peers"],
            "pending": len(pending),
            "specName": version["specName"],
            "specVersion": version["specVersion"],
        }


@node.command()
@folder_argument
@json_option
def check(*, folder: Path, as_json: bool) -> None:
    """Verify all of a store: headers, bodies, justifications, states by their roots, undo,
    messages, indices. Exits 0, or 65 with what does not fit.

    Example: phala node check ~/.phala/dev/node
    """
    with _store(folder, reader=True) as store, progress() as tell:
        report = checking.check(store, tell)
        indexed = check_index(store, folder, tell)
    found = {**asdict(report), "genesis": "0x" + report.genesis.hex(), "indexed": indexed}
    lines = [
        f"genesis  {found['genesis']}",
        f"blocks   {report.headers:,} headers to {report.head}, {report.extrinsics:,} extrinsics",
        f"final    {report.finalized}: {report.justifications:,} justifications verified"
        + (f", {report.unverified:,} not: no authorities known" if report.unverified else ""),
        f"states   {report.roots:,} roots computed, from block {report.oldest} on",
        f"keys     {report.keys:,} in the head's state",
        f"messages {report.messages:,} in {report.topics:,} topics",
        f"index    {indexed:,} extrinsics are found where they are",
        "all of it fits",
    ]
    show(found, "\n".join(lines), as_json=as_json)


@node.command("export")
@folder_argument
@file_argument
@click.option("--from", "first", type=click.IntRange(1), help="The first block.  [default: 1]")
@click.option("--to", "last", type=click.IntRange(1), help="The last block.  [default: the head]")
@json_option
def export_blocks(
    *, folder: Path, file: Path, first: int | None, last: int | None, as_json: bool
) -> None:
    """Write blocks and their justifications into FILE.

    Example: phala node export ~/.phala/dev/node chain.blocks --to 1000
    """
    with _store(folder, reader=True) as store, progress() as tell:
        done = export_chain(store, file, first=first, last=last, progress=tell)
    text = f"blocks {done.first} to {done.last}, {done.finalized} with a justification, in {file}"
    show({**asdict(done), "file": str(file)}, text, as_json=as_json)


@node.command("import")
@folder_argument
@file_argument
@spec_option
@click.option("--pruning", default="256", type=click.Choice(["256", "archive"]), show_default=True)
@click.option(
    "--release", "releases", multiple=True, type=click.Path(dir_okay=False, path_type=Path),
    help="The archive of another release that made some of the blocks; may be said again.",
)  # fmt: skip
@json_option
def import_blocks(
    *,
    folder: Path,
    file: Path,
    spec_path: Path,
    pruning: str,
    releases: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Execute the blocks of FILE again, and keep those that come to what they say.

    Stopped or killed, it goes on from there at the next call.

    Example: phala node import DIR chain.blocks --spec spec.json
    """
    spec = load_chain_spec(spec_path)
    runtimes = Runtimes(Runtime(), folder / "runtimes")
    for each in releases:
        runtimes.add(each)
    verifiers = Verifiers.start(1)  # before a store is open
    try:
        store = Store(folder / "db")
        try:
            with progress() as tell:
                done = import_chain(
                    store, file, spec, runtimes,
                    archive=pruning == "archive", progress=tell, check_signatures=verifiers.check,
                )  # fmt: skip
        finally:
            store.close()
    finally:
        verifiers.close()
        runtimes.close()
    text = (
        f"{done.executed} blocks executed, {done.known} known already; "
        f"head {done.head}, finalized {done.finalized}"
    )
    show(asdict(done), text, as_json=as_json)


@node.command()
@folder_argument
@click.argument("number", type=click.IntRange(0))
@json_option
def revert(*, folder: Path, number: int, as_json: bool) -> None:
    """Forget the blocks above NUMBER: never one that is finalized.

    Example: phala node revert ~/.phala/dev/node 1200
    """
    with _store(folder, reader=False) as store:
        gone = reverting.revert(store, number)
    show({"head": number, "reverted": gone}, f"{gone} blocks less; head {number}", as_json=as_json)


@node.command()
@folder_argument
@file_argument
@click.option("--at", type=click.IntRange(1), help="A finalized block.  [default: the latest]")
@json_option
def snapshot(*, folder: Path, file: Path, at: int | None, as_json: bool) -> None:
    """Write the state of a finalized block into FILE, with the proof that it is final.

    Example: phala node snapshot ~/.phala/dev/node chain.state
    """
    with _store(folder, reader=True) as store, progress() as tell:
        taken = take_snapshot(store, file, at=at, progress=tell)
    _show_snapshot(taken, as_json=as_json)


@node.command()
@folder_argument
@file_argument
@click.option("--genesis", required=True, metavar="HASH", help="Which chain it must be of.")
@json_option
def restore(*, folder: Path, file: Path, genesis: str, as_json: bool) -> None:
    """Begin a node's folder with a snapshot, once it is proven to be of the chain.

    Example: phala node restore DIR chain.state --genesis 0x…
    """
    with progress() as tell:
        done = restore_snapshot(file, folder, Hash(_hash_bytes(genesis)), progress=tell)
    _show_snapshot(done, as_json=as_json)


def _show_snapshot(found: Snapshot, *, as_json: bool) -> None:
    document = {**asdict(found), "hash": "0x" + found.hash.hex()}
    text = (
        f"block {found.number} {document['hash']}: {found.keys:,} keys, {found.messages:,} messages"
    )
    show(document, text, as_json=as_json)


@node.command()
@click.argument("spec_path", metavar="SPEC", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--raw", is_flag=True, help="With the state of block 0 itself.")
@json_option
def spec(*, spec_path: Path, raw: bool, as_json: bool) -> None:
    """Print a spec that names its genesis hash; with `--raw`, one that any release reads alike.

    Example: phala node spec ~/.phala/dev/spec.json --raw > raw.json
    """
    found = load_chain_spec(spec_path)
    made = found.genesis(Runtime())
    named = {**found.document, "genesisHash": "0x" + made.hash.hex()}
    document = raw_document(found, made) if raw else named
    show(document, json.dumps(document, indent=2), as_json=as_json)


@node.command()
@file_argument
@json_option
def release(*, file: Path, as_json: bool) -> None:
    """Write this release's archive into FILE, and show the manifest that names it on a chain.

    `System.set_code` takes the manifest; a node of another release runs the chain by this one once
    the archive lies in its folder `runtimes`.

    Example: phala node release phala-2.phala
    """
    found = own_release(Runtime().manifest)
    save_release(found, file)
    text = found.pinned.encode()
    document = {
        "file": str(file),
        "sources": "0x" + found.sources.hex(),
        "specVersion": found.manifest.spec_version,
        "manifest": "0x" + text.hex(),
    }
    show(document, f"{text.decode()}\nset_code  {document['manifest']}", as_json=as_json)


def _hash_bytes(text: str) -> bytes:
    try:
        found = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        found = b""
    if len(found) != 32:
        raise Invalid(f"{text} is no hash", mend="give 0x and 64 hex digits")
    return found
