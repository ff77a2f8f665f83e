"""What is remembered for a while, and in which order it is forgotten."""

import pytest

from phala.enclave import kept
from phala.enclave.kept import is_seen, keep, see
from phala.enclave.records import OUTCOMES, Kept
from phala.messages.types import CallId
from phala.primitives.types import BlockNumber
from phala.trie.state import State


def call(number: int) -> CallId:
    return CallId(number.to_bytes(32, "big"))


def outcome(block: int, size_bytes: int = 10) -> Kept:
    return Kept(BlockNumber(block), bytes(size_bytes), b"")


def there(state: State) -> list[int]:
    return [n for n in range(100) if OUTCOMES.get(state, call(n)) is not None]


def test_the_first_outcome_of_a_call_stays() -> None:
    state = State()
    keep(state, call(1), outcome(1))
    keep(state, call(1), outcome(2, size_bytes=99))

    assert OUTCOMES.get(state, call(1)) == outcome(1)


def test_outcomes_leave_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "OUTCOMES_MAX", 5)
    state = State()
    for n in range(20):
        keep(state, call(n), outcome(1))

    assert there(state) == [15, 16, 17, 18, 19]


def test_outcomes_leave_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "OUTCOME_BYTES_MAX", 1000)
    state = State()
    for n in range(20):
        keep(state, call(n), outcome(1, size_bytes=300))
    keep(state, call(20), outcome(1, size_bytes=900))

    assert there(state) == [20]


def test_outcomes_leave_with_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "OUTCOME_BLOCKS", 10)
    state = State()
    for n in range(20):
        keep(state, call(n), outcome(n))

    assert there(state) == list(range(9, 20))


def test_nothing_is_left_of_what_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "OUTCOMES_MAX", 3)
    state = State()
    for n in range(50):
        keep(state, call(n), outcome(n))
        see(state, call(n), expires=BlockNumber(n + 2), now=BlockNumber(n))

    present = [key for key, value in state.changes() if value is not None]
    assert len(present) == 2 + 3 * 2 + 3 * 2


def test_a_call_is_seen_until_it_could_not_run_anyway() -> None:
    state = State()
    see(state, call(1), expires=BlockNumber(10), now=BlockNumber(5))
    see(state, call(2), expires=BlockNumber(6), now=BlockNumber(6))
    see(state, call(3), expires=BlockNumber(30), now=BlockNumber(10))
    assert all(is_seen(state, call(n)) for n in (1, 2, 3))

    see(state, call(4), expires=BlockNumber(30), now=BlockNumber(11))
    assert [is_seen(state, call(n)) for n in (1, 2, 3, 4)] == [False, False, True, True]
