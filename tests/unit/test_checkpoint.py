"""The enclave's files: what a kill, a full disk or a hostile host can do to them."""

import contextlib
import errno
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from phala.crypto.secret import Secret
from phala.enclave.checkpoint import KIND_JOURNAL, KIND_SNAPSHOT, FrameReader, Torn
from phala.enclave.records import CLUSTER_KEYS, EPOCHS, SEATS, EpochKey, EpochKeys, Seat
from phala.enclave.store import Store, state_key
from phala.errors import Unavailable
from phala.messages.types import ContractId, Epoch, SealKey
from phala.primitives.types import BlockNumber, Hash
from phala.sealed import checkpoint
from phala.sealed.checkpoint import SNAPSHOTS_KEPT, Checkpoint
from phala.testing.enclave import HashEntropy

GENESIS = Hash(bytes([1] * 32))
KEY = Secret(bytes([2] * 32))
CONTRACT = ContractId(bytes([3] * 32))


class Kept:
    """A folder, and what an enclave with these files would hold."""

    def __init__(self, folder: Path, boot: int = 0) -> None:
        self.folder = folder
        self.files = Checkpoint(folder, KEY, GENESIS, HashEntropy(bytes([boot])))
        self.store = self.files.load()

    def step(self, changes: dict[bytes, bytes | None]) -> None:
        self.files.append(changes)
        self.store.load(changes)
        self.store.rebuild()

    @property
    def everything(self) -> dict[bytes, bytes]:
        return dict(self.store.items())


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    found = Kept(tmp_path)
    yield found
    found.files.close()


def steps(count: int) -> list[dict[bytes, bytes | None]]:
    dice = random.Random(5)
    found: list[dict[bytes, bytes | None]] = []
    for n in range(count):
        name = bytes([dice.randrange(20)])
        value = None if dice.random() < 0.2 else dice.randbytes(dice.randrange(200))
        found.append({b"A" + name: value, state_key(CONTRACT, name): value, b"N": bytes([n])})
    return found


def reloaded(folder: Path, boot: int = 9) -> dict[bytes, bytes]:
    return dict(Checkpoint(folder, KEY, GENESIS, HashEntropy(bytes([boot]))).load().items())


def test_every_step_is_there_after_a_restart(kept: Kept) -> None:
    for each in steps(30):
        kept.step(each)
        assert reloaded(kept.folder) == kept.everything


def test_nothing_is_readable_in_the_files(kept: Kept) -> None:
    kept.step({b"A": b"a marked row of a patient" * 10})
    kept.files.compact(kept.store)

    for path in kept.folder.iterdir():
        assert b"marked row" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


def test_a_tail_torn_at_any_byte_is_a_whole_step_before(kept: Kept) -> None:
    states = [reloaded(kept.folder)]
    for each in steps(5):
        kept.step(each)
        states.append(kept.everything)
    (path,) = kept.folder.iterdir()
    whole = path.read_bytes()
    at = len(states) - 1
    for size in range(len(whole), -1, -1):
        path.write_bytes(whole[:size])
        found = reloaded(kept.folder)
        assert found in states[: at + 1]
        at = states.index(found)
    assert at == 0


def test_steps_after_a_torn_tail_are_kept(kept: Kept) -> None:
    made = steps(9)
    for each in made[:3]:
        kept.step(each)
    (path,) = kept.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    second = Kept(kept.folder, boot=1)
    for each in made[3:6]:
        second.step(each)
    third = Kept(kept.folder, boot=2)
    assert third.everything == second.everything
    for each in made[6:]:
        third.step(each)

    assert reloaded(kept.folder) == third.everything
    second.files.close()
    third.files.close()


def test_an_altered_byte_never_gives_a_state_that_never_was(kept: Kept) -> None:
    states = [reloaded(kept.folder)]
    for each in steps(4):
        kept.step(each)
        states.append(kept.everything)
    (path,) = kept.folder.iterdir()
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(bytes(changed))
        assert reloaded(kept.folder) in states


def test_a_segment_taken_out_takes_what_follows_with_it(kept: Kept) -> None:
    made = steps(6)
    kept.step(made[0])
    first = kept.everything
    for boot, each in enumerate(made[1:], 1):
        later = Kept(kept.folder, boot)
        later.step(each)
        later.files.close()
    paths = sorted(kept.folder.iterdir())
    assert len(paths) == 6
    paths[1].unlink()

    assert reloaded(kept.folder) == first


def test_a_snapshot_replaces_the_journal_and_two_are_kept(kept: Kept) -> None:
    made = steps(12)
    for at, each in enumerate(made):
        kept.step(each)
        if at % 3 == 2:
            kept.files.compact(kept.store)
            assert reloaded(kept.folder) == kept.everything
    names = sorted(path.name.split("-")[0] for path in kept.folder.iterdir())

    assert names.count("snapshot") == 2
    assert names.count("journal") <= 2


