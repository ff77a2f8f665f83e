"""Opens a node's folder: the chain with its trie, and the key that finalizes."""

from dataclasses import dataclass
from pathlib import Path

from phala.crypto.signatures import Keypair
from phala.finality import Authority
from phala.node.chain import Chain, View
from phala.node.engines.author import ensure_authority
from phala.node.keys import load_grandpa_keys
from phala.node.runtimes.table import Runtimes
from phala.node.spec import ensure_begun, load_chain_spec
from phala.node.store import Store
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


def runtimes_of(folder: Path) -> Runtimes:
    """This release, and those whose archives lie beside the store."""
    return Runtimes(Runtime(), folder / "runtimes")


def authorities_of(chain: View) -> tuple[Authority, ...]:
    """Who finalizes the block after the head."""
    return authorities_after(chain, chain.head.number).authorities


def open_chain(folder: Path, spec: Path, runtimes: Runtimes, *, archive: bool) -> Opened:
    """The chain of a folder, made at the first start.

    Raises:
        OtherRelease: its next block is made by a release that is not there.
    """
    found = load_chain_spec(spec)
    keys = load_grandpa_keys(folder)
    store = Store(store_of(folder))
    try:
        ensure_begun(store, found, runtimes.own)
        chain = Chain(store, archive=archive)
        ensure_authority(keys, authorities_of(chain))
        runtimes.at(chain, chain.head.number)
    except BaseException:
        store.close()
        raise
    return Opened(chain, keys, found.name, found.chain_type)
