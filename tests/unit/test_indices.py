"""Numbers that clients, indexers and proxies rely on stay what they are."""

from tests.unit.indices import frozen, present


def place(line: str) -> tuple[str, ...]:
    _, index, kind, number, _ = line.split(" ")
    return index, kind, number


def test_no_number_is_given_to_another_or_taken_away() -> None:
    lost = sorted(set(frozen()) - set(present()))

    assert not lost, f"these numbers are wire format, give them back: {lost}"


def test_every_number_is_in_the_table() -> None:
    new = [line for line in present() if line not in frozen()]

    assert not new, f"freeze what is new by `python -m tests.unit.indices`: {new}"


def test_the_table_names_each_number_once() -> None:
    places = [place(line) for line in frozen()]

    assert len(places) == len(set(places))