def test_where_the_newest_snapshot_is_broken_the_one_before_serves(kept: Kept) -> None:
    for at, each in enumerate(steps(10)):
        kept.step(each)
        if at in {3, 7}:
            kept.files.compact(kept.store)
    newest = max(kept.folder.glob("snapshot-*"))
    whole = newest.read_bytes()
    for broken in (whole[:-1], whole[: len(whole) // 2], b"", whole[:60] + b"x" + whole[61:]):
        newest.write_bytes(broken)
        assert reloaded(kept.folder) == kept.everything


def test_a_half_written_snapshot_is_not_looked_at(kept: Kept) -> None:
    for each in steps(3):
        kept.step(each)
    (kept.folder / "snapshot-00000001.new").write_bytes(b"half")

    assert reloaded(kept.folder) == kept.everything


def test_a_snapshot_is_due_when_the_journal_outgrew_it(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "JOURNAL_BYTES_MIN", 10_000)
    written = 0
    for n in range(300):
        kept.step({b"A" + bytes([n % 10]): bytes(500)})
        written += kept.files.compact_if_due(kept.store)

    assert 10 < written < 40
    assert reloaded(kept.folder) == kept.everything


def epoch_key(epoch: int) -> EpochKey:
    return EpochKey(Epoch(epoch), SealKey(bytes([epoch]) * 32), secret(epoch))


def secret(number: int) -> Secret:
    return Secret(b"secret" + bytes([number]) * 26)


OLD = EpochKeys(epoch_key(2), epoch_key(1), BlockNumber(9), None)
SEAT = Seat(1, 1, 1, secret(5), b"")
ERASURES: dict[str, tuple[dict[bytes, bytes | None], dict[bytes, bytes | None], Secret]] = {
    "an epoch": (
        {EPOCHS.mark: EPOCHS.value.encode(OLD)},
        {EPOCHS.mark: EPOCHS.value.encode(replace(OLD, previous=None))},
        secret(1),
    ),
    "a generation": (
        {CLUSTER_KEYS.mark + b"c": secret(4).reveal()},
        {CLUSTER_KEYS.mark + b"c": None},
        secret(4),
    ),
    "a share": ({SEATS.mark: SEATS.value.encode(SEAT)}, {SEATS.mark: None}, secret(5)),
}


def holds(folder: Path, found: Secret) -> bool:
    """Whether a file in the folder decrypts to the secret."""
    for path in folder.iterdir():
        kind = KIND_SNAPSHOT if "snapshot" in path.name else KIND_JOURNAL
        with contextlib.suppress(Torn):
            frames = FrameReader(KEY, kind, path.read_bytes()).rest()
            if any(found.reveal() in frame for frame in frames):
                return True
    return False


@pytest.mark.parametrize("what", ERASURES)
@pytest.mark.parametrize("restarted", [False, True])
def test_an_erased_key_is_in_no_file_after_the_step(
    kept: Kept, what: str, *, restarted: bool
) -> None:
    before, erasure, erased = ERASURES[what]
    for each in (before, *steps(3)):
        kept.step(each)
        kept.files.compact(kept.store)
    (kept.folder / "snapshot-00000001.new").write_bytes(b"half")
    kept.step(steps(5)[4])
    assert not kept.files.compact_if_due(kept.store)
    kept.step(before | {b"N": b"x"})
    assert not kept.files.compact_if_due(kept.store)
    assert holds(kept.folder, erased)

    kept.step(erasure)
    now = Kept(kept.folder, boot=1) if restarted else kept
    assert now.files.compact_if_due(now.store)

    assert not holds(kept.folder, erased)
    assert len(list(kept.folder.iterdir())) == SNAPSHOTS_KEPT
    now.step(steps(6)[5])
    assert not now.files.compact_if_due(now.store)
    max(kept.folder.glob("snapshot-*")).write_bytes(b"")  # the one before still serves
    assert reloaded(kept.folder) == now.everything
    now.files.close()


def test_a_kill_before_old_files_are_gone_is_made_good(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, erasure, erased = ERASURES["a generation"]
    kept.step(before)
    kept.files.compact(kept.store)
    kept.step(erasure)

    def die(_: Checkpoint) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "_forget_old", die)
        with pytest.raises(KeyboardInterrupt):
            kept.files.compact_if_due(kept.store)
    assert holds(kept.folder, erased)
    again = Kept(kept.folder, boot=1)

    assert again.files.compact_if_due(again.store)
    assert not holds(kept.folder, erased)
    assert again.everything == kept.everything


def test_another_key_opens_nothing(kept: Kept) -> None:
    for each in steps(3):
        kept.step(each)
    kept.files.compact(kept.store)
    other = Checkpoint(kept.folder, Secret(bytes(32)), GENESIS, HashEntropy())

    assert not dict(other.load().items())


def test_another_chains_files_are_not_taken(kept: Kept) -> None:
    for each in steps(3):
        kept.step(each)
    other = Checkpoint(kept.folder, KEY, Hash(bytes(32)), HashEntropy())

    assert not dict(other.load().items())


def test_a_full_disk_loses_no_step_and_the_next_is_kept(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = steps(6)
    for each in made[:3]:
        kept.step(each)
    before = kept.everything

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        for _ in range(2):
            with pytest.raises(Unavailable, match="No space"):
                kept.files.append(made[3])
    assert reloaded(kept.folder) == before

    for each in made[3:]:
        kept.step(each)
    assert reloaded(kept.folder) == kept.everything


def test_contracts_roots_are_the_same_after_a_restart(kept: Kept) -> None:
    live = Store()
    for each in steps(40):
        kept.files.append(each)
        own = {key[33:]: value for key, value in each.items() if key[:1] == b"S"}
        state = live.state_of(CONTRACT)
        live.write(CONTRACT, own, state.proposed(own))
    found = Checkpoint(kept.folder, KEY, GENESIS, HashEntropy()).load()

    assert found.state_of(CONTRACT).trie.root == live.state_of(CONTRACT).trie.root
