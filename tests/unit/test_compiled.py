"""Compiled builds: they answer as the source does, they are never stale, and the enclave never
loads one."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phala.node import compiled

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ON_BOTH = (  # tests that run once more, on the build
    "unit/test_balances.py",
    "unit/test_balances_custody.py",
    "unit/test_compact.py",
    "unit/test_extrinsic.py",
    "unit/test_generate.py",
    "unit/test_hashes.py",
    "unit/test_ledger.py",
    "unit/test_node_pool.py",
    "unit/test_pallet.py",
    "unit/test_runtime.py",
    "unit/test_scale.py",
    "unit/test_state.py",
    "unit/test_trie.py",
)
LOWERED = (  # these lower a limit, which in a build is a constant
    "test_gone_ones_do_not_pile_up_among_those_to_take",
    "test_a_full_pool_is_not_gone_through_for_each_newcomer",
    "test_a_full_pool_lets_the_worst_go_for_a_better_one",
    "test_bans_and_transactions_are_bounded",
)
BOTH_S_MAX = 300


def needs_build() -> None:
    if not compiled.is_whole(compiled.build_folder()):
        pytest.skip("no compiled build of these sources: `make setup` makes one")


def run(*arguments: str | Path, pure: bool) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != compiled.PURE}
    if pure:
        environment[compiled.PURE] = "1"
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )


def test_hot_modules_keep_nothing_by_decorators_that_a_build_loses() -> None:
    for module in compiled.MODULES:
        assert "cached_property" not in compiled.source_of(module).read_text(), module


def test_where_there_is_a_compiler_there_is_a_build() -> None:
    """All others of this file are skipped without one: so a source that mypyc refuses, or compiles
    to what crashes, would pass for a machine without a compiler."""
    compiler = shlex.split(os.environ.get("CC", "cc"))[0]
    if os.environ.get(compiled.PURE) == "1" or shutil.which(compiler) is None:
        pytest.skip("there is no C compiler, or builds are turned off")

    built = compiled.is_whole(compiled.build_folder())

    assert built, "run `make setup` after a hot module was edited: it says why there is no build"


@pytest.mark.timeout(BOTH_S_MAX)
def test_a_build_answers_random_cases_as_the_source_does() -> None:
    needs_build()
    seed = os.environ.get("PHALA_SEED", "1")

    ours = run(HERE / "compiled_run.py", seed, pure=False)
    theirs = run(HERE / "compiled_run.py", seed, pure=True)

    assert ours.stderr == "compiled\n"
    assert theirs.stderr == "pure\n"
    found, expected = ours.stdout.splitlines(), theirs.stdout.splitlines()
    assert len(expected) > 60_000
    assert [line for line in zip(found, expected, strict=True) if line[0] != line[1]] == []


@pytest.mark.timeout(BOTH_S_MAX)
def test_a_build_passes_the_tests_of_its_source() -> None:
    needs_build()
    program = (
        "from phala.node.compiled import use_compiled\n"
        "assert use_compiled()\n"
        "import sys, pytest\n"
        "sys.exit(pytest.main(sys.argv[1:]))\n"
    )

    done = run(
        "-c", program, "-q", "-p", "no:cacheprovider", "-k", f"not ({' or '.join(LOWERED)})",
        *[f"tests/{each}" for each in ON_BOTH], pure=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-3000:]


def test_all_hot_modules_come_from_the_build() -> None:
    needs_build()
    program = (
        "from phala.node.compiled import MODULES, SUFFIX, use_compiled\n"
        "assert use_compiled() and use_compiled()\n"
        "import importlib, phala.runtime\n"
        "print([n for n in MODULES if not importlib.import_module(n).__file__.endswith(SUFFIX)])\n"
    )

    assert run("-c", program, pure=False).stdout == "[]\n"


def test_a_build_of_other_sources_is_not_whole(tmp_path: Path) -> None:
    assert not compiled.is_whole(tmp_path)

    listed = tmp_path / compiled.SOURCES
    digest = compiled.sha256_of(compiled.PACKAGE / "errors.py")
    listed.write_text(f'{{"errors.py": "{digest}"}}')
    assert compiled.is_whole(tmp_path)

    listed.write_text(f'{{"errors.py": "{digest[::-1]}"}}')
    assert not compiled.is_whole(tmp_path)


def test_nothing_is_swapped_once_a_hot_module_is_loaded() -> None:
    program = (
        "import phala.trie, sys\n"
        "from phala.node.compiled import use_compiled\n"
        "assert not use_compiled()\n"
        "import phala.codec.generate as found\n"
        "assert found.__file__.endswith('.py')\n"
    )

    assert run("-c", program, pure=False).returncode == 0


def test_sealed_code_is_never_the_build() -> None:
    """What the enclave measures is source, and its process knows no finder of builds."""
    program = (
        "import sys\n"
        "import phala.sealed.server, phala.trie.merkle, phala.codec.generate\n"
        "assert 'phala.node.compiled' not in sys.modules\n"
        "assert all(sys.modules[n].__file__.endswith('.py') for n in list(sys.modules)\n"
        "           if n.startswith('phala.'))\n"
    )
    asked = (
        "import phala.sealed\n"
        "from phala.node.compiled import use_compiled\n"
        "assert not use_compiled()\n"
    )

    assert run("-c", program, pure=False).returncode == 0
    assert run("-c", asked, pure=False).returncode == 0
