"""The pool of transactions, alone."""

import heapq
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.crypto.hashes import blake2_256
from phala.errors import Refused
from phala.node.core import pool as rules
from phala.node.core.pool import (
    AlreadyImported,
    Banned,
    Change,
    Pool,
    Pooled,
    PoolFull,
    PriorityTooLow,
    Status,
)
from phala.primitives.types import Hash

FOREVER = 1 << 64


def tag_of(who: str, nonce: int) -> bytes:
    return f"{who}{nonce}".encode()


def made(who: str, nonce: int, *, tip: int = 0, first: bool = False, till: int = FOREVER) -> Pooled:
    """A transaction of `who`; `first`: its nonce is the account's next one."""
    data = f"{who}{nonce}/{tip}".encode()
    requires = () if first else (tag_of(who, nonce - 1),)
    return Pooled(Hash(blake2_256(data)), data, tip, requires, (tag_of(who, nonce),), till)


def ready(pool: Pool) -> list[Pooled]:
    """Ready ones in the order in which blocks take them."""
    taken = pool.take(rules.READY_MAX)
    for each in reversed(taken):
        pool.give_back(each.hash)
    return taken


def order(pool: Pool) -> list[bytes]:
    return [each.data for each in ready(pool)]


def test_a_nonce_ahead_waits_until_the_ones_before_it_come() -> None:
    pool = Pool()
    zero, one, two = (made("a", nonce, first=nonce == 0) for nonce in range(3))

    assert pool.add(two) == [Change(two.hash, Status.FUTURE)]
    assert pool.add(zero) == [Change(zero.hash, Status.READY)]
    assert order(pool) == [zero.data]
    assert pool.add(one) == [
        Change(one.hash, Status.READY),
        Change(two.hash, Status.READY),
    ]
    assert order(pool) == [zero.data, one.data, two.data]


def test_tips_come_first_but_never_before_their_own_accounts_earlier_ones() -> None:
    pool = Pool()
    low, high = made("a", 0, first=True, tip=1), made("a", 1, tip=9)
    other = made("b", 0, first=True, tip=5)
    for each in (high, low, other):
        pool.add(each)

    assert order(pool) == [other.data, low.data, high.data]


def test_a_place_goes_to_who_pays_more() -> None:
    pool = Pool()
    cheap, same, dear = (made("a", 0, first=True, tip=tip) for tip in (5, 5, 6))
    follower = made("a", 1)
    pool.add(cheap)
    pool.add(follower)

    with pytest.raises(AlreadyImported):
        pool.ensure_new(same.hash, 0)
    with pytest.raises(PriorityTooLow, match="priority 4"):
        pool.add(made("a", 0, first=True, tip=4))
    assert pool.add(dear)[0] == Change(cheap.hash, Status.USURPED, dear.hash)
    assert order(pool) == [dear.data, follower.data]


def test_what_a_block_has_leaves_and_frees_those_that_waited_for_it() -> None:
    pool = Pool()
    elsewhere = tag_of("a", 0)  # this node never saw the transaction, only the block
    waiting = made("a", 1)
    pool.add(waiting)

    assert pool.included([], [elsewhere]) == [Change(waiting.hash, Status.READY)]
    pool.included([waiting.hash], waiting.provides)
    assert len(pool) == 0
    assert waiting.hash not in pool


def test_those_that_follow_an_invalid_one_wait_again() -> None:
    pool = Pool()
    zero, one, two = (made("a", nonce, first=nonce == 0) for nonce in range(3))
    for each in (zero, one, two):
        pool.add(each)

    pool.remove(zero.hash, Status.INVALID)

    assert order(pool) == []
    assert pool.future_count == 2
    pool.add(made("a", 0, first=True, tip=1))
    assert order(pool)[1:] == [one.data, two.data]


def test_a_banned_one_is_not_looked_at_for_a_while() -> None:
    pool = Pool()
    bad = made("a", 0, first=True)
    pool.ban(bad.hash, 10)

    with pytest.raises(Banned):
        pool.ensure_new(bad.hash, 10 + rules.BANNED_BLOCKS)
    pool.ensure_new(bad.hash, 11 + rules.BANNED_BLOCKS)


