"""What the first start of a network writes, held against those who read it."""

import json
from pathlib import Path

import pytest

from phala.devnet.files import NetworkFiles
from phala.devnet.genesis import OtherCode, ensure_written
from phala.finality import start
from phala.node.keys import load_grandpa_key
from phala.primitives.types import Hash
from phala.runtime import GenesisConfig
from phala.sdk.light import load_light_start
from phala.sdk.trust import find_trust, load_trust, unknown
from phala.tee.simulated_key import load_simulated_key


def test_a_light_client_starts_from_what_is_written(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    about = ensure_written(files)
    trust = load_trust(files.trust)

    began = load_light_start(files.light, trust.genesis)
    head = start(began.genesis, began.header, began.proof)

    assert about["genesis"] == "0x" + trust.genesis.hex() == "0x" + head.hash.hex()
    assert head.number == 0
    key = load_grandpa_key(files.service("node") / "grandpa.key")
    assert dict(head.authorities.weights()) == {key.public: 1}


def test_a_second_start_writes_nothing(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    about = ensure_written(files)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    assert ensure_written(files) == about
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_start_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    ensure_written(files)
    files.trust.unlink()
    files.light.unlink()

    about = ensure_written(files)

    assert about["genesis"] == "0x" + load_trust(files.trust).genesis.hex()


def test_two_networks_are_two_chains(tmp_path: Path) -> None:
    one = ensure_written(NetworkFiles(tmp_path / "one"))
    two = ensure_written(NetworkFiles(tmp_path / "two"))

    assert one["genesis"] != two["genesis"]


def test_dev_is_the_policy_of_a_genesis_that_this_machine_wrote_alone(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path / "dev")
    genesis = Hash(bytes.fromhex(ensure_written(files)["genesis"][2:]))
    root = load_simulated_key(files.simulated_key).public_root

    trust = find_trust(genesis, tmp_path)

    assert trust.policy.name == "dev"
    assert trust.policy.simulated_root == root
    assert find_trust(Hash(bytes(32)), tmp_path) == unknown(Hash(bytes(32)))
    config = GenesisConfig.from_json(files.spec.read_text())
    assert config.simulated_root == root


def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    ensure_written(files)

    for path in (files.simulated_key, files.service("node") / "grandpa.key"):
        assert path.stat().st_mode & 0o077 == 0


def test_a_network_of_other_code_is_refused_with_the_way_out(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    ensure_written(files)
    spec = json.loads(files.spec.read_text())
    spec["genesis"]["measurements"] = ["0x" + "00" * 48]
    files.spec.write_text(json.dumps(spec))

    with pytest.raises(OtherCode, match="--reset"):
        ensure_written(files)
