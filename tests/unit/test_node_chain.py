"""Blocks, states and proofs on disk, without a runtime: what is read back is what was written."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

import phala.node.chain as chains
import phala.node.store as stores
from phala.codec import Malformed
from phala.crypto.hashes import blake2_256
from phala.errors import PhalaError
from phala.node.blobs import decode_changes, decode_list, encode_changes, encode_list
from phala.node.chain import Chain, Pruned, UnknownBlock
from phala.node.halves import ACCOUNTS, HalfGone, OtherHalf
from phala.node.store import Damaged, OtherChain, OtherFormat, Store
from phala.primitives.header import Header
from phala.primitives.types import BlockNumber, Hash
from phala.trie import EMPTY_ROOT, DictBase, Layout, Trie, read_proof
from phala.trie.branch import Opening

T = TypeVar("T")
START = {b"account/%02d" % each: b"balance" * each for each in range(1, 20)}
WINDOW = 6


@pytest.fixture(autouse=True)
def _short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "WINDOW_BLOCKS", WINDOW)


def header_of(parent: Hash, number: int, root: Hash) -> Header:
    return Header(parent, BlockNumber(number), root, EMPTY_ROOT, ())


def created(folder: Path, state: dict[bytes, bytes]) -> Store:
    store = Store(folder)
    items = sorted(state.items())
    try:
        store.create(header_of(Hash(bytes(32)), 0, Trie.build(items, Layout.V1).root), items)
    except PhalaError:
        store.close()
        raise
    return store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = created(tmp_path / "db", START)
    yield made
    made.close()


class Written:
    """A chain, and beside it what every block's state must be."""

    def __init__(self, store: Store, seed: int, *, archive: bool = False) -> None:
        self.chain = Chain(store, archive=archive)
        self.states = [dict(START)]
        self.random = random.Random(seed)

    def block(self, *, finalize: bool = True) -> None:
        now = self.states[-1]
        changes: dict[bytes, bytes | None] = {}
        for _ in range(self.random.randint(1, 8)):
            key = b"account/%02d" % self.random.randint(1, 40)
            changes[key] = None if self.random.random() < 0.4 else self.random.randbytes(40)
        changes = {key: changes[key] for key in sorted(changes) if changes[key] != now.get(key)}
        then = {key: value for key, value in (now | changes).items() if value is not None}
        self.write(tuple(changes.items()), then)
        number = BlockNumber(self.chain.head.number - 1)
        if finalize and number > self.chain.finalized:
            self.chain.finalize(number, b"justification %d" % number)

    def write(
        self, changes: tuple[tuple[bytes, bytes | None], ...], then: dict[bytes, bytes]
    ) -> None:
        chain, number = self.chain, self.chain.head.number + 1
        header = header_of(chain.head.hash(), number, chain.root_with(changes))
        messages = ((b"topic", number - 1, b"envelope %d" % number),)
        chain.append(header, (b"extrinsic %d" % number,), changes, messages)
        self.states.append(then)


def check(chain: Chain, states: list[dict[bytes, bytes]]) -> None:
    """Every state that can be read is the one that was written."""
    assert chain.head.number == len(states) - 1
    for number in range(chain.oldest, len(states)):
        view, state = chain.state_at(BlockNumber(number)), states[number]
        found = {key: view.get(key) for key in view.keys(b"")}
        assert found == state
        assert list(found) == sorted(state)
        middle = b"account/15"
        assert list(view.keys(b"account/", middle)) == [k for k in sorted(state) if k >= middle]
        assert (
            list(view.keys(b"account/1"))
            == [k for k in sorted(state) if k < b"account/2"][
                -len(list(view.keys(b"account/1"))) or len(state) :
            ]
        )
        assert (
            chain.header(BlockNumber(number)).state_root
            == Trie.build(sorted(state.items()), Layout.V1).root
        )


@pytest.mark.parametrize("archive", [False, True])
def test_every_kept_state_reads_as_it_was_also_after_a_restart(
    tmp_path: Path, *, archive: bool
) -> None:
    store = created(tmp_path / "db", START)
    written = Written(store, seed=1, archive=archive)
    for _ in range(40):
        written.block()
    check(written.chain, written.states)
    assert written.chain.oldest == (0 if archive else 40 - WINDOW)
    store.close()

    again = Store(tmp_path / "db")
    chain = Chain(again, archive=archive)
    check(chain, written.states)
    assert chain.finalized == 39
    assert again.justification(BlockNumber(39)) == b"justification 39"
    again.close()


