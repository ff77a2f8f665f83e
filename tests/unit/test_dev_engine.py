"""What a development network's author does on its owner's word, without sockets: a chain that went
back is the one that its store holds, snapshots end, time goes on."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.clients import chain as clients
from tests.unit.chain_store import signed, transfer

from phala.errors import Invalid, Refused
from phala.node.chain import Chain
from phala.node.engines import author, dev
from phala.node.engines.dev import Cheats
from phala.node.engines.solo import Solo
from phala.node.main import open_node
from phala.node.rpc.dev import writes
from phala.node.service import Happening, Node, Reverted, now
from phala.node.store import Store
from phala.primitives.types import PHA, BlockNumber

WORDS: dict[str, dict[str, Any]] = {
    "mine": {"do": "mine", "blocks": 1, "span_ms": None},
    "snapshot": {"do": "snapshot", "name": "s"},
    "release": {"do": "release", "name": "s"},
    "revert": {"do": "revert", "name": "s", "keep": False},
}


@pytest.fixture
def solo(tmp_path: Path) -> Iterator[Solo]:
    node, solo, _ = open_node(tmp_path, clients.prepare(tmp_path), archive=False)
    assert solo.cheats is not None
    yield solo
    node.chain.store.close()


def do(node: Node, word: str, **more: Any) -> dict[str, Any]:
    async def asked() -> dict[str, Any]:
        return await node.cheat({**WORDS[word], **more})

    return asyncio.run(asked())


def pay(node: Node, nonce: int, to: int) -> None:
    node.submit(signed(node.chain.genesis, "Alice", nonce, transfer(bytes([to]) * 32, PHA)))


def everything(chain: Chain) -> dict[int, dict[bytes, bytes | None]]:
    return {
        number: {
            key: chain.value(key, BlockNumber(number)) for key in chain.keys(b"", chain.head.number)
        }
        for number in range(chain.oldest, chain.head.number + 1)
    }


def test_a_chain_that_went_back_is_the_one_that_its_store_holds(solo: Solo, tmp_path: Path) -> None:
    node = solo.node
    heard: list[Happening] = []
    node.listen(heard.append)
    for nonce in range(4):
        pay(node, nonce, nonce + 1)
        do(node, "mine", blocks=2)
    do(node, "snapshot")
    for nonce in range(4, 9):
        pay(node, nonce, nonce + 1)
        do(node, "mine", blocks=1)
    pay(node, 9, 40)  # waits, and is gone

    done = do(node, "revert")

    assert done["gone"] == 5
    assert heard[-1] == Reverted(BlockNumber(done["number"]))
    assert len(node.pool) == 0
    assert isinstance(node.chain, Chain)
    before = everything(node.chain)
    kept = node.chain.finalized, node.chain.oldest, node.chain.window_keys
    node.chain.store.close()
    store = Store(tmp_path / "db")
    node.chain.store = store  # for the fixture
    again = Chain(store)
    assert again.head == node.chain.head
    assert everything(again) == before
    assert (again.finalized, again.oldest, again.window_keys) == kept
    node.chain = solo._chain = again


def test_it_goes_on_after_going_back_many_times(solo: Solo) -> None:
    node = solo.node
    for turn in range(20):
        do(node, "snapshot")
        pay(node, 0, 7)
        do(node, "mine", blocks=1 + turn % 3)
        assert do(node, "revert")["gone"] == 1 + turn % 3
    pay(node, 0, 7)
    do(node, "mine", blocks=3)

    assert node.chain.finalized == node.chain.head.number - 1


def test_a_snapshot_is_not_kept_for_ever(solo: Solo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "SNAPSHOT_BLOCKS_MAX", 5)
    node = solo.node
    at = do(node, "snapshot")["number"]
    do(node, "mine", blocks=4)
    assert node.chain.finalized <= at

    do(node, "mine", blocks=2)

    assert node.chain.finalized > at
    with pytest.raises(Invalid, match="no snapshot"):
        do(node, "revert")


def test_what_is_kept_and_asked_for_is_bounded(solo: Solo) -> None:
    node = solo.node
    for number in range(dev.SNAPSHOTS_MAX):
        do(node, "snapshot", name=f"n{number}")
    with pytest.raises(Refused, match="snapshots are kept"):
        do(node, "snapshot", name="more")
    for name in ("", "x" * 65, "a b", "../x"):
        with pytest.raises(Invalid):
            do(node, "snapshot", name=name)
    for blocks in (0, -1, dev.BLOCKS_MAX + 1):
        with pytest.raises(Invalid):
            do(node, "mine", blocks=blocks)
    with pytest.raises(Invalid):
        do(node, "mine", span_ms=dev.MS_MAX + 1)
    with pytest.raises(Invalid):
        asyncio.run(node.cheat({"do": "nothing"}))  # type: ignore[arg-type]


def test_time_goes_on_from_the_heads_after_a_restart(solo: Solo) -> None:
    do(solo.node, "mine", span_ms=3_600_000)

    again = Cheats(solo.author, now())

    assert again.clock(now()) - now() > 3_590_000


def test_changes_of_a_state_are_cut_into_calls_that_blocks_take() -> None:
    changes = [(number.to_bytes(4, "big"), bytes(700)) for number in range(4_000)]
    gone = [(b"x" + number.to_bytes(4, "big"), None) for number in range(1_500)]

    calls = list(writes([*changes, *gone]))

    assert len(calls) == 4 + 2
    assert all(len(each) < 1_100_000 for each in calls)
    assert list(writes([])) == []


def test_finality_that_was_held_comes_back_in_steps(
    solo: Solo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(author, "FINALIZED_MAX", 10)
    node = solo.node
    at = do(node, "snapshot")["number"]
    do(node, "mine", blocks=25)
    do(node, "release")
    before = node.chain.finalized
    assert before <= at

    do(node, "mine", blocks=1)

    assert node.chain.finalized == before + 10
    assert solo.author.pace_s == author.WORK_S, "it does not wait as long as an idle chain"
    do(node, "mine", blocks=3)
    assert node.chain.finalized == node.chain.head.number - 1
