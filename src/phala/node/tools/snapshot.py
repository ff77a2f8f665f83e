"""`phala node snapshot` and `restore`: the state of a finalized block, with proof that it is final.

    records: 1 genesis header and proof of the first authorities
             2 a block that changed the authorities: header, justification (any number, in order)
             3 the block: header, justification, body
             4 part of its state: keys and values, in order
             5 part of the messages' bodies: keys of the table, envelopes

Whoever restores gives a genesis hash; all else follows from it by signatures and roots.
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from phala.codec import Malformed
from phala.crypto.hashes import blake2_128
from phala.errors import Refused, Unavailable
from phala.finality import advance, scheduled_change, start
from phala.messages.bus import TOPIC, TOPIC_STATE
from phala.node.blobs import decode_changes, decode_list, encode_changes, encode_list
from phala.node.chain import View
from phala.node.store import KEY_BYTES_MAX, OtherChain, Store
from phala.node.tools.check import TOPIC_FRONT_BYTES, TOPICS, Progress, check, quiet
from phala.node.tools.files import BadFile, Records, magic, read, writing
from phala.primitives.header import HEADER, Header
from phala.primitives.types import BlockNumber, Hash

MAGIC: Final = magic("state", 1)
INTRO, CHANGE, BLOCK, STATE, MESSAGES = 1, 2, 3, 4, 5
PART_BYTES: Final = 1024 * 1024  # of state or messages in a record, and one item more

Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot holds."""

    number: int
    hash: Hash
    keys: int
    messages: int


def take_snapshot(
    store: Store, path: Path, *, at: int | None = None, progress: Progress = quiet
) -> Snapshot:
    """Write the state of a finalized block: the latest, where none is said.

    Raises:
        Refused: the block is not finalized by itself, or its state is pruned.
        Unavailable: the store is of a release that kept no proof of the first authorities.
    """
    view = View(store, archive=store.oldest < store.folded)
    number = BlockNumber(store.finalized if at is None else at)
    header = store.header(number)
    proof = store.justification(number)
    if header is None or proof is None or number > store.finalized:
        raise Refused(
            f"block {number} has no justification, {store.finalized} is finalized",
            mend="name a finalized block above genesis",
        )
    first = store.authorities_proof
    if not first:
        raise Unavailable(
            "the store keeps no proof of the first authorities",
            mend="import the chain into an empty folder, and take the snapshot there",
        )
    with writing(path, MAGIC) as records:
        records.put(INTRO, encode_list((HEADER.encode(view.header(BlockNumber(0))), *first)))
        for change in _changes(store, number):
            records.put(CHANGE, encode_list(change))
        records.put(BLOCK, encode_list((HEADER.encode(header), proof, *store.body(number))))
        keys = _put(records, STATE, _state(view, number), progress, "keys")
        messages = _put(records, MESSAGES, _messages(view, number), progress, "messages")
    return Snapshot(number, header.hash(), keys, messages)


def _changes(store: Store, before: int) -> Iterator[tuple[bytes, bytes]]:
    """The blocks that changed the authorities, each with its justification."""
    for key, data in store.entries("headers"):
        number = int.from_bytes(key, "big")
        if number >= before:
            return
        if number and scheduled_change(HEADER.decode(data)) is not None:
            proof = store.justification(BlockNumber(number))
            if proof is None:
                raise Unavailable(
                    f"block {number} changed the authorities and has no justification",
                    mend="take the snapshot from another node",
                )
            yield data, proof


def _state(view: View, number: BlockNumber) -> Iterator[tuple[bytes, bytes]]:
    state = view.state_at(number)
    for key in state.keys(b""):
        value = state.get(key)
        assert value is not None
        yield key, value


def _messages(view: View, number: BlockNumber) -> Iterator[tuple[bytes, bytes]]:
    """The entries of the table as of a block: later ones are left out."""
    state = view.state_at(number)
    for key in state.keys(TOPICS):
        front = blake2_128(TOPIC.decode(key[TOPIC_FRONT_BYTES:]))
        count = TOPIC_STATE.decode(state.get(key) or b"").count
        for entry, envelope in view.store.entries("messages", front):
            if entry[:16] != front or int.from_bytes(entry[16:], "big") >= count:
                break
            yield entry, envelope


