"""`phala node check`: everything in a store against everything else in it.

Nothing is written; a node may run meanwhile, for what is read is one block's state of the disk.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import lmdb

from phala.codec import Malformed
from phala.crypto.hashes import blake2_128
from phala.errors import Invalid, PhalaError
from phala.finality import (
    AuthoritySet,
    SetId,
    decode_justification,
    scheduled_change,
    start,
    verify_own,
)
from phala.messages.bus import TOPIC, TOPIC_STATE, first_head, next_head
from phala.node.blobs import Changes
from phala.node.chain import StateView, View
from phala.node.store import Store
from phala.node.writer import authorities_after
from phala.primitives.header import HEADER, Header
from phala.primitives.keys import storage_prefix
from phala.primitives.types import BlockNumber, Hash
from phala.trie import Layout, Trie, ordered_root

TOPICS: Final = storage_prefix("PhalaMq", "Topics")
TOPIC_FRONT_BYTES: Final = 32 + 16  # of the item, and the key's hash

Progress: TypeAlias = Callable[[str, int, int], None]  # what, how many are done, of how many


class CheckFailed(Invalid):
    """Two parts of the store contradict each other."""

    def __init__(self, what: str) -> None:
        super().__init__(
            what, mend="restore a snapshot, or import the chain again into an empty folder"
        )


@dataclass(slots=True)
class Report:
    """What was checked, in numbers."""

    genesis: Hash
    head: int
    finalized: int
    base: int  # the first block above genesis that is kept whole
    oldest: int  # the first whose state can be read
    headers: int = 0
    extrinsics: int = 0
    justifications: int = 0
    unverified: int = 0  # justifications by authorities that the store does not name
    keys: int = 0
    roots: int = 0  # states whose root was computed and is the header's
    topics: int = 0
    messages: int = 0


def quiet(_what: str, _done: int, _of: int) -> None:
    """No word of progress."""


def check(store: Store, progress: Progress = quiet) -> Report:
    """Raises `CheckFailed`, `Damaged`: with what does not fit."""
    try:
        return _check(store, progress)
    except CheckFailed:
        raise
    except lmdb.Error as error:
        raise CheckFailed(f"the store's file: {error}") from None
    except (PhalaError, AssertionError) as error:
        raise CheckFailed(str(error)) from error


def _check(store: Store, progress: Progress) -> Report:
    genesis = store.genesis_hash
    if genesis is None:
        raise CheckFailed("the store holds no chain")
    head = store.head()
    report = Report(genesis, head.number, store.finalized, store.base, store.oldest)
    folded = store.folded
    order = (store.base, store.oldest, folded, store.finalized, head.number)
    if list(order) != sorted(order):
        raise CheckFailed(f"base, oldest, folded, finalized, head are {order}")
    last = _check_blocks(store, report, progress)
    view = View(store, archive=store.oldest < folded)
    _check_window(view, report, progress)
    if store.oldest < folded:
        _check_history(view, report, progress)
    _check_authorities(view, last)
    _check_messages(view, report, progress)
    return report


# ---- blocks


def _check_blocks(store: Store, report: Report, progress: Progress) -> AuthoritySet | None:
    """Headers, bodies, justifications, and the table of hashes. Returns who finalizes next."""
    genesis = store.header(BlockNumber(0))
    if genesis is None or genesis.hash() != report.genesis:
        raise CheckFailed("block 0 is not the one that the store is named by")
    authorities = _first_authorities(store, genesis)
    before: Header | None = None
    for key, data in store.entries("headers"):
        number, header = int.from_bytes(key, "big"), HEADER.decode(data)
        if header.number != number:
            raise CheckFailed(f"header {number} says that it is {header.number}")
        _check_place(store, report, before, header)
        proof = store.justification(BlockNumber(number))
        whole = number == 0 or number >= report.base
        if whole:
            body = store.body(BlockNumber(number))
            if ordered_root(body) != header.extrinsics_root:
                raise CheckFailed(f"body {number} has not the root that its header says")
            report.extrinsics += len(body)
        if proof is not None:
            _check_justification(report, proof, header, authorities)
        elif not whole or number == report.finalized > 0:
            raise CheckFailed(f"block {number} has no justification")
        change = scheduled_change(header)
        if change is not None and authorities is not None:
            authorities = AuthoritySet(SetId(authorities.id + 1), change)
        before = header
        report.headers += 1
        progress("blocks", number, report.head)
    for table in ("bodies", "hashes"):
        entries, _ = store.sizes()[table]
        if entries != report.headers:
            raise CheckFailed(f"{report.headers} headers, and {entries} entries of {table}")
    return authorities


def _first_authorities(store: Store, genesis: Header) -> AuthoritySet | None:
    """None where the store is of a release that kept no proof of them."""
    proof = store.authorities_proof
    if not proof:
        return None
    return start(genesis.hash(), HEADER.encode(genesis), proof).authorities


def _check_place(store: Store, report: Report, before: Header | None, header: Header) -> None:
    number = header.number
    if store.number_of(header.hash()) != number:
        raise CheckFailed(f"block {number} is not found by its hash")
    if number <= report.base:
        return
    if before is None or before.number != number - 1:
        raise CheckFailed(f"block {number - 1} is missing")
    if before.hash() != header.parent_hash:
        raise CheckFailed(f"block {number} does not follow block {number - 1}")


def _check_justification(
    report: Report, proof: bytes, header: Header, authorities: AuthoritySet | None
) -> None:
    if header.number > report.finalized:
        raise CheckFailed(f"block {header.number} is justified and not finalized")
    if authorities is None:
        report.unverified += 1
        return
    verify_own(decode_justification(proof), header, authorities)
    report.justifications += 1


def _check_authorities(view: View, last: AuthoritySet | None) -> None:
    """The set that the digests come to is the one that the head's state names."""
    if last is None:
        return
    named = authorities_after(view, view.head.number)
    if named != last:
        raise CheckFailed(f"the state names set {named.id} of authorities, the headers {last.id}")