def test_proofs_are_made_at_every_block_of_the_window(store: Store) -> None:
    written = Written(store, seed=2)
    for _ in range(20):
        written.block()
    keys = [b"account/%02d" % each for each in range(1, 41)]

    for number in range(20 - WINDOW, 21):
        at = BlockNumber(number)
        proof = written.chain.prove(keys, at)
        found = read_proof(written.chain.header(at).state_root, proof, keys)
        assert found == {key: written.states[number].get(key) for key in keys}
    with pytest.raises(Pruned, match="the oldest kept is 14"):
        written.chain.prove(keys, BlockNumber(3))


def test_proofs_of_the_blocks_before_a_restart_are_the_same(store: Store) -> None:
    written = Written(store, seed=8)
    for _ in range(20):
        written.block()
    keys = [b"account/%02d" % each for each in range(1, 41)]
    numbers = [BlockNumber(each) for each in (18, 20, 14, 16, 19)]
    before = [written.chain.prove(keys, each) for each in numbers]

    again = written.chain = Chain(store)

    assert [again.prove(keys, each) for each in numbers] == before
    with pytest.raises(Pruned, match="the oldest kept is 14"):
        again.prove(keys, BlockNumber(13))
    written.block()  # which folds one whose trie was made late
    assert again.prove(keys, numbers[3]) == before[3]


def test_a_chain_goes_on_from_a_restart_before_any_proof_was_asked_for(store: Store) -> None:
    written = Written(store, seed=9)
    for _ in range(20):
        written.block()
    written.chain = Chain(store)
    for _ in range(2 * WINDOW):
        written.block()

    check(written.chain, written.states)


def account(number: int) -> bytes:
    who = number.to_bytes(32, "little")
    return ACCOUNTS + blake2_256(who)[:16] + who


def large(folder: Path) -> Store:
    return created(folder, START | {account(each): b"%d" % each * 20 for each in range(500)})


def test_two_processes_build_the_trie_that_one_builds(tmp_path: Path) -> None:
    half = OtherHalf.start(tmp_path / "db")
    store = large(tmp_path / "db")
    asked = [account(each) for each in range(500)] + [*START, b"zzz"]
    with half_used(half) as taken:
        chain = Chain(store, half=half)

    assert taken == [True]
    assert chain.prove(asked, BlockNumber(0)) == Chain(store).prove(asked, BlockNumber(0))
    store.close()


def test_where_the_other_process_is_gone_one_builds_the_trie(tmp_path: Path) -> None:
    half = OtherHalf.start(tmp_path / "db")
    os.kill(half.pid, signal.SIGKILL)
    store = large(tmp_path / "db")
    with half_used(half) as taken:
        chain = Chain(store, half=half)

    assert taken == [False]
    assert chain.trie_at(BlockNumber(0)).root == chain.head.state_root
    store.close()


def test_a_state_of_few_accounts_needs_no_other_process(tmp_path: Path) -> None:
    store = created(tmp_path / "db", START)
    half = OtherHalf.start(tmp_path / "db")
    with half_used(half) as taken:
        chain = Chain(store, half=half)

    assert taken == []
    assert chain.trie_at(BlockNumber(0)).root == chain.head.state_root
    store.close()


@contextmanager
def half_used(half: OtherHalf) -> Iterator[list[bool]]:
    """Whether each attempt to take its part succeeded."""
    taken: list[bool] = []
    take, begin = half.take, half.begin

    def noted(call: Callable[[], T]) -> T:
        try:
            return call()
        except HalfGone:
            taken.append(False)
            raise

    def noted_take() -> Opening:
        found = noted(take)
        taken.append(True)
        return found

    half.take, half.begin = noted_take, lambda: noted(begin)  # type: ignore[method-assign]
    try:
        yield taken
    finally:
        half.close()


def test_a_pruned_state_is_refused_and_its_block_is_not(store: Store) -> None:
    written = Written(store, seed=3)
    for _ in range(20):
        written.block()
    block = written.chain.header(BlockNumber(3))

    with pytest.raises(Pruned, match="--pruning archive"):
        written.chain.state_at(BlockNumber(3))
    assert written.chain.number_of(block.hash()) == 3
    assert store.body(BlockNumber(3)) == (b"extrinsic 3",)


