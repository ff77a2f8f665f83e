"""A node's processes: what becomes of the others when one ends, and while one is at work."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.clients import chain
from tests.unit.test_node_door import ALICE, BOB, account_key, ask, signed

from phala.crypto.signatures import sr25519_from_seed, sr25519_sign
from phala.finality import BadJustification
from phala.node import journal as journals
from phala.node import service
from phala.node.core.pool import AlreadyImported, PoolFull
from phala.node.engines import wire
from phala.node.engines.author import Executed, Handed
from phala.node.engines.handover import INCLUDED_AT_ONCE
from phala.node.main import open_node
from phala.node.verifiers import (
    HERE_MAX,
    Batches,
    VerifierGone,
    Verifiers,
    decode_checks,
    encode_checks,
)
from phala.node.writer import NotNext, Writer
from phala.primitives.types import BlockNumber
from phala.runtime import BlockRefused, InvalidTransaction, Problem, SignatureCheck

WAIT_S = 20
KEY = sr25519_from_seed(bytes(32))
# A builder that takes its time over a block with work in it.
SLOW = """
import time
import phala.node.writer as writer
seal = writer.Writer.seal
def slow(self, *keys):
    if self.extrinsics:
        time.sleep(2)
    return seal(self, *keys)
writer.Writer.seal = slow
from phala.node.main import main
main()
"""
# A node that takes every state for a large one.
HALVED = """
import phala.node.engines.builder as builder
import phala.node.halves as halves
builder.is_large = lambda folder: True
take = halves.OtherHalf.take
def told(self):
    part = take(self)
    halves.LOG.info("a half was taken")
    return part
halves.OtherHalf.take = told
from phala.node.main import main
main()
"""


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def children(pid: int) -> list[int]:
    """In the order in which they began: verifier, indexer, builder."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[chain.RunningNode]:
    with chain.running(tmp_path, "--verifiers", "1") as running:
        yield running


def head(client: httpx.Client) -> int:
    return int(ask(client, "chain_getHeader")["number"], 16)


@pytest.mark.parametrize(("place", "what"), [(0, "verifies signatures"), (2, "builder ended")])
def test_a_node_ends_with_a_message_when_a_process_of_it_is_killed_and_goes_on_when_started(
    tmp_path: Path, node: chain.RunningNode, place: int, what: str
) -> None:
    with httpx.Client(base_url=node.http, timeout=WAIT_S) as client:
        number = until(lambda: head(client))
        block = ask(client, "chain_getBlockHash", number)
    os.kill(children(node.process.pid)[place], signal.SIGKILL)

    assert node.process.wait(WAIT_S) == 75
    assert what in (tmp_path / "node.log").read_text()
    again = chain.start(tmp_path, tmp_path / "spec.json")
    with httpx.Client(base_url=again.http, timeout=WAIT_S) as client:
        assert ask(client, "chain_getBlockHash", number) == block
        until(lambda: head(client) > number)
    again.process.terminate()
    assert again.process.wait(WAIT_S) == 0


def test_no_process_outlives_a_killed_front(tmp_path: Path, node: chain.RunningNode) -> None:
    others = children(node.process.pid)
    assert len(others) == 3
    node.process.kill()
    node.process.wait(WAIT_S)

    until(lambda: not any(map(is_running, others)))
    assert "rror" not in (tmp_path / "node.log").read_text()


def test_a_stopped_node_leaves_no_process_and_says_nothing_of_errors(
    tmp_path: Path, node: chain.RunningNode
) -> None:
    others = children(node.process.pid)
    node.process.terminate()

    assert node.process.wait(WAIT_S) == 0
    assert not any(map(is_running, others))
    assert "rror" not in (tmp_path / "node.log").read_text()


