"""Opens a node's folder: the chain with its trie, and the key that finalizes."""

from dataclasses import dataclass
from pathlib import Path

from phala.crypto.signatures import Keypair
from phala.finality import Authority
from phala.node.chain import Chain, View
from phala.node.engines.author import ensure_authority
from phala.node.halves import OtherHalf
from phala.node.keys import load_grandpa_keys
from phala.node.runtimes.table import Runtimes
from phala.node.spec import ensure_begun, load_chain_spec, write_whole
from phala.node.store import Damaged, Store
from phala.node.writer import authorities_after
from phala.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Opened:
    chain: Chain
    keys: tuple[Keypair, ...]  # that finalize, while authorities change of both sets
    name: str  # of the chain, for people
    chain_type: str


def store_of(folder: Path) -> Path:
    return folder / "db"


def begun_of(folder: Path) -> Path:
    """Says that the folder had a chain, whatever became of its store: beside it, not in it."""
    return folder / "begun"


def runtimes_of(folder: Path) -> Runtimes:
    """This release, and those whose archives lie beside the store."""
    return Runtimes(Runtime(), folder / "runtimes")


def authorities_of(chain: View) -> tuple[Authority, ...]:
    """Who finalizes the block after the head."""
    return authorities_after(chain, chain.head.number).authorities


def open_chain(
    folder: Path,
    spec: Path,
    runtimes: Runtimes,
    *,
    archive: bool,
    half: OtherHalf | None = None,
) -> Opened:
    """The chain of a folder, made at the first start; its trie with `half`, where it is there.

    Raises:
        OtherRelease: its next block is made by a release that is not there.
        Damaged: the chain that was in the folder is gone. A key that finalized blocks of it must
            not finalize others under the same numbers.
    """
    found = load_chain_spec(spec)
    keys = load_grandpa_keys(folder)
    store = Store(store_of(folder))
    try:
        _ensure_not_lost(folder, store)
        ensure_begun(store, found, runtimes.own)
        chain = Chain(store, archive=archive, half=half)
        ensure_authority(keys, authorities_of(chain))
        runtimes.at(chain, chain.head.number)
        if not begun_of(folder).exists():
            write_whole(begun_of(folder), f"0x{chain.genesis.hex()}\n")
    except BaseException:
        store.close()
        raise
    return Opened(chain, keys, found.name, found.chain_type)


def _ensure_not_lost(folder: Path, store: Store) -> None:
    if store.genesis_hash is None and begun_of(folder).exists():
        raise Damaged(
            f"{store_of(folder)} is empty, and {begun_of(folder)} says that it held a chain",
            mend="restore a snapshot or import the chain; to begin anew, remove that file and the"
            " key beside it",
        )