def _put(
    records: Records, kind: int, pairs: Iterable[tuple[bytes, bytes]], progress: Progress, what: str
) -> int:
    """Write pairs in parts. Returns how many they were."""
    part: Pairs = []
    size = count = 0
    for pair in pairs:
        part.append(pair)
        count += 1
        size += len(pair[0]) + len(pair[1])
        if size >= PART_BYTES:
            records.put(kind, encode_changes(part))
            progress(what, count, count)
            part, size = [], 0
    if part:
        records.put(kind, encode_changes(part))
    return count


def restore_snapshot(
    path: Path, folder: Path, genesis: Hash, *, progress: Progress = quiet
) -> Snapshot:
    """Make a node's store of a snapshot. The folder has the whole of it at the end, or nothing.

    1. the genesis header has the hash that is given, and its state the first authorities;
    2. each change of authorities, and the block, is signed by those before it;
    3. body, state and messages have the roots and heads that the block says.

    Raises:
        BadFile, Invalid: one of them does not hold.
        Refused: the folder holds a chain already.
    """
    target, making = folder / "db", folder / "db.restored"
    if (target / "data.mdb").exists() and _holds_chain(target):
        raise Refused(f"{target} holds a chain", mend="give an empty folder")
    shutil.rmtree(making, ignore_errors=True)
    try:
        store = Store(making)
        try:
            found = _restore(path, store, genesis, progress)
        finally:
            store.close()
        shutil.rmtree(target, ignore_errors=True)
        making.rename(target)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return found


def _holds_chain(place: Path) -> bool:
    """An import that was refused at once leaves a store of nothing. Raises `Unavailable`: a node
    uses it."""
    store = Store(place)
    try:
        return store.genesis_hash is not None
    finally:
        store.close()


@dataclass(frozen=True, slots=True)
class Proven:
    """What the records before the state come to."""

    genesis: Header
    authorities_proof: tuple[bytes, ...]
    trail: tuple[tuple[Header, bytes], ...]  # blocks that changed the authorities
    block: Header
    justification: bytes
    body: tuple[bytes, ...]


def _restore(path: Path, store: Store, genesis: Hash, progress: Progress) -> Snapshot:
    records = read(path, MAGIC)
    try:
        proven = _prove(path, records, genesis)
        store.create(proven.genesis, (), authorities_proof=proven.authorities_proof)
        entries = _entries(path, records, progress)
        store.begin_at(proven.trail, proven.block, proven.body, proven.justification, entries)
    except (Malformed, ValueError) as error:
        raise BadFile(path, 0, f"no snapshot: {error}") from None
    report = check(store, progress)  # 3
    return Snapshot(proven.block.number, proven.block.hash(), report.keys, report.messages)


def _prove(path: Path, records: Iterator[tuple[int, bytes]], genesis: Hash) -> Proven:
    kind, payload = next(records, (0, b""))
    if kind != INTRO:
        raise BadFile(path, 0, "it does not say what it holds")
    first, *proof = decode_list(payload)
    _ensure_genesis(first, genesis)
    light = start(genesis, first, proof)  # 1
    trail: list[tuple[Header, bytes]] = []
    for kind, payload in records:
        data, justification, *body = decode_list(payload)
        light = advance(light, data, justification)  # 2
        header = HEADER.decode(data)
        if kind == CHANGE:
            trail.append((header, justification))
        elif kind == BLOCK:
            return Proven(
                HEADER.decode(first), tuple(proof), tuple(trail), header, justification, tuple(body)
            )
        else:
            break
    raise BadFile(path, 0, "it holds no block")


def _entries(
    path: Path, records: Iterator[tuple[int, bytes]], progress: Progress
) -> Iterator[tuple[str, bytes, bytes]]:
    tables = {STATE: "flat", MESSAGES: "messages"}
    count = 0
    for kind, payload in records:
        for key, value in decode_changes(payload):
            if kind not in tables or not 0 < len(key) <= KEY_BYTES_MAX or value is None:
                raise BadFile(path, 0, f"a record of kind {kind} that holds no entries")
            yield tables[kind], key, value
            count += 1
        progress("entries", count, count)


def _ensure_genesis(first: bytes, genesis: Hash) -> None:
    found = HEADER.decode(first).hash()
    if found != genesis:
        raise OtherChain(
            f"the snapshot is of the chain 0x{found.hex()}, not of 0x{genesis.hex()}",
            mend="give the snapshot of that chain",
        )