@pytest.mark.parametrize("begun", [False, True])
def test_a_node_of_many_accounts_starts_by_two_processes_and_keeps_one(
    tmp_path: Path, *, begun: bool
) -> None:
    spec = chain.prepare(tmp_path)
    if begun:
        first = chain.start(tmp_path, spec)
        first.process.terminate()
        assert first.process.wait(WAIT_S) == 0
    running = chain.start(tmp_path, spec, program=("-c", HALVED))
    try:
        builder = children(running.process.pid)[-1]
        assert "a half was taken" in (tmp_path / "node.log").read_text()
        until(lambda: not children(builder))
        with httpx.Client(base_url=running.http, timeout=WAIT_S) as client:
            number = head(client)
            until(lambda: head(client) > number)
    finally:
        running.process.terminate()
        assert running.process.wait(WAIT_S) == 0


def test_reads_and_submissions_are_answered_while_a_block_is_sealed(tmp_path: Path) -> None:
    running = chain.start(tmp_path, chain.prepare(tmp_path), program=("-c", SLOW))
    try:
        with httpx.Client(base_url=running.http, timeout=WAIT_S) as client:
            transfers = [signed(client, ALICE, nonce) for nonce in range(20)]
            before = head(client)
            ask(client, "author_submitExtrinsic", transfers[0])
            took = []
            for each in transfers[1:]:  # sealing takes two seconds
                began = time.monotonic()
                ask(client, "author_submitExtrinsic", each)
                ask(client, "state_getStorage", "0x" + b":code".hex())
                took.append(time.monotonic() - began)
            assert head(client) <= before + 1
            assert sum(took) < 2
            until(lambda: ask(client, "system_accountNextIndex", ALICE.address) == 20)
            until(lambda: head(client) >= before + 2)
    finally:
        running.process.kill()
        running.process.wait(WAIT_S)


def test_a_large_block_leaves_nothing_of_it_in_the_pool(tmp_path: Path) -> None:
    """The front takes it up in slices, and transactions come between them."""
    running = chain.start(tmp_path, chain.prepare(tmp_path), program=("-c", SLOW))
    try:
        with httpx.Client(base_url=running.http, timeout=WAIT_S) as client:
            transfers = [signed(client, ALICE, nonce) for nonce in range(3 * INCLUDED_AT_ONCE)]
            for each in transfers:  # most of them while the first block is sealed
                ask(client, "author_submitExtrinsic", each)
            until(lambda: account_nonce(client) == len(transfers))
            until(lambda: not ask(client, "author_pendingExtrinsics"))
            hashes = [ask(client, "chain_getBlockHash", n) for n in range(1, head(client) + 1)]
            bodies = [ask(client, "chain_getBlock", each)["block"]["extrinsics"] for each in hashes]
    finally:
        running.process.kill()
        running.process.wait(WAIT_S)
    assert max(map(len, bodies)) > INCLUDED_AT_ONCE
    assert [each for body in bodies for each in body[1:]] == transfers


def account_nonce(client: httpx.Client) -> int:
    """By the head's state, without what waits."""
    value = bytes.fromhex(ask(client, "state_getStorage", account_key(ALICE))[2:])
    return int.from_bytes(value[:4], "little")


def test_bad_signatures_do_not_keep_a_good_one_waiting(node: chain.RunningNode) -> None:
    with httpx.Client(base_url=node.http, timeout=WAIT_S) as client:
        good = signed(client, BOB, 0)
        fine = signed(client, ALICE, 0)
        bad = [fine[:-68] + f"{n:04x}" + fine[-64:] for n in range(900)]
        asked = [
            {"jsonrpc": "2.0", "id": n, "method": "author_submitExtrinsic", "params": [each]}
            for n, each in enumerate(bad)
        ]
        flood = json.dumps(asked).encode()
        head_of = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(flood)
        with socket.create_connection(("127.0.0.1", node.port), timeout=WAIT_S) as attacker:
            attacker.sendall(head_of + flood)
            began = time.monotonic()
            ask(client, "author_submitExtrinsic", good)
            took = time.monotonic() - began
            attacker.recv(1)
            flooded = time.monotonic() - began
        assert took < max(0.25, flooded / 2)


