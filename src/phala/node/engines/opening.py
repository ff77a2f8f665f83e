"""Opens a node's folder: the chain with its trie, and the key that finalizes."""

from dataclasses import dataclass
from pathlib import Path

from phala.crypto.signatures import Keypair
from phala.finality import AUTHORITIES, AUTHORITIES_KEY
from phala.node.chain import Chain, View
from phala.node.engines.author import ensure_authority
from phala.node.keys import load_grandpa_key
from phala.node.spec import ensure_begun, load_chain_spec
from phala.node.store import Store
from phala.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Opened:
    chain: Chain
    key: Keypair
    name: str  # of the chain, for people
    chain_type: str


def store_of(folder: Path) -> Path:
    return folder / "db"


def authorities_of(chain: View) -> tuple[bytes, ...]:
    """The keys that finalize the block after the head."""
    known = chain.state_at(chain.head.number).get(AUTHORITIES_KEY)
    return tuple(each.key for each in AUTHORITIES.decode(known or b"\0"))


def open_chain(folder: Path, spec: Path, runtime: Runtime, *, archive: bool) -> Opened:
    """The chain of a folder, made at the first start."""
    found = load_chain_spec(spec)
    key = load_grandpa_key(folder / "grandpa.key")
    store = Store(store_of(folder))
    try:
        ensure_begun(store, found, runtime)
        chain = Chain(store, archive=archive)
        ensure_authority(key, authorities_of(chain))
    except BaseException:
        store.close()
        raise
    return Opened(chain, key, found.name, found.chain_type)
