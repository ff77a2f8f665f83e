"""The trie: published roots, an oracle written from the specification, proofs at every version."""

import json
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from phala.codec import Compact, UInt
from phala.enclave.store import ContractState
from phala.trie import (
    EMPTY_ROOT,
    BadProof,
    DictBase,
    Layout,
    Trie,
    ordered_root,
    read_proof,
    root_of,
)
from phala.trie.branch import build_part
from phala.trie.parts import decode_part, encode_part

HERE = Path(__file__).parents[2]
COMMITTED = HERE / "vectors" / "substrate"
COMPACT: Compact[int] = Compact(UInt(32))


def vectors() -> Path:
    """The folder of large vectors; a lone clone has none, a set PHALA_VECTORS must hold them."""
    named = os.environ.get("PHALA_VECTORS")
    folder = Path(named or HERE.parent / "shared" / "vectors") / "substrate" / "genesis"
    if not named and not folder.exists():
        pytest.skip("PHALA_VECTORS is not set, and ../shared/vectors is absent")
    return folder


# ---- an oracle: recursive, from the specification, knowing nothing of branches kept or patched


def oracle_root(items: dict[bytes, bytes], layout: Layout) -> bytes:
    if not items:
        return blake2b(b"\0", digest_size=32).digest()
    nibbles = {tuple(n for byte in key for n in (byte >> 4, byte & 15)): value
               for key, value in items.items()}  # fmt: skip
    return blake2b(oracle_node(nibbles, layout), digest_size=32).digest()


def oracle_node(items: dict[tuple[int, ...], bytes], layout: Layout) -> bytes:
    paths = list(items)
    first, last = min(paths), max(paths)
    size = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    common = first[: min(len(first), len(last)) if size is None else size]
    below: dict[int, dict[tuple[int, ...], bytes]] = {}
    for path, value in items.items():
        if len(path) > len(common):
            below.setdefault(path[len(common)], {})[path[len(common) + 1 :]] = value
    value_here = items.get(tuple(common))
    part, hashed = b"", False
    if value_here is not None:
        hashed = layout is Layout.V1 and len(value_here) > 32
        part = (
            blake2b(value_here, digest_size=32).digest()
            if hashed
            else COMPACT.encode(len(value_here)) + value_here
        )
    if not below:
        front, bits = (0b001 << 5, 5) if hashed else (0b01 << 6, 6)
    elif value_here is None:
        front, bits = 0b10 << 6, 6
    else:
        front, bits = (0b0001 << 4, 4) if hashed else (0b11 << 6, 6)
    out = oracle_header(front, bits, len(common)) + oracle_path(list(common))
    if below:
        out += sum(1 << nibble for nibble in below).to_bytes(2, "little")
    out += part
    for nibble in sorted(below):
        node = oracle_node(below[nibble], layout)
        named = node if len(node) < 32 else blake2b(node, digest_size=32).digest()
        out += COMPACT.encode(len(named)) + named
    return out