def test_what_a_node_accepted_waits_again_after_a_kill(
    tmp_path: Path, node: chain.RunningNode
) -> None:
    with httpx.Client(base_url=node.http, timeout=WAIT_S) as client:
        ahead = [signed(client, ALICE, nonce) for nonce in (1, 2, 3)]
        first = signed(client, ALICE, 0)
        for each in ahead:  # no block takes them before nonce 0 is there
            ask(client, "author_submitExtrinsic", each)
        until((tmp_path / "pending").exists)
    node.process.kill()
    node.process.wait(WAIT_S)
    with (tmp_path / "pending").open("ab") as torn:
        torn.write(b"\xff\0\0\0cut")

    again = chain.start(tmp_path, tmp_path / "spec.json")
    try:
        with httpx.Client(base_url=again.http, timeout=WAIT_S) as client:
            ask(client, "author_submitExtrinsic", first)
            until(lambda: ask(client, "system_accountNextIndex", ALICE.address) == 4)
    finally:
        again.process.terminate()
        again.process.wait(WAIT_S)
    assert "3 of 3 transactions" in (tmp_path / "node.log").read_text()


def test_the_journal_does_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "REWRITE_BYTES", 1_000)
    made, solo, _ = open_node(tmp_path, chain.prepare(tmp_path), archive=False)
    journal = journals.Journal(tmp_path / "pending", made)

    async def run() -> None:
        for nonce in range(30):
            made.submit(transfer(made, nonce))
            if nonce % 5 == 4:
                await solo.write()
            await asyncio.sleep(0)
        waiting = transfer(made, 30)
        made.submit(waiting)
        journal.close()
        assert journals.load(tmp_path / "pending")[-1] == waiting
        assert len(journals.load(tmp_path / "pending")) < 16

    try:
        asyncio.run(run())
    finally:
        made.chain.store.close()


# ---- verifiers


def checks(count: int, *, bad: int | None = None) -> list[SignatureCheck]:
    out = []
    for number in range(count):
        message = b"message %d" % number
        signature = sr25519_sign(KEY, message)
        claimed = b"another" if number == bad else message
        out.append(SignatureCheck(KEY.public, 1, signature, claimed))
    return out


def test_checks_travel_whole() -> None:
    found = [*checks(3), SignatureCheck(b"k" * 32, 2, b"s" * 65, b"")]

    assert decode_checks(encode_checks(found)[4:]) == found


def test_every_bad_signature_of_a_body_is_found_wherever_it_is_verified() -> None:
    verifiers = Verifiers.start(2)
    try:
        verifiers.check(checks(41))()
        for bad in (0, 19, 20, 21, 39, 40):
            ensure_good = verifiers.check(checks(41, bad=bad))
            with pytest.raises(InvalidTransaction, match="bad signature"):
                ensure_good()
        verifiers.check(checks(1))()
        with pytest.raises(InvalidTransaction, match="bad signature"):
            verifiers.check(checks(2, bad=1))
        verifiers.check([])()
        os.kill(verifiers.pids[0], signal.SIGKILL)
        with pytest.raises(VerifierGone):
            verifiers.check(checks(40))()
    finally:
        verifiers.close()


def test_a_bad_signature_is_found_in_either_of_two_shares() -> None:
    verifiers = Verifiers.start(1)
    try:
        verifiers.check(checks(41))()
        for bad in (0, 6, 7, 8, 31, 32, 39, 40):
            ensure_good = verifiers.check(checks(41, bad=bad))
            with pytest.raises(InvalidTransaction, match="bad signature"):
                ensure_good()
        verifiers.check(checks(41))()
    finally:
        verifiers.close()


