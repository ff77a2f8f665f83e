"""One's own node and authorities that change: under the right set id, or not at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clients import chain as clients

from phala.crypto.signatures import Keypair, ed25519_from_seed
from phala.errors import Invalid
from phala.finality import LightHead, advance, start
from phala.finality.light import AUTHORITIES_KEY
from phala.node.chain import Chain
from phala.node.keys import load_grandpa_key, load_grandpa_keys
from phala.node.runtimes.table import Runtimes
from phala.node.spec import ensure_begun, load_chain_spec
from phala.node.store import Store
from phala.node.writer import CannotFinalize, Writer
from phala.pallets.authorities import KeySet
from phala.primitives.header import HEADER
from phala.primitives.types import BlockNumber, Moment
from phala.runtime import BlockBuilder, Runtime

OTHER = ed25519_from_seed(b"o" * 32)


class Own:
    """A node's chain, written by hand."""

    def __init__(self, folder: Path) -> None:
        spec = clients.prepare(folder)
        self.runtime = Runtime()
        self.store = Store(folder / "db")
        ensure_begun(self.store, load_chain_spec(spec), self.runtime)
        self.chain = Chain(self.store)
        self.writer = Writer(self.chain, Runtimes(self.runtime))
        self.key = load_grandpa_key(folder / "grandpa.key")
        genesis = self.chain.header(BlockNumber(0))
        proof = self.chain.prove([AUTHORITIES_KEY], BlockNumber(0))
        self.head: LightHead = start(genesis.hash(), HEADER.encode(genesis), proof)

    def write(self, *keys: Keypair, bring: KeySet = ()) -> None:
        """One block, in which the chain itself may bring a set; then finalize it."""
        parent = self.chain.head
        self.writer.open(Moment(1_000_000 + 1_000 * parent.number))
        if bring:
            builder = self.writer._builder
            assert isinstance(builder, BlockBuilder)
            builder._world.authorities.scheduled.put(bring)
        self.writer.seal(*keys)
        number = self.chain.head.number
        justification = self.writer.finalize(number, *keys)
        self.head = advance(self.head, HEADER.encode(self.chain.head), justification)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    made = Own(tmp_path)
    yield made
    made.store.close()


def test_votes_are_signed_under_the_set_that_holds(own: Own) -> None:
    own.write(own.key)
    own.write(own.key, bring=((own.key.public, 5),))
    assert own.head.authorities.id == 1
    own.write(own.key)

    both = tuple(sorted(((own.key.public, 1), (OTHER.public, 1))))
    own.write(own.key, OTHER, bring=both)
    own.write(own.key, OTHER)
    own.write(own.key, OTHER, bring=((OTHER.public, 1),))
    own.write(OTHER)

    assert (own.head.number, own.head.authorities.id) == (7, 3)
    assert dict(own.head.authorities.weights()) == {OTHER.public: 1}


@pytest.mark.parametrize(
    "weights",
    [{OTHER.public: 1}, {OTHER.public: 1, None: 2}],
    ids=["none of ours", "too light"],
)
def test_a_set_that_the_node_cannot_sign_for_is_not_written(
    own: Own, weights: dict[bytes | None, int]
) -> None:
    own.write(own.key)
    bring = tuple(sorted((key or own.key.public, weight) for key, weight in weights.items()))

    with pytest.raises(CannotFinalize, match="after block 2 others finalize"):
        own.write(own.key, bring=bring)

    assert (own.chain.head.number, own.chain.finalized) == (1, 1)
    own.write(own.key)  # it goes on without
    own.write(own.key, OTHER, bring=bring)
    assert own.head.authorities.id == 1


def test_a_folder_may_hold_the_key_of_the_set_to_come(tmp_path: Path) -> None:
    (tmp_path / "grandpa.key").write_text("11" * 32)
    assert len(load_grandpa_keys(tmp_path)) == 1
    (tmp_path / "grandpa.next.key").write_text("22" * 32)

    first, following = load_grandpa_keys(tmp_path)

    assert first.public == ed25519_from_seed(b"\x11" * 32).public
    assert following.public == ed25519_from_seed(b"\x22" * 32).public
    (tmp_path / "grandpa.next.key").write_text("none")
    with pytest.raises(Invalid):
        load_grandpa_keys(tmp_path)
