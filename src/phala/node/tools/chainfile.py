"""`phala node export` and `import`: blocks with their justifications, in a file.

Whoever imports executes each block again, so a file needs no trust: what does not come to the
roots and authorities that it says is refused, and all before it stays.
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from phala.codec import Malformed
from phala.errors import Invalid, Refused
from phala.finality import decode_justification, verify_own
from phala.node.blobs import decode_list, encode_list
from phala.node.chain import Chain
from phala.node.runtimes.table import Runtimes
from phala.node.spec import ChainSpec, ensure_begun
from phala.node.store import OtherChain, Store
from phala.node.tools.check import Progress, quiet
from phala.node.tools.files import BadFile, magic, read, writing
from phala.node.writer import Writer, authorities_after
from phala.primitives.header import HEADER, Header
from phala.primitives.types import BlockNumber, Hash
from phala.runtime import CheckSignatures

MAGIC: Final = magic("blocks", 1)
INTRO, BLOCK = 1, 2  # kinds of records
HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Exported:
    first: int
    last: int
    finalized: int  # blocks with a justification


@dataclass(slots=True)
class Imported:
    """What became of a file's blocks."""

    head: int
    finalized: int
    executed: int = 0
    known: int = 0  # that the store had already


@dataclass(frozen=True, slots=True)
class FileBlock:
    header: Header
    justification: bytes | None
    body: tuple[bytes, ...]


def export_chain(
    store: Store,
    path: Path,
    *,
    first: int | None = None,
    last: int | None = None,
    progress: Progress = quiet,
) -> Exported:
    """Write blocks `first` to `last`: all that the store has, where neither is said.

    Raises:
        Invalid: there are no such blocks.
    """
    genesis = store.genesis_hash
    lowest, highest = store.base + 1, store.head().number
    start = lowest if first is None else first
    end = highest if last is None else last
    if genesis is None or not lowest <= start <= end <= highest:
        raise Invalid(
            f"blocks {start} to {end} of {lowest} to {highest}", mend="name blocks that are there"
        )
    justified = 0
    with writing(path, MAGIC) as records:
        records.put(INTRO, genesis + start.to_bytes(8, "little") + end.to_bytes(8, "little"))
        for number in range(start, end + 1):
            at = BlockNumber(number)
            header, proof = store.header(at), store.justification(at)
            assert header is not None
            justified += proof is not None
            records.put(BLOCK, encode_list((HEADER.encode(header), proof or b"", *store.body(at))))
            progress("blocks", number - start + 1, end - start + 1)
    return Exported(start, end, justified)


def import_chain(
    store: Store,
    path: Path,
    spec: ChainSpec,
    runtimes: Runtimes,
    *,
    archive: bool = False,
    progress: Progress = quiet,
    check_signatures: CheckSignatures | None = None,
) -> Imported:
    """Execute a file's blocks after the store's head. Whatever ends it, it goes on from there.

    Raises:
        BadFile: the file is damaged; the blocks before are kept.
        BlockRefused, BadJustification: a block is not what it says; likewise.
        OtherChain: the file is of another chain, or of another branch of it.
    """
    records = read(path, MAGIC)
    genesis, start, end = _intro(path, records)
    _ensure_same(store.genesis_hash or spec.genesis(runtimes.own).hash, genesis)
    ensure_begun(store, spec, runtimes.own)
    chain = Chain(store, archive=archive)
    gc.freeze()  # the trie stays: the collector need not walk it
    writer = Writer(chain, runtimes, check_signatures=check_signatures)
    done = Imported(chain.head.number, chain.finalized)
    for kind, payload in records:
        block = _block(path, kind, payload)
        number = block.header.number
        if number <= chain.head.number:
            _ensure_known(store, block.header)
            done.known += 1
        elif number > chain.head.number + 1:
            raise Refused(
                f"the file has block {number}, the store ends at {chain.head.number}",
                mend="import the blocks between them first",
            )
        _take(writer, block, done)
        progress("blocks", number - start + 1, end - start + 1)
    done.head, done.finalized = chain.head.number, chain.finalized
    return done


def _intro(path: Path, records: Iterator[tuple[int, bytes]]) -> tuple[Hash, int, int]:
    kind, payload = next(records, (0, b""))
    if kind != INTRO or len(payload) != HASH_BYTES + 16:
        raise BadFile(path, 0, "it does not say what it holds")
    numbers = payload[HASH_BYTES:]
    start, end = (int.from_bytes(each, "little") for each in (numbers[:8], numbers[8:]))
    return Hash(payload[:HASH_BYTES]), start, end


def _ensure_same(ours: Hash, theirs: Hash) -> None:
    if ours != theirs:
        raise OtherChain(
            f"the file is of the chain 0x{theirs.hex()}, the folder and spec of 0x{ours.hex()}",
            mend="give the file of that chain",
        )


def _block(path: Path, kind: int, payload: bytes) -> FileBlock:
    try:
        header, justification, *body = decode_list(payload)
        if kind == BLOCK:
            return FileBlock(HEADER.decode(header), justification or None, tuple(body))
    except (Malformed, ValueError) as error:
        raise BadFile(path, 0, f"a record is no block: {error}") from None
    raise BadFile(path, 0, f"a record of kind {kind}")


def _ensure_known(store: Store, header: Header) -> None:
    known = store.header(header.number)
    if known is not None and known.hash() != header.hash():
        raise OtherChain(
            f"block {header.number} of the file is 0x{header.hash().hex()}, "
            f"the store's is 0x{known.hash().hex()}",
            mend=f"phala node revert DIR {header.number - 1}, if that is not finalized",
        )


def _take(writer: Writer, block: FileBlock, done: Imported) -> None:
    chain, header, proof = writer.chain, block.header, block.justification
    if header.number > chain.head.number:
        writer.import_block(header, block.body, proof)
        done.executed += 1
    elif proof is not None and header.number > chain.finalized:
        before = authorities_after(chain, BlockNumber(header.number - 1))
        verify_own(decode_justification(proof), header, before)
        chain.finalize(header.number, proof)
