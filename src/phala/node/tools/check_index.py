"""`phala node check`, its part about the index for people: what it says is what the bodies say."""

from pathlib import Path

from phala.crypto.hashes import blake2_256
from phala.errors import Invalid
from phala.node.index import INDEX_FOLDER, NEWEST, OUTSIDE, Index
from phala.node.indexer import signer_of
from phala.node.store import Store
from phala.node.tools.check import Progress, quiet
from phala.primitives.types import BlockNumber, Hash


class BadIndex(Invalid):
    """The index says other than the chain. It is made of the chain, so nothing is lost."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the index: {what}", mend=f"remove the folder {INDEX_FOLDER}; the node makes it anew"
        )


def check_index(store: Store, folder: Path, progress: Progress = quiet) -> int:
    """How many extrinsics it finds, all of them rightly; 0 where there is no index yet.

    Raises:
        BadIndex: it does not.
    """
    place = folder / INDEX_FOLDER
    if not (place / "data.mdb").exists():
        return 0
    index = Index(place, reader=True)
    try:
        mark, genesis = index.mark(), store.genesis_hash
        if mark is None or genesis is None or not index.is_of(genesis):
            return 0  # nothing in it, or of what stood here before: the node begins it anew
        header = store.header(mark.number)
        if header is None or header.hash() != mark.hash or mark.number > store.finalized:
            raise BadIndex(f"it ends with block {mark.number}, which is no final one of this chain")
        hashes: dict[Hash, None] = {}
        for number in range(mark.first, mark.number + 1):
            for at, data in enumerate(store.body(BlockNumber(number))):
                hashes[_check_place(index, number, at, data)] = None
            progress("index", number - mark.first + 1, mark.number - mark.first + 1)
        entries, _ = index.sizes()["extrinsics"]
        if entries != len(hashes):
            raise BadIndex(f"it has {entries} extrinsics, the chain {len(hashes)}")
        return entries
    finally:
        index.close()


def _check_place(index: Index, number: int, at: int, data: bytes) -> Hash:
    found = Hash(blake2_256(data))
    place = index.place(found)
    if place is None or (place.number, place.index) != (number, at):
        raise BadIndex(f"extrinsic {at} of block {number} is not where it says")
    signer = signer_of(data)
    if signer is not None:
        tail = (NEWEST - number) << 32 | OUTSIDE - at
        parts = index.parts(signer, (tail - 1).to_bytes(12, "big"), 1)
        if not parts or (parts[0].number, parts[0].index, parts[0].signer) != (number, at, True):
            raise BadIndex(f"extrinsic {at} of block {number} is not among its signer's")
    return found