# ---- state


def _check_window(view: View, report: Report, progress: Progress) -> None:
    """The flat table is the state of `folded`; each later block's changes come to its root, and
    its undo is what they replaced."""
    store, head = view.store, view.head.number
    items = list(store.flat_items())
    trie = Trie.build(items, Layout.V1)
    _ensure_root(view, view.folded, trie, report)
    for number in range(view.folded + 1, head + 1):
        at, before = BlockNumber(number), StateView(view, BlockNumber(number - 1))
        changes = store.changes(at)
        undo = tuple((key, before.get(key)) for key, _ in changes)
        if undo != store.undo(at):
            raise CheckFailed(f"the undo of block {number} is not what its changes replaced")
        trie = trie.update(changes, before)
        _ensure_root(view, number, trie, report)
        progress("states", number - view.folded, head - view.folded)
    report.keys = sum(1 for _ in view.keys(b"", head))
    for table in ("changes", "undos"):
        entries, _ = store.sizes()[table]
        if entries != head - view.folded:
            raise CheckFailed(f"{entries} {table} for the {head - view.folded} latest blocks")


def _check_history(view: View, report: Report, progress: Progress) -> None:
    """An archive's older states, from the flat table back."""
    store = view.store
    by_hash = {
        blake2_128(key): key for table in ("flat", "gone") for key, _ in store.entries(table)
    }
    replaced: dict[int, list[tuple[bytes, bytes | None]]] = defaultdict(list)
    for entry, value in store.entries("history"):
        key, number = by_hash.get(entry[:16]), int.from_bytes(entry[16:], "big")
        if key is None:
            raise CheckFailed(f"the history of block {number} names a key that never was")
        replaced[number].append((key, value[1:] if value[0] else None))
    trie = Trie.build(list(store.flat_items()), Layout.V1)
    for number in range(view.folded, view.oldest, -1):
        back: Changes = tuple(sorted(replaced[number]))
        trie = trie.update(back, StateView(view, BlockNumber(number)))
        _ensure_root(view, number - 1, trie, report)
        progress("older states", view.folded - number, view.folded - view.oldest)


def _ensure_root(view: View, number: int, trie: Trie, report: Report) -> None:
    says = view.header(BlockNumber(number)).state_root
    if trie.root != says:
        raise CheckFailed(
            f"the state of block {number} has the root 0x{trie.root.hex()}, "
            f"its header says 0x{says.hex()}"
        )
    report.roots += 1


# ---- messages


def _check_messages(view: View, report: Report, progress: Progress) -> None:
    """Each topic's bodies hash to the head that the state names, and there are no others."""
    state, store = view.state_at(view.head.number), view.store
    for key in state.keys(TOPICS):
        try:
            topic = TOPIC.decode(key[TOPIC_FRONT_BYTES:])
            known = TOPIC_STATE.decode(state.get(key) or b"")
        except Malformed as error:
            raise CheckFailed(f"a topic of the state: {error.what}") from None
        ensure_topic(store, report.genesis, topic, known.count, known.head)
        report.topics += 1
        report.messages += known.count
        progress("messages", report.messages, store.sizes()["messages"][0])
    entries, _ = store.sizes()["messages"]
    if entries != report.messages:
        raise CheckFailed(f"{entries} messages are kept, the topics have {report.messages}")


def ensure_topic(store: Store, genesis: Hash, topic: bytes, count: int, head: Hash) -> None:
    """Raises `CheckFailed` where bodies are missing or others than the chain wrote."""
    reached, done = first_head(genesis, topic), 0
    while done < count:
        found = store.messages(topic, done, count - done)
        if not found:
            raise CheckFailed(f"message {done} of topic {topic!r} is missing")
        for envelope in found:
            reached = next_head(reached, envelope)
        done += len(found)
    if reached != head:
        raise CheckFailed(f"the messages of topic {topic!r} are not those that the chain wrote")
