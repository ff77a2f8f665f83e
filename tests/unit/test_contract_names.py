"""Names of contracts on this machine."""

from pathlib import Path

import pytest

from phala.cli.contracts import contract_of, ensure_contract_name, load_names, save_name
from phala.devnet.files import NetworkFiles
from phala.errors import Invalid
from phala.messages.types import ContractId

GENESIS, OTHER = b"\x01" * 32, b"\x02" * 32
COUNTER, VOTES = ContractId(b"\x0c" * 32), ContractId(b"\x0d" * 32)


def test_a_name_stands_for_the_contract_it_was_last_given_to(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    save_name(files, GENESIS, "counter", COUNTER)
    save_name(files, GENESIS, "votes", COUNTER)
    save_name(files, GENESIS, "votes", VOTES)

    names = load_names(files, GENESIS)

    assert contract_of("counter", names) == COUNTER
    assert contract_of("votes", names) == VOTES
    assert contract_of("0x" + COUNTER.hex(), names) == COUNTER


def test_names_of_another_genesis_are_forgotten(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    save_name(files, OTHER, "counter", COUNTER)
    assert load_names(files, GENESIS) == {}

    save_name(files, GENESIS, "votes", VOTES)

    assert list(load_names(files, GENESIS)) == ["votes"]


@pytest.mark.parametrize("text", ["", "nobody", "0x12", "0x" + "g" * 64, "../counter"])
def test_what_is_no_contract_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(Invalid, match="counter"):
        contract_of(text, {"counter": "0x" + COUNTER.hex()})


@pytest.mark.parametrize("name", ["", "0xab", "a b", "x" * 65, "ü"])
def test_what_can_be_no_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid):
        ensure_contract_name(name)
