"""One authority, stopped at the worst instants: its word about a number never changes.

Each hook stands for a kill: what was in memory is gone, what was written is opened again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.clients import chain as clients

from phala.errors import Refused
from phala.finality import decode_justification, signed_precommit
from phala.node.engines import solo as engine
from phala.node.engines.solo import Solo
from phala.node.main import open_node
from phala.node.service import Finalized, Happening, Node
from phala.primitives.types import BlockNumber, Hash

KILLED_AT = ("before the block", "before the signature", "before the justification", "after all")


class Killed(BaseException):
    """The process is gone."""


class Signer:
    """Remembers every block that the authority's key ever signed, over its deaths."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.signed: dict[int, set[bytes]] = {}

        def remembered(number: BlockNumber, block: Hash, *rest: object) -> bytes:
            self.signed.setdefault(number, set()).add(block)
            message: bytes = signed_precommit(number, block, *rest)  # type: ignore[arg-type]
            return message

        monkeypatch.setattr(engine, "signed_precommit", remembered)


@contextmanager
def opened(folder: Path, spec: Path) -> Iterator[tuple[Node, Solo]]:
    node, solo, _ = open_node(folder, spec, archive=False)
    try:
        yield node, solo
    finally:
        node.chain.store.close()


def die(*_: object, **__: object) -> None:
    raise Killed


def hook(node: Node, instant: str) -> None:
    store = node.chain.store
    if instant == "before the block":
        store.commit = die  # type: ignore[method-assign]
    elif instant == "before the justification":
        store.finalize = die  # type: ignore[method-assign]


@pytest.mark.parametrize("instant", KILLED_AT)
def test_a_kill_at_any_step_never_makes_two_signed_blocks_of_one_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: str
) -> None:
    spec = clients.prepare(tmp_path)
    signer = Signer(monkeypatch)
    clock = iter(range(1_000_000, 10_000_000, 7))  # each try is another block
    monkeypatch.setattr(engine, "now", lambda: next(clock))
    final: dict[int, Hash] = {}
    for _ in range(4):
        with opened(tmp_path, spec) as (node, solo):
            assert node.chain.finalized == max(final, default=0)
            node.listen(lambda happening: keep(final, happening))
            for _ in range(3):
                asyncio.run(solo.write())
            hook(node, instant)
            if instant == "before the signature":
                solo.finalize = die  # type: ignore[method-assign]
            if instant != "after all":
                with pytest.raises(Killed):
                    asyncio.run(solo.write())

    assert len(final) >= 10
    assert all(len(blocks) == 1 for blocks in signer.signed.values())
    with opened(tmp_path, spec) as (node, _):
        for number, block in final.items():
            assert node.chain.header(BlockNumber(number)).hash() == block
            data = node.chain.store.justification(BlockNumber(number))
            assert data is not None
            assert decode_justification(data).target_hash == block


def keep(final: dict[int, Hash], happening: Happening) -> None:
    if isinstance(happening, Finalized):
        assert final.setdefault(happening.number, happening.hash) == happening.hash


def test_a_head_is_final_with_its_child_alone(tmp_path: Path) -> None:
    spec = clients.prepare(tmp_path)
    with opened(tmp_path, spec) as (node, solo):
        for written in range(1, 5):
            asyncio.run(solo.write())
            assert (node.chain.head.number, node.chain.finalized) == (written, written - 1)


def test_another_authoritys_key_is_refused(tmp_path: Path) -> None:
    spec = clients.prepare(tmp_path)
    (tmp_path / "grandpa.key").write_text("11" * 32)

    with pytest.raises(Refused, match="put the authority's key"):
        open_node(tmp_path, spec, archive=False)
