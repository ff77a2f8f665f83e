"""An import that is killed at random instants, two hundred times."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.sim import import_run
from tests.unit.chain_store import CONFIG, grow

from phala.node.store import Store
from phala.node.tools.chainfile import export_chain
from phala.node.tools.check import check
from phala.primitives.types import BlockNumber, Hash

KILLS = int(os.environ.get("PHALA_IMPORT_KILLS", "200"))
BLOCKS = int(os.environ.get("PHALA_IMPORT_BLOCKS", "200"))
SEED = int(os.environ.get("PHALA_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
LIFE_S_MAX = 0.3
CHECK_EVERY = 10  # kills; heads and finality are looked at after each of them


@dataclass
class Importer:
    """The process that forks the lives."""

    process: subprocess.Popen[str]

    def live(self, folder: Path, seconds: float | None) -> bool:
        """One life of so many seconds at most; None: to its end. Whether it was killed."""
        child = int(self._ask(str(folder)))
        if seconds is not None:
            time.sleep(seconds)  # the instant of its death, not a wait for anything
            os.kill(child, signal.SIGKILL)  # nobody has waited for it, so the number is its own
        status = int(self._ask(""))
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the import failed by itself"
        return os.WIFSIGNALED(status)

    def _ask(self, line: str) -> str:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(line + "\n")
        stdin.flush()
        return stdout.readline()


@dataclass
class Truth:
    """The chain that is imported, and what one folder showed of it."""

    hashes: list[Hash]
    roots: list[Hash]
    finalized: int = 0
    head: int = 0
    checks: int = 0
    torn: list[int] = field(default_factory=list)  # heads at the kills

    def look(self, folder: Path, *, whole: bool) -> None:
        """Nothing that was final is lost, and every block is the chain's."""
        if not (folder / "db" / "data.mdb").exists():
            return
        try:
            store = Store(folder / "db")
        except OSError:
            raise AssertionError("the store does not open") from None
        try:
            if store.genesis_hash is None:
                assert self.head == 0, "the chain is gone"
                return
            head, finalized = store.head(), store.finalized
            assert finalized >= self.finalized, "a finalized block is lost"
            assert head.number >= self.head, "a block is lost"
            for number in (head.number, finalized):
                header = store.header(BlockNumber(number))
                assert header is not None
                assert header.hash() == self.hashes[number]
                assert header.state_root == self.roots[number], "another root"
            self.head, self.finalized = head.number, finalized
            self.torn.append(head.number)
            if whole:
                report = check(store)
                assert (report.head, report.finalized) == (head.number, finalized)
                self.checks += 1
        finally:
            store.close()

    def begin_again(self) -> None:
        self.head = self.finalized = 0


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Truth]:
    """A spec, a file of its blocks, and what they are."""
    folder = tmp_path_factory.mktemp("source")
    store = grow(folder / "node", BLOCKS, each=1)
    export_chain(store, folder / "blocks")
    headers = [store.header(BlockNumber(number)) for number in range(BLOCKS + 1)]
    store.close()
    (folder / "spec.json").write_text(CONFIG.to_json())
    truth = Truth(
        [each.hash() for each in headers if each], [each.state_root for each in headers if each]
    )
    return folder / "spec.json", folder / "blocks", truth


@pytest.fixture(scope="module")
def importer(source: tuple[Path, Path, Truth]) -> Iterator[Importer]:
    spec, file, _ = source
    process = subprocess.Popen(
        [sys.executable, import_run.__file__, str(spec), str(file)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Importer(process)
    finally:
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        process.kill()
        process.wait(10)


@pytest.mark.timeout(900)
def test_kills_while_importing_lose_no_finalized_block_and_make_no_other_root(
    tmp_path: Path, source: tuple[Path, Path, Truth], importer: Importer
) -> None:
    truth = source[2]
    chance = random.Random(SEED)
    began, kills, whole, lives = time.monotonic(), 0, 0, 0
    folder = tmp_path / "0"
    while kills < KILLS:
        if importer.live(folder, chance.uniform(0, LIFE_S_MAX)):
            kills += 1
            truth.look(folder, whole=kills % CHECK_EVERY == 0)
        else:
            truth.look(folder, whole=True)
            assert truth.head == BLOCKS
            assert truth.finalized == BLOCKS - 1
            whole += 1
            folder = tmp_path / (f"{whole}" if whole % 2 else f"{whole}-archive")
            truth.begin_again()
        lives += 1
    assert not importer.live(folder, None)  # whatever it was, it can be finished
    truth.look(folder, whole=True)
    assert truth.head == BLOCKS
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"PHALA_SEED={SEED}: {kills} kills in {lives} lives and {seconds:.0f} s, at "
        f"{len(set(truth.torn))} different heads; {whole + 1} imports of {BLOCKS} blocks done; "
        f"{truth.checks} checks of the whole store\n"
    )
    assert len(set(truth.torn)) > min(KILLS, BLOCKS) // 8
