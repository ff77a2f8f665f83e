"""A chain is judged by what this machine wrote down of it, and else by the strictest policy."""

import json
from pathlib import Path
from typing import Any

import pytest

from phala.attest import DEV, PRODUCTION
from phala.primitives.types import Hash
from phala.sdk.trust import TrustMalformed, chosen, find_trust, load_trust
from phala.tee.simulated_key import SimulatedKey

ROOT = SimulatedKey(bytes(31) + b"\1", b"k" * 32).public_root
GENESIS, OTHER = Hash(b"\1" * 32), Hash(b"\2" * 32)


def written(path: Path, **changes: Any) -> Path:
    fields = {
        "genesis": "0x" + GENESIS.hex(),
        "name": "Phala devnet",
        "policy": "dev",
        "simulatedRoot": ROOT.hex(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields | changes))
    return path


def test_a_genesis_that_this_machine_wrote_is_judged_by_its_dev_policy(tmp_path: Path) -> None:
    written(tmp_path / "dev" / "trust.json")
    trust = find_trust(GENESIS, tmp_path)

    assert (trust.policy, trust.name, trust.pinned) == (DEV.trusting(ROOT), "Phala devnet", True)


def test_an_unknown_genesis_is_judged_by_production(tmp_path: Path) -> None:
    written(tmp_path / "dev" / "trust.json")
    trust = find_trust(OTHER, tmp_path)

    assert (trust.policy, trust.pinned, trust.genesis) == (PRODUCTION, False, OTHER)


def test_an_empty_home_knows_nobody(tmp_path: Path) -> None:
    assert find_trust(GENESIS, tmp_path / "none").policy == PRODUCTION


def test_other_networks_trust_lies_under_its_genesis(tmp_path: Path) -> None:
    path = written(
        tmp_path / "trust" / f"{OTHER.hex()}.json",
        genesis=OTHER.hex(),
        policy="production",
        simulatedRoot=None,
    )

    assert find_trust(OTHER, tmp_path) == load_trust(path)
    assert find_trust(OTHER, tmp_path).pinned


def test_a_network_may_lie_elsewhere(tmp_path: Path) -> None:
    written(tmp_path / "far" / "trust.json")

    assert find_trust(GENESIS, tmp_path / "home", network=tmp_path / "far").name == "Phala devnet"


def test_dev_is_chosen_by_an_explicit_root_alone() -> None:
    assert chosen(GENESIS).policy == PRODUCTION
    assert chosen(GENESIS, simulated_root=ROOT).policy == DEV.trusting(ROOT)


@pytest.mark.parametrize(
    "changes",
    [
        {"genesis": "00"},
        {"genesis": 7},
        {"genesis": "zz" * 32},
        {"name": ""},
        {"name": "\x1b[2J"},
        {"policy": "none"},
        {"policy": None},
        {"policy": "production"},
        {"simulatedRoot": None},
        {"more": 1},
    ],
)
def test_a_trust_file_with_wrong_fields_is_refused(tmp_path: Path, changes: Any) -> None:
    with pytest.raises(TrustMalformed, match="production policy"):
        load_trust(written(tmp_path / "trust.json", **changes))


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "\0"])
def test_noise_is_refused_as_trust(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trust.json"
    path.write_text(text)

    with pytest.raises(TrustMalformed):
        load_trust(path)
