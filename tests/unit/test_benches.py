"""What benches compute themselves. What they measure, no test asserts."""

import json

import pytest
from benches.ethereum import CHAIN_ID, GAS, GAS_PRICE_WEI, Sender, keccak_256, rlp
from benches.peers import split
from benches.report import Figure, cpu_model, line_of, placed, rounded, table, times_of

ON = {"cores": 2, "cpu": "Abacus", "python": "3.11.7", "load_before": 0.1}
QUERIES = Figure(
    "queries", "1/s", 1_234.5, "peer", 2_469.0, better="higher", more={"p50_ms": 1.234}
)  # fmt: skip


@pytest.mark.parametrize(
    ("item", "encoded"),
    [
        (b"dog", "83646f67"),
        ([b"cat", b"dog"], "c88363617483646f67"),
        (b"", "80"),
        ([], "c0"),
        (0, "80"),
        (b"\x00", "00"),
        (15, "0f"),
        (1024, "820400"),
        (
            b"Lorem ipsum dolor sit amet, consectetur adipisicing elit",
            "b838" + b"Lorem ipsum dolor sit amet, consectetur adipisicing elit".hex(),
        ),
    ],
)
def test_rlp_as_published(item: int | bytes | list[int | bytes], encoded: str) -> None:
    # Source: ethereum.org, "Recursive-length prefix (RLP) serialization", examples.
    assert rlp(item).hex() == encoded


def test_a_string_of_55_bytes_has_a_short_length_and_one_of_56_a_long_one() -> None:
    assert rlp(bytes(55))[:1] == bytes([0x80 + 55])
    assert rlp(bytes(56))[:2] == bytes([0xB7 + 1, 56])
    assert rlp(bytes(256))[:3] == bytes([0xB7 + 2, 1, 0])


def test_keccak_of_nothing_as_published() -> None:
    # Source: Ethereum yellow paper, KECCAK-256 of the empty string.
    expected = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak_256(b"").hex() == expected


def test_transfers_of_a_sender_count_their_nonces_and_recover_to_its_key() -> None:
    from coincurve import PublicKey  # noqa: PLC0415 - what the sender signs with, the other way

    sender = Sender(1)
    first, second = sender.transfer(bytes(20), 5), sender.transfer(bytes(20), 5)

    assert first != second
    assert sender.nonce == 2
    unsigned: list[int | bytes] = [0, GAS_PRICE_WEI, GAS, bytes(20), 5, b"", CHAIN_ID, 0, 0]
    v, r, s = first[-69:-66], first[-65:-33], first[-32:]
    recovery = int.from_bytes(v[1:], "big") - CHAIN_ID * 2 - 35
    key = PublicKey.from_signature_and_message(
        r + s + bytes([recovery]), keccak_256(rlp(unsigned)), hasher=None
    )
    assert keccak_256(key.format(compressed=False)[1:])[12:] == sender.address


def test_answers_behind_their_lengths_are_told_apart() -> None:
    assert split(b"") == []
    assert split(b"\x01\0\0\0a\0\0\0\0\x02\0\0\0bc") == [b"a", b"", b"bc"]


def test_a_figure_is_one_line_of_json_with_its_machine() -> None:
    record = json.loads(line_of(QUERIES, ON))

    assert record["name"] == "queries"
    assert record["baseline_value"] == 2469
    assert record["ratio"] == 0.5
    assert record["p50_ms"] == 1.23
    assert record["machine"] == ON
    assert {"unit", "ours", "baseline"} < set(record)


def test_a_table_says_who_won_and_on_what_machine() -> None:
    head, _, row, _, where = table([QUERIES], ON).split("\n")

    assert [cell.strip() for cell in head.split("|")[1:3]] == ["what", "ours"]
    assert "1,234 1/s (p50 1.23 ms)" in row
    assert "2,469 1/s (peer)" in row
    assert "0.5 (higher is better)" in row
    assert "2 cores of Abacus" in where
    assert "0.1 before it began" in where


def test_the_table_of_a_page_is_replaced_and_nothing_else() -> None:
    page = "a\n<!-- benches: begin -->\nold\n<!-- benches: end -->\nb\n"

    once = placed(page, "new")

    assert once == "a\n<!-- benches: begin -->\n\nnew\n\n<!-- benches: end -->\nb\n"
    assert placed(once, "new") == once
    with pytest.raises(ValueError, match="no <!-- benches: begin -->"):
        placed("a page", "new")


def test_durations_have_their_median_and_their_slowest_hundredth() -> None:
    found = times_of([each * 1_000 for each in reversed(range(1, 102))])

    assert (found.least, found.p50, found.p99) == (1, 51, 100)


def test_numbers_keep_three_digits() -> None:
    assert [rounded(value) for value in (0.123456, 12.345, 123.456, 7, "x")] == [
        0.123, 12.3, 123, 7, "x",
    ]  # fmt: skip


def test_the_processor_is_named_as_linux_names_it() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t: x\n") == "A CPU @ 2 GHz"
    assert cpu_model("") != ""
