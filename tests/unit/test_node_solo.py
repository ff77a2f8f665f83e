"""One authority, stopped at the worst instants: its word about a number never changes.

Each hook stands for a kill: what was in memory is gone, what was written is opened again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.clients import chain as clients

from phala.codec import Compact
from phala.crypto.hashes import blake2_256
from phala.errors import Refused
from phala.finality import decode_justification, signed_precommit
from phala.node import writer
from phala.node.core.pool import Banned, Change, Pooled, Status
from phala.node.engines import solo as engine
from phala.node.engines.solo import Solo
from phala.node.main import open_node
from phala.node.service import Finalized, Happening, Node
from phala.primitives.address import MULTI_ADDRESS, MultiAddress, MultiSignature
from phala.primitives.extrinsic import IMMORTAL, SIGNED_EXTENSIONS, Extrinsic, Signature
from phala.primitives.types import BALANCE, PHA, Balance, BlockNumber, Hash, Moment
from phala.runtime import DEV_ACCOUNTS, BlockBuilder, Validator, decode
from phala.runtime.outcome import Applied
from phala.sdk.extrinsic import Mortality, Terms, sign_extrinsic
from phala.sdk.keyring import dev_pair
from phala.trie import State

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

        monkeypatch.setattr(writer, "signed_precommit", remembered)


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
                solo.author.finalize = die  # type: ignore[method-assign]
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


def pay(signer: str, amount: int) -> Pooled:
    """A transfer by a development account, as it waits in the pool."""
    by = Signature(
        MultiAddress.of(DEV_ACCOUNTS[signer]),
        MultiSignature(1, bytes(64)),
        IMMORTAL,
        0,
        Balance(0),
    )
    to = MULTI_ADDRESS.encode(MultiAddress.of(DEV_ACCOUNTS["Ferdie"]))
    data = Extrinsic(by, bytes([5, 3]) + to + Compact(BALANCE).encode(Balance(amount))).encode()
    tag = signer.encode()
    return Pooled(Hash(blake2_256(data)), data, 0, (), (tag,), 1 << 62, decode(data))


def test_a_transaction_that_breaks_the_runtime_is_dropped_and_the_block_is_built_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before, poison, after = (pay(name, PHA) for name in ("Alice", "Bob", "Charlie"))
    apply = BlockBuilder.apply

    def poisoned(builder: BlockBuilder, extrinsic: bytes, **options: Any) -> Applied:
        applied = apply(builder, extrinsic, **options)
        if extrinsic == poison.data:
            raise ZeroDivisionError  # half-way: the state is written to
        return applied

    monkeypatch.setattr(BlockBuilder, "apply", poisoned)
    monkeypatch.setattr(engine, "now", lambda: Moment(1_000_000))
    spec = clients.prepare(tmp_path)
    with opened(tmp_path, spec) as (node, solo):
        builder = node.runtime.open_block(State(node.chain.next_base()), node.chain.head)
        for data in (*builder.inherents(Moment(1_000_000)), before.data, after.data):
            builder.apply(data, check_signature=False)
        expected = builder.seal(solo.author.writer.chain.root_with).header
        told: list[Happening] = []
        node.watch(poison.hash, told.append)
        for each in (before, poison, after):
            node.pool.add(each)
        asyncio.run(solo.write())

        body = node.chain.store.body(node.chain.head.number)
        assert list(body[1:]) == [before.data, after.data]
        assert told == [Change(poison.hash, Status.INVALID)]
        with pytest.raises(Banned):
            node.pool.ensure_new(poison.hash, node.chain.head.number)
        assert "ZeroDivisionError" in caplog.text
        assert node.chain.head == expected
        asyncio.run(solo.write())
        assert node.chain.finalized == 1


def test_a_waiting_transaction_that_breaks_the_runtime_is_dropped_and_the_node_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poison = replace(pay("Bob", PHA), valid_till=0, decoded=None)  # looked at again at once

    def poisoned(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Validator, "validate", poisoned)
    with opened(tmp_path, clients.prepare(tmp_path)) as (node, solo):
        told: list[Happening] = []
        node.watch(poison.hash, told.append)
        node.pool.add(poison)
        asyncio.run(solo.write())

        assert told == [Change(poison.hash, Status.INVALID)]
        assert "ZeroDivisionError" in caplog.text
        asyncio.run(solo.write())
        assert node.chain.head.number == 2


def test_what_waits_past_its_era_is_dropped_and_its_signature_is_not_verified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, clients.prepare(tmp_path)) as (node, solo):
        genesis = node.chain.genesis
        terms = Terms(genesis, 1, 1, nonce=1, tip=0, mortality=Mortality(0, genesis, 4))
        call = bytes([0, 0, 0])  # a remark, that waits for the nonce before it
        found = node.submit(sign_extrinsic(call, dev_pair("Bob"), SIGNED_EXTENSIONS, terms))
        told: list[Happening] = []
        node.watch(found, told.append)
        monkeypatch.setattr(Validator, "validate", die)
        for number in range(1, 4):
            assert told == []
            asyncio.run(solo.write())
            assert node.chain.head.number == number

        assert told == [Change(found, Status.INVALID)], "block 4 cannot have it"
        assert node.pool.future_count == 0