def test_checks_that_cannot_be_read_to_their_end_leave_no_answers_behind() -> None:
    verifiers = Verifiers.start(2)

    def broken() -> Iterator[SignatureCheck]:
        yield from checks(100, bad=3)
        raise InvalidTransaction(Problem.CALL, mend="none")

    try:
        with pytest.raises(InvalidTransaction, match="call"):
            verifiers.check(broken())
        verifiers.check(checks(41))()
    finally:
        verifiers.close()


def test_more_checks_than_a_socket_holds_are_verified() -> None:
    verifiers = Verifiers.start(1)
    (one,) = checks(1)
    many = [replace(one, message=bytes(1_000))] + [one] * 1_500
    wide = [replace(one, account=bytes(200), message=bytes(1_000), scheme=2)] * 1_500
    try:
        verifiers.check(many[1:])()
        for bad in (many, wide):  # the latter are 1.8 MB, and refused quickly
            with pytest.raises(InvalidTransaction, match="bad signature"):
                verifiers.check(bad)()
    finally:
        verifiers.close()


def test_batches_on_a_loop_tell_each_its_own_verdict_in_order() -> None:
    verifiers = Verifiers.start(1)

    async def run() -> list[tuple[int, bool]]:
        batches = Batches(verifiers.links[0])
        running = asyncio.create_task(batches.run())
        await asyncio.sleep(0)
        told: list[tuple[int, bool]] = []
        ended = asyncio.Event()

        def done(number: int, *, good: bool) -> None:
            told.append((number, good))
            if len(told) == total:
                ended.set()

        total = 3 * 150 + HERE_MAX
        for number, check in enumerate(checks(total, bad=77)):
            batches.check(check, lambda good, number=number: done(number, good=good))  # type: ignore[misc]
        await asyncio.wait_for(ended.wait(), WAIT_S)
        running.cancel()
        await asyncio.wait({running})
        return told

    try:
        told = asyncio.run(run())
    finally:
        verifiers.close()
    assert [number for number, _ in told] == list(range(len(told)))
    assert [number for number, good in told if not good] == [77]


class NeverDone:
    """Verifies nothing, so all waits."""

    def here(self) -> bool:
        return False

    def check(self, check: SignatureCheck, done: Callable[[bool], None]) -> None:
        self.done = check, done

    def tell(self, *, good: bool) -> None:
        self.done[1](good)


def test_what_waits_for_its_signature_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CHECKING_BYTES_MAX", 400)
    made, _, _ = open_node(tmp_path, chain.prepare(tmp_path), archive=False)
    never = NeverDone()
    made.signatures = never  # type: ignore[assignment]

    async def run() -> None:
        data = [transfer(made, nonce) for nonce in range(4)]
        made.submit_soon(data[0])
        with pytest.raises(AlreadyImported):
            made.submit_soon(data[0])
        made.submit_soon(data[1])
        with pytest.raises(PoolFull, match="being checked"):
            made.submit_soon(data[2])
        never.tell(good=True)
        assert len(made.pool) + made.pool.future_count == 1
        waiting = made.submit_soon(data[2])
        never.tell(good=False)
        assert not isinstance(waiting, bytes)
        with pytest.raises(InvalidTransaction) as refused:
            await waiting
        assert refused.value.problem is Problem.BAD_PROOF

    try:
        asyncio.run(run())
    finally:
        made.chain.store.close()


def transfer(node: service.Node, nonce: int) -> bytes:
    class Local:
        def post(self, _url: str, json: Any) -> Any:
            assert json["method"] == "chain_getBlockHash"
            answer = {"jsonrpc": "2.0", "id": 1, "result": "0x" + node.chain.genesis.hex()}
            return type("Answer", (), {"status_code": 200, "json": lambda _: answer})()

    return bytes.fromhex(signed(Local(), ALICE, nonce)[2:])  # type: ignore[arg-type]


# ---- the two processes' words