def oracle_header(front: int, bits: int, size: int) -> bytes:
    most = 2**bits - 1
    if size < most:
        return bytes([front + size])
    rest = size - most
    return bytes([front + most, *[255] * (rest // 255), rest % 255])


def oracle_path(nibbles: list[int]) -> bytes:
    if len(nibbles) % 2:
        nibbles = [0, *nibbles]
    return bytes(nibbles[i] * 16 + nibbles[i + 1] for i in range(0, len(nibbles), 2))


KEYS = st.one_of(
    st.lists(st.sampled_from([0, 1, 16, 17, 255]), max_size=4).map(bytes),
    st.binary(min_size=1, max_size=2).map(lambda tail: b"\x26\xaa" * 8 + tail),
    st.binary(max_size=40),
)
VALUES = st.sampled_from([0, 1, 4, 20, 31, 32, 33, 40, 80]).flatmap(
    lambda size: st.binary(min_size=size, max_size=size)
)


class TrieAgainstOracle(RuleBasedStateMachine):
    @initialize(layout=st.sampled_from(Layout))
    def start(self, layout: Layout) -> None:
        self.layout = layout
        self.items: dict[bytes, bytes] = {}
        self.trie = Trie.empty(layout)
        self.versions = [(self.trie, dict(self.items))]

    @rule(changes=st.dictionaries(KEYS, st.one_of(st.none(), VALUES), max_size=8), data=st.data())
    def change(self, changes: dict[bytes, bytes | None], data: st.DataObject) -> None:
        if self.items:  # and some that exist
            for key in data.draw(st.lists(st.sampled_from(sorted(self.items)), max_size=4)):
                changes[key] = data.draw(st.one_of(st.none(), VALUES))
        self.trie = self.trie.update(sorted(changes.items()), DictBase(dict(self.items)))
        for key, value in changes.items():
            if value is None:
                self.items.pop(key, None)
            else:
                self.items[key] = value
        self.versions.append((self.trie, dict(self.items)))

    @rule(keys=st.lists(KEYS, max_size=3), data=st.data())
    def prove_at_any_version(self, keys: list[bytes], data: st.DataObject) -> None:
        trie, items = data.draw(st.sampled_from(self.versions))
        if items:
            keys = [*keys, *data.draw(st.lists(st.sampled_from(sorted(items)), max_size=3))]
        nodes = trie.prove(keys, DictBase(items))

        assert read_proof(trie.root, nodes, keys) == {key: items.get(key) for key in keys}

    @invariant()
    def the_root_is_the_oracles(self) -> None:
        if hasattr(self, "items"):
            assert self.trie.root == oracle_root(self.items, self.layout)


TestTrie = TrieAgainstOracle.TestCase


@given(st.dictionaries(KEYS, VALUES, max_size=30), st.sampled_from(Layout))
def test_a_trie_built_at_once_has_the_oracles_root(
    items: dict[bytes, bytes], layout: Layout
) -> None:
    assert root_of(list(items.items()), layout) == oracle_root(items, layout)


TAILS = st.lists(st.integers(0, 255), max_size=3).map(bytes)


@given(
    around=st.dictionaries(KEYS, VALUES, max_size=12),
    below=st.dictionaries(TAILS, VALUES, max_size=30),
    front=st.sampled_from([b"", b"\x26", b"\x26\xaa" * 8]),
    nibble=st.integers(1, 15),
    layout=st.sampled_from(Layout),
)
def test_a_trie_of_which_another_makes_a_part_is_the_same(
    around: dict[bytes, bytes],
    below: dict[bytes, bytes],
    front: bytes,
    nibble: int,
    layout: Layout,
) -> None:
    middle, depth = front + bytes((nibble << 4,)), 2 * len(front)
    items = dict(sorted((around | {front + tail: value for tail, value in below.items()}).items()))
    inside = [each for each in items.items() if each[0].startswith(front) and each[0] >= middle]
    before = [each for each in items.items() if each[0] < middle]
    after = [each for each in items.items() if each[0] >= middle and each not in inside]
    part = build_part(iter(inside), layout, depth)
    if part is None or not any(key.startswith(front) for key, _ in before):
        return  # nobody would ask for it

    made = Trie.build_around(
        iter(before), lambda: decode_part(encode_part(part)), iter(after), layout, depth
    )

    whole, base = Trie.build(items.items(), layout), DictBase(items)
    assert made.root == whole.root
    assert made.prove(list(items), base) == whole.prove(list(items), base)
    changes = [(key, b"changed") for key in items]
    assert made.update(changes, base).root == whole.update(changes, base).root


def test_the_empty_trie() -> None:
    assert {Trie.empty(Layout.V1).root, root_of([], Layout.V0), ordered_root([])} == {EMPTY_ROOT}
    assert read_proof(EMPTY_ROOT, (), [b"k"]) == {b"k": None}


@pytest.mark.parametrize("size", [30, 31, 32, 62, 63, 64, 80, 159, 160, 161, 400])
def test_long_paths_have_long_headers(size: int) -> None:
    items = {bytes(size): b"v" * 40, bytes(size - 1) + b"\1": b"w"}

    for layout in Layout:
        assert root_of(list(items.items()), layout) == oracle_root(items, layout)


@pytest.mark.parametrize(
    ("name", "layout", "root"),
    [
        ("polkadot_coretime", Layout.V1,
         "6e2af5f681a0f432c7aaf564dbebe4ddade85822605d510ccb78f1d90710947a"),
        ("node-template", Layout.V0,
         "28a2db05aaa4e84e88c6be28ca49d45b0433f8abee421b092dfa0f4dd85787a6"),
    ],
)  # fmt: skip
def test_published_genesis_roots(name: str, layout: Layout, root: str) -> None:
    document: Any = json.loads((vectors() / f"{name}.json").read_text())
    for inner in ("genesis", "raw", "top"):
        document = document.get(inner, document)
    items = [
        (bytes.fromhex(key.removeprefix("0x")), bytes.fromhex(value.removeprefix("0x")))
        for key, value in document.items()
    ]

    assert root_of(items, layout).hex() == root


@pytest.mark.parametrize(
    "path", sorted((COMMITTED / "blocks").glob("*.json")), ids=lambda p: p.stem
)
def test_real_extrinsics_roots(path: Path) -> None:
    document = json.loads(path.read_text())
    header = bytes.fromhex(found(document, "header").removeprefix("0x"))
    body = [
        bytes.fromhex(each.removeprefix("0x")) for each in found(document, "body", "extrinsics")
    ]

    assert bytes(ordered_root(body)) in header


def found(document: Any, *names: str) -> Any:
    """The value of one of the names, wherever it stands in a document."""
    if isinstance(document, dict):
        for name in names:
            if name in document:
                return document[name]
        document = list(document.values())
    if isinstance(document, list):
        for inner in document:
            try:
                return found(inner, *names)
            except KeyError:
                continue
    raise KeyError(names)


STATE = {bytes([n, n, n]): bytes([n]) * (20 + n) for n in range(30)}


def proof() -> tuple[Trie, tuple[bytes, ...], list[bytes]]:
    trie = Trie.build(sorted(STATE.items()), Layout.V1)
    keys = [bytes([3, 3, 3]), bytes([20, 20, 20]), bytes([9, 9, 8])]
    return trie, trie.prove(keys, DictBase(STATE)), keys


def test_without_any_one_node_a_proof_is_refused() -> None:
    trie, nodes, keys = proof()

    assert len(nodes) > 3
    for index in range(len(nodes)):
        with pytest.raises(BadProof, match="nothing with the hash"):
            read_proof(trie.root, nodes[:index] + nodes[index + 1 :], keys)


def test_any_altered_byte_of_a_proof_is_refused() -> None:
    trie, nodes, keys = proof()

    for index, node in enumerate(nodes):
        for at in range(len(node)):
            altered = node[:at] + bytes([node[at] ^ 1]) + node[at + 1 :]
            with pytest.raises(BadProof):
                read_proof(trie.root, (*nodes[:index], altered, *nodes[index + 1 :]), keys)


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=3))
def test_garbage_as_proof_is_refused_and_nothing_else(nodes: list[bytes]) -> None:
    for node in nodes:
        root = blake2b(node, digest_size=32).digest()
        try:
            read_proof(root, nodes, [b"\1\2"])  # type: ignore[arg-type]
        except BadProof:
            continue


def test_what_is_in_a_proof_stands_in_its_place_only() -> None:
    trie, nodes, _ = proof()
    other = Trie.build([(b"k", b"v" * 40)], Layout.V1)

    with pytest.raises(BadProof):
        read_proof(other.root, nodes, [b"k"])
    assert trie.root != other.root


def test_a_dictionary_as_base_gives_keys_in_order() -> None:
    base = DictBase({b"b": b"", b"ab": b"", b"a": b""})
    keys: Iterator[bytes] = base.keys(b"a")

    assert list(keys) == [b"a", b"ab"]


def test_a_batch_that_leaves_one_leaf_in_each_of_many_branches_costs_what_it_deletes() -> None:
    state, left = ContractState(), ContractState()
    state.apply({at.to_bytes(4, "big"): b"x" for at in range(60_000)})
    left.apply({at.to_bytes(4, "big"): b"x" for at in range(0, 60_000, 16)})
    state.rebuild()
    left.rebuild()

    gone = dict.fromkeys(state.values.keys() - left.values.keys())
    assert state.proposed(gone).root == left.trie.root


class Counted:
    """A base that knows how many keys were walked over."""

    def __init__(self, items: dict[bytes, bytes]) -> None:
        self.items = items
        self.walked = 0

    def get(self, key: bytes, /) -> bytes | None:
        return self.items.get(key)

    def keys(self, prefix: bytes, /) -> Iterator[bytes]:
        for key in sorted(self.items):
            if key.startswith(prefix):
                self.walked += 1
                yield key


@pytest.mark.parametrize("neighbour", [b"\xa0", b"\x00"])
def test_a_leaf_beside_many_keys_is_found_without_walking_over_them(neighbour: bytes) -> None:
    """Of a branch below whole bytes the children differ by half a byte."""
    items = {b"pallet\x50" + number.to_bytes(2, "big"): b"account" for number in range(5_000)}
    items[b"pallet" + neighbour + b"one"] = b"1"
    base = Counted(dict(items))
    trie = Trie.build(sorted(items.items()), Layout.V1)
    added, gone = b"pallet" + neighbour + b"two", b"pallet" + neighbour + b"one"

    grown = trie.update(((added, b"2"),), base)
    proof = grown.prove([added], Counted(items | {added: b"2"}))
    shrunk = grown.update(((gone, None),), Counted(items | {added: b"2"}))

    assert read_proof(grown.root, proof, [added]) == {added: b"2"}
    del items[gone]
    assert shrunk.root == root_of([*items.items(), (added, b"2")], Layout.V1)
    assert base.walked < 100
