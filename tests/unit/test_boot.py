"""How an enclave's process begins: its folder is its own, its files are of one chain and code."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phala.enclave.identity import OtherChain
from phala.enclave.store import ContractState
from phala.errors import Invalid
from phala.primitives.types import Hash
from phala.sealed import boot
from phala.sealed.__main__ import RECURSION_MAX
from phala.sealed.boot import FolderHeld, OtherCode, SystemEntropy, hold, load_identity
from phala.sealed.config import load_config, load_light
from phala.sealed.measurement import simulated_measurement
from phala.tee.platform import Platform
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import SimulatedKey
from phala.wasm.job import KEY_BYTES_MAX

KEY = SimulatedKey.generate()
GENESIS = Hash(bytes([1] * 32))


@pytest.fixture
def as_sealed() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(RECURSION_MAX)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("as_sealed")
def test_the_deepest_state_that_a_contract_can_make_has_a_root() -> None:
    front, state = b"\xaa" * (KEY_BYTES_MAX - 1), ContractState()
    state.apply({front + b"\xaa": b"1", front + b"\xab": b"2"})
    state.rebuild()
    changes = {}
    for size in range(KEY_BYTES_MAX):  # leaving one long edge at each half byte
        changes[front[:size] + b"\xba"] = b"3"
        changes[front[:size] + b"\xab"] = b"4"

    trie = state.proposed(changes)
    state.apply(changes, trie)
    state.rebuild()
    assert state.trie.root == trie.root


def platform(code: bytes = b"code") -> SimulatedPlatform:
    return SimulatedPlatform(measurement=measure(code), key=KEY)


class Forgetful(SimulatedPlatform):
    """As TDX: what it sealed is gone after a restart."""

    seals = False


def identity(folder: Path, on: Platform, genesis: Hash = GENESIS) -> bytes:
    return load_identity(folder, on, genesis, SystemEntropy()).worker


def test_an_identity_survives_a_restart(tmp_path: Path) -> None:
    assert identity(tmp_path, platform()) == identity(tmp_path, platform())


def test_other_code_does_not_open_it(tmp_path: Path) -> None:
    identity(tmp_path, platform())

    with pytest.raises(OtherCode):
        identity(tmp_path, platform(b"other code"))


def test_another_chain_does_not_take_it(tmp_path: Path) -> None:
    identity(tmp_path, platform())

    with pytest.raises(OtherChain):
        identity(tmp_path, platform(), Hash(bytes(32)))


def test_altered_bytes_do_not_open(tmp_path: Path) -> None:
    identity(tmp_path, platform())
    path = tmp_path / boot.IDENTITY_FILE
    for data in (b"", path.read_bytes()[:-1], bytes(200)):
        path.write_bytes(data)
        with pytest.raises(OtherCode):
            identity(tmp_path, platform())


def test_where_nothing_is_sealed_every_start_is_a_new_worker(tmp_path: Path) -> None:
    forgetful = Forgetful(measurement=measure(b"code"), key=KEY)
    first = identity(tmp_path, forgetful)
    (tmp_path / "journal-00000000-000000").write_bytes(b"of the worker before")

    assert identity(tmp_path, forgetful) != first
    assert not list(tmp_path.glob("journal-*"))


def test_two_enclaves_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys; from pathlib import Path; from phala.sealed.boot import hold;"
        "hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        monkeypatch.setattr(boot, "LOCK_SECONDS", 0.1)
        with pytest.raises(FolderHeld):
            hold(tmp_path)
        other.kill()
        other.wait()
        monkeypatch.setattr(boot, "LOCK_SECONDS", 10)
        hold(tmp_path)


CONFIG = '{"dir": "x", "light": "y", "platform": %s, "runtime": null, "engines": %s}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        '{"dir": "x"}',
        "[" * 10_000,
        CONFIG % ('{"kind": "magic"}', "1"),
        CONFIG % ('{"kind": "simulated", "key": "z"}', "0"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)

    with pytest.raises(Invalid):
        load_config(path)


@pytest.mark.parametrize(
    "document", [{}, {"header": 1, "proof": []}, {"header": "zz", "proof": []}]
)
def test_a_light_start_that_is_none_is_refused(tmp_path: Path, document: dict[str, object]) -> None:
    path = tmp_path / "light.json"
    path.write_text(json.dumps(document))

    with pytest.raises(Invalid):
        load_light(path)


def test_the_measurement_depends_on_the_runtime() -> None:
    one = simulated_measurement(Hash(bytes(32)))

    assert len(one) == 48
    assert one == simulated_measurement(Hash(bytes(32)))
    assert one != simulated_measurement(GENESIS)