def test_bans_and_transactions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("READY_MAX", "FUTURE_MAX", "BANNED_MAX"):
        monkeypatch.setattr(rules, name, 3)
    pool = Pool()
    for number in range(5):
        pool.ban(Hash(blake2_256(bytes([number]))), 0)
    pool.ensure_new(Hash(blake2_256(b"\0")), 0)
    for nonce in range(3):
        pool.add(made(f"ready{nonce}", 0, first=True))
        pool.add(made(f"future{nonce}", 5))

    with pytest.raises(PoolFull):
        pool.add(made("ready", 0, first=True))
    oldest = made("future0", 5)
    new = made("future", 5)
    assert pool.add(new) == [
        Change(oldest.hash, Status.DROPPED),
        Change(new.hash, Status.FUTURE),
    ]
    monkeypatch.setattr(rules, "FUTURE_BYTES_MAX", 1)
    with pytest.raises(PoolFull, match="bytes"):
        pool.add(made("b", 5))


def test_a_full_pool_lets_the_worst_go_for_a_better_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "READY_MAX", 3)
    pool = Pool()
    early, late, after = (
        made("a", 0, first=True),
        made("b", 0, first=True),
        made("b", 1, tip=3),
    )
    for each in (early, late, after):
        pool.add(each)
    better = made("c", 0, first=True, tip=1)

    assert pool.add(better) == [
        Change(late.hash, Status.DROPPED),
        Change(after.hash, Status.FUTURE),
        Change(better.hash, Status.READY),
    ]
    assert order(pool) == [better.data, early.data]


def test_a_full_pool_is_not_gone_through_for_each_newcomer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "READY_MAX", 50)
    gone_through: list[int] = []
    heapify = heapq.heapify

    def counted(heap: list[tuple[int, int, bytes]]) -> None:
        gone_through.append(len(heap))
        heapify(heap)

    monkeypatch.setattr(heapq, "heapify", counted)
    pool = Pool()
    for number in range(50):
        pool.add(made(f"early{number}", 0, first=True))

    for number in range(100):
        with pytest.raises(PoolFull):
            pool.add(made(f"late{number}", 0, first=True))
    for number in range(120):
        pool.add(made(f"better{number}", 0, first=True, tip=1 + number))

    assert gone_through == [50]
    assert [each.priority for each in ready(pool)] == list(range(120, 70, -1))


def test_what_takes_a_place_that_a_block_has_taken_is_invalid() -> None:
    pool = Pool()
    pool.add(made("a", 0, first=True))
    ready, future = made("a", 1), made("b", 1)
    pool.add(ready)
    pool.add(future)

    changes = pool.included([], [tag_of("a", 0), tag_of("a", 1), tag_of("b", 1)])

    gone = {change.hash for change in changes if change.status is Status.INVALID}
    assert gone == {made("a", 0, first=True).hash, ready.hash, future.hash}
    assert len(pool) == pool.future_count == 0


def test_a_chain_of_thousands_is_orphaned_and_readied_again() -> None:
    pool = Pool()
    chain = [made("a", nonce, first=nonce == 0) for nonce in range(2_000)]
    for each in chain:
        pool.add(each)

    pool.remove(chain[0].hash, Status.INVALID)
    assert (len(pool), pool.future_count) == (0, 1_999)
    pool.add(chain[0])

    assert order(pool) == [each.data for each in chain]


def test_what_leaves_while_a_block_is_filled_is_passed_over() -> None:
    pool = Pool()
    zero, one, other = made("a", 0, first=True), made("a", 1), made("b", 0, first=True)
    for each in (zero, one, other):
        pool.add(each)
    assert pool.take(1) == [zero]
    pool.remove(other.hash, Status.INVALID)

    assert pool.take(9) == [one]


def test_what_was_taken_is_taken_again_when_no_block_has_it() -> None:
    pool = Pool()
    zero, one, two = (made("a", nonce, first=nonce == 0) for nonce in range(3))
    for each in (zero, one, two):
        pool.add(each)
    assert pool.take(2) == [zero, one]
    assert pool.take(9) == [two]
    pool.give_back(one.hash)
    pool.give_back(two.hash)
    pool.give_back(two.hash)
    pool.included([zero.hash], zero.provides)

    assert [each.hash for each in pool.take(9)] == [one.hash, two.hash]


def test_gone_ones_do_not_pile_up_among_those_to_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "HEAP_MAX", 8)
    pool = Pool()
    for tip in range(100):
        pool.add(made("a", 0, first=True, tip=tip))

    assert len(pool._heap) <= 9
    assert [each.priority for each in pool.take(9)] == [99]