def test_nothing_is_folded_before_it_is_final(store: Store) -> None:
    written = Written(store, seed=4)
    for _ in range(20):
        written.block(finalize=False)
    assert written.chain.oldest == 0
    check(written.chain, written.states)

    written.chain.finalize(BlockNumber(20), b"all of them")
    for _ in range(20):
        written.block()
    assert written.chain.oldest == 40 - WINDOW  # it caught up, some blocks at a time
    check(written.chain, written.states)


def test_an_archive_says_from_where_on_it_is_one(tmp_path: Path) -> None:
    store = created(tmp_path / "db", START)
    written = Written(store, seed=5)
    for _ in range(12):
        written.block()
    written.chain = Chain(store, archive=True)
    for _ in range(12):
        written.block()

    assert written.chain.oldest == 12 - WINDOW
    check(written.chain, written.states)
    store.close()


def test_messages_are_given_in_order_and_without_a_gap(store: Store) -> None:
    written = Written(store, seed=6)
    for _ in range(10):
        written.block()

    assert store.messages(b"topic", 7, 100) == tuple(b"envelope %d" % n for n in (8, 9, 10))
    assert store.messages(b"topic", 2, 2) == (b"envelope 3", b"envelope 4")
    assert store.messages(b"topic", 2, 5, bytes_max=25) == (b"envelope 3", b"envelope 4")
    assert store.messages(b"topic", 2, 5, bytes_max=1) == (b"envelope 3",)
    assert store.messages(b"topic", 10, 100) == ()
    assert store.messages(b"other", 0, 100) == ()
    assert store.messages(b"topic", (1 << 64) - 1, 100) == ()


def test_keys_that_no_state_can_hold_hold_nothing(store: Store) -> None:
    view = Chain(store).state_at(BlockNumber(0))

    for key in (b"", b"k" * 512, b"account/" + b"k" * 9_000):
        assert view.get(key) is None
    assert list(view.keys(b"k" * 600)) == []
    assert list(view.keys(b"account/", b"z" * 600)) == []


def test_an_unknown_block_is_refused(store: Store) -> None:
    with pytest.raises(UnknownBlock):
        Chain(store).number_of(Hash(blake2_256(b"no block")))


def test_another_chains_folder_is_refused(tmp_path: Path) -> None:
    created(tmp_path / "db", START).close()

    with pytest.raises(OtherChain, match="the spec is of"):
        created(tmp_path / "db", START | {b"one": b"more"})


def test_another_formats_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "STORE_VERSION", b"0")
    created(tmp_path / "db", START).close()
    monkeypatch.undo()

    with pytest.raises(OtherFormat, match="this release reads"):
        created(tmp_path / "db", START)


def test_many_changes_make_the_window_shorter_but_not_under_its_least(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains, "WINDOW_KEYS_MAX", 1)
    monkeypatch.setattr(chains, "WINDOW_BLOCKS_MIN", 3)
    written = Written(store, seed=7)
    for _ in range(20):
        written.block()

    assert written.chain.oldest == 20 - 3
    check(written.chain, written.states)


def test_a_folder_serves_one_node_at_a_time(tmp_path: Path) -> None:
    first = created(tmp_path / "db", START)

    with pytest.raises(PhalaError, match="another node uses"):
        Store(tmp_path / "db")
    first.close()
    Store(tmp_path / "db").close()


def test_a_state_that_does_not_fit_its_root_is_not_served(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    wrong = header_of(Hash(bytes(32)), 0, Trie.build(sorted(START.items()), Layout.V1).root)
    store.create(wrong, sorted((START | {b"account/01": b"more"}).items()))

    with pytest.raises(Damaged, match="import the chain again"):
        Chain(store)
    store.close()


def test_a_root_is_the_same_with_the_whole_state_and_with_changes_alone(store: Store) -> None:
    chain = Chain(store)
    changes = ((b"account/01", None), (b"new", b"value"))

    root = chain.root_with(changes)

    expected = {key: value for key, value in START.items() if key != b"account/01"}
    whole = sorted((expected | {b"new": b"value"}).items())
    assert root == Trie.build(whole, Layout.V1).root
    assert (
        root == Trie.build(sorted(START.items()), Layout.V1).update(changes, DictBase(START)).root
    )


def test_blobs_round_trip() -> None:
    changes = ((b"", b""), (b"a", None), (b"b" * 300, b"c" * 70_000))

    assert decode_changes(encode_changes(changes)) == changes
    assert decode_list(encode_list([b"", b"a", b"b" * 70_000])) == (b"", b"a", b"b" * 70_000)
    with pytest.raises(Malformed, match="inside an item"):
        decode_changes(encode_changes(changes)[:-1])