def test_what_the_processes_say_is_read_as_it_was_said() -> None:
    handed = [Handed(b"a" * 300, 7), Handed(b"", (1 << 64) - 1), Handed(b"b", 0)]
    assert wire.decode_handed(wire.encode_handed(handed)) == handed
    refused = ((3, InvalidTransaction(Problem.CUSTOM, mend="m", custom=200)),)
    found = wire.decode_executed(wire.encode_executed(Executed(9, refused)))
    assert (found.count, found.refused[0][0]) == (9, 3)
    assert (found.refused[0][1].problem, found.refused[0][1].custom) == (Problem.CUSTOM, 200)
    said = wire.encode_written(BlockNumber(9), BlockNumber(2), refused, (b"one", b""))
    number, folded, fallen, created = wire.decode_written(said)
    assert (number, folded, fallen[0][0], created) == (9, 2, 3, (b"one", b""))
    stream = wire.frame(wire.HAND, b"abc") + wire.frame(wire.SEEN, b"")
    frames = wire.Frames()
    cut = [each for at in range(len(stream)) for each in frames.feed(stream[at : at + 1])]
    assert cut == [(wire.HAND, b"abc"), (wire.SEEN, b"")]


# ---- blocks of others


def flipped(data: bytes, at: int) -> bytes:
    out = bytearray(data)
    out[at] ^= 1
    return bytes(out)


def test_foreign_blocks_are_imported_with_their_justifications_and_nothing_else(
    tmp_path: Path,
) -> None:
    spec = chain.prepare(tmp_path / "one")
    first, solo, _ = open_node(tmp_path / "one", spec, archive=False)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "grandpa.key").write_text((tmp_path / "one" / "grandpa.key").read_text())
    for nonce in range(3):
        first.submit(transfer(first, nonce))
        asyncio.run(solo.write())
    asyncio.run(solo.write())
    second, _, _ = open_node(tmp_path / "two", spec, archive=False)
    verifiers = Verifiers.start(1)
    writer = Writer(second.chain, second.runtimes, check_signatures=verifiers.check)  # type: ignore[arg-type]
    try:
        for number in range(1, first.chain.head.number + 1):
            at = BlockNumber(number)
            header, body = first.chain.header(at), first.chain.store.body(at)
            justification = first.chain.store.justification(at)
            with pytest.raises(BlockRefused):
                writer.import_block(header, body[:1] + body[2:] + (body[0],), None)
            if justification is not None:
                with pytest.raises(BadJustification):
                    writer.import_block(header, body, flipped(justification, -40))
            assert second.chain.head.number == number - 1
            sealed = writer.import_block(header, body, justification)
            assert sealed.hash == header.hash()
            with pytest.raises(NotNext):
                writer.import_block(header, body, justification)
        assert second.chain.head == first.chain.head
        assert second.chain.finalized == first.chain.finalized == first.chain.head.number - 1
    finally:
        verifiers.close()
        first.chain.store.close()
        second.chain.store.close()


def test_an_indexer_that_ends_is_begun_anew_and_goes_on(
    tmp_path: Path, node: chain.RunningNode
) -> None:
    with httpx.Client(base_url=node.http, timeout=WAIT_S) as client:

        def status() -> dict[str, Any]:
            return dict(ask(client, "phala_getIndexStatus"))

        until(lambda: status()["indexed"])
        assert status()["running"]
        os.kill(children(node.process.pid)[1], signal.SIGKILL)
        until(lambda: not status()["running"])
        until(lambda: status()["restarts"] == 1)

        final = status()["finalized"]
        until(lambda: status()["indexed"] > final)

        metrics = client.get("/metrics").text
        assert "phala_indexer_up 1\n" in metrics
        assert "phala_indexer_restarts_total 1\n" in metrics
        ended = children(node.process.pid)
        assert len(ended) == 3
    assert "the indexer ended: killed by signal 9" in (tmp_path / "node.log").read_text()
    node.process.terminate()
    assert node.process.wait(WAIT_S) == 0
    assert not any(map(is_running, ended))
