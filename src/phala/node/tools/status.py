"""`phala node status`: what a node's folder holds, also while the node runs."""

from pathlib import Path
from typing import Any

from phala.node.store import Store, is_in_use


def status_of(store: Store, folder: Path) -> dict[str, Any]:
    """What the store of a node's folder holds: a chain."""
    place = folder / "db"
    genesis, head, finalized = store.genesis_hash, store.head(), store.header(store.finalized)
    assert genesis is not None
    assert finalized is not None
    sizes = store.sizes()
    return {
        "genesis": "0x" + genesis.hex(),
        "running": is_in_use(place),
        "head": head.number,
        "headHash": "0x" + head.hash().hex(),
        "finalized": finalized.number,
        "finalizedHash": "0x" + finalized.hash().hex(),
        "firstBlock": store.base,
        "oldestState": store.oldest,
        "pruning": pruning_of(store),
        "peers": 0,
        "keys": sizes["flat"][0],
        "bytes": (place / "data.mdb").stat().st_size,
        "tables": {
            name: {"entries": entries, "bytes": size} for name, (entries, size) in sizes.items()
        },
    }


def pruning_of(store: Store) -> str:
    """How older states are kept, as far as the disk shows it."""
    if store.folded == store.base:
        return "nothing pruned yet"
    return "archive" if store.oldest < store.folded else "states of recent blocks"