def test_what_is_still_valid_stays_with_a_new_term() -> None:
    pool = Pool()
    ready = made("a", 0, first=True, till=7)
    pool.add(ready)

    pool.renew(ready.hash, 70)

    assert pool.stale(69) == []
    assert [each.hash for each in pool.stale(70)] == [ready.hash]


def test_what_waited_past_its_time_is_looked_at_again() -> None:
    pool = Pool()
    ready, future = made("a", 0, first=True, till=7), made("b", 3, till=8)
    pool.add(ready)
    pool.add(future)

    assert pool.stale(6) == []
    assert pool.stale(7) == [ready]
    assert pool.stale(8) == [ready, future]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "add", "block", "late", "invalid", "elsewhere"]),
        st.sampled_from("abc"),
        st.integers(0, 5),
        st.integers(0, 3),
    ),
    max_size=60,
)


class Model:
    """A chain's nonces and a pool over them, whose words are held against what it does."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.nonces = dict.fromkeys("abc", 0)
        self.told: dict[Hash, Status] = {}
        self.known: dict[Hash, tuple[str, int, int]] = {}

    def hear(self, changes: Sequence[Change]) -> None:
        for change in changes:
            assert self.told.get(change.hash) is not change.status or change.by is not None
            self.told[change.hash] = change.status

    def add(self, who: str, nonce: int, tip: int) -> None:
        if nonce < self.nonces[who]:
            return
        new = made(who, nonce, tip=tip, first=nonce == self.nonces[who])
        self.known[new.hash] = who, nonce, tip
        try:
            self.pool.ensure_new(new.hash, 0)
            self.hear(self.pool.add(new))
        except Refused:
            pass

    def block(self, taken: Sequence[Pooled]) -> None:
        for each in taken:
            who, nonce, _ = self.known[each.hash]
            assert nonce == self.nonces[who]
            self.nonces[who] += 1
            del self.told[each.hash]
        tags = [tag for each in taken for tag in each.provides]
        self.hear(self.pool.included([each.hash for each in taken], tags))

    def step(self, kind: str, who: str, nonce: int, tip: int) -> None:
        if kind == "add":
            self.add(who, nonce, tip)
        elif kind == "block":
            self.block(self.pool.take(tip + 1))
        elif kind == "late":  # something comes while a block is made
            taken = self.pool.take(tip + 1)
            self.add(who, nonce, 3 - tip)
            self.block(taken)
        elif kind == "elsewhere":  # a block of another author, with what this pool never had
            self.nonces[who] += 1
            self.hear(self.pool.included([], [tag_of(who, self.nonces[who] - 1)]))
        else:
            for each in ready(self.pool)[:1]:
                self.hear(self.pool.remove(each.hash, Status.INVALID))

    def check(self) -> None:
        in_order = ready(self.pool)
        assert (
            len({tag for each in in_order for tag in each.provides})
            == len(in_order)
            == len(self.pool)
        )
        expected = {h for h, status in self.told.items() if status is Status.READY}
        assert {each.hash for each in in_order} == expected
        waiting = {h for h, status in self.told.items() if status is Status.FUTURE}
        assert len(waiting) == self.pool.future_count
        assert all(h in self.pool for h in waiting)
        # An account's ready ones follow on its nonce without a gap, and no future one would.
        for who, nonce in self.nonces.items():
            mine = [
                self.known[each.hash][1] for each in in_order if self.known[each.hash][0] == who
            ]
            assert mine == list(range(nonce, nonce + len(mine)))
            late = [self.known[h][1] for h in waiting if self.known[h][0] == who]
            assert nonce + len(mine) not in late
        # Each was the best of those whose turn it was.
        for earlier, later in pairwise(in_order):
            if later.priority > earlier.priority:
                assert set(later.requires) & set(earlier.provides)


@given(STEPS)
def test_under_random_calls_the_pool_is_in_order_and_says_what_it_does(
    steps: Sequence[tuple[str, str, int, int]],
) -> None:
    model = Model()
    for step in steps:
        model.step(*step)
        model.check()
    while len(model.pool):
        model.block(model.pool.take(rules.READY_MAX))
        model.check()
    assert model.pool.ready_bytes == 0
