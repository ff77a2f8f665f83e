"""The runtime module: found, checked before it is trusted, the same to a contract if rebuilt."""

import json
import shutil
from pathlib import Path

import pytest

from phala.errors import Invalid, Unavailable
from phala.wasm.build import build_module, compile_module
from phala.wasm.job import QUERY_LIMITS, BlockInfo, CodeId, ContractId, Job
from phala.wasm.pool import EnginePool
from phala.wasm.runtime_module import (
    ENVIRONMENT,
    RuntimeModule,
    ensure_compiled,
    load_runtime,
    runtime_path,
)

SEEN = b'''
import builtins, random, sys, zlib
from phat import Contract, query

class Seen(Contract):
    @query
    def all(self) -> list[object]:
        """Whatever a build could have left its mark on."""
        words = {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"}
        return [
            hash("abc"), hash(b"abc"), hash((1, "x")), list(words), list(frozenset(words)),
            random.random(), id(self), id("abc"), sorted(sys.modules), sys.version, sys.path,
            list(set(dir(builtins))), zlib.__file__ if hasattr(zlib, "__file__") else None,
            random.__file__, repr(object()),
        ]
'''


def seen_by(module: RuntimeModule) -> tuple[bytes, int]:
    job = Job(
        kind="query",
        contract=ContractId(bytes(32)),
        code_id=CodeId(bytes(32)),
        source=SEEN,
        request=b'{"method":"all"}',
        caller=None,
        block=BlockInfo(1, 1_000, bytes(32)),
        limits=QUERY_LIMITS,
    )
    with EnginePool(module, children=1) as pool:
        outcome = pool.run_query_blocking(job)
    assert outcome.ok, outcome.text
    return outcome.result, outcome.fuel_used


@pytest.mark.timeout(300)
def test_two_builds_look_the_same_to_a_contract(tmp_path: Path) -> None:
    path = tmp_path / "again" / "runtime.wasm"
    build_module(path)
    again = load_runtime(path)
    compile_module(again)

    assert seen_by(again) == seen_by(load_runtime())


def test_a_module_that_was_not_built_is_missed_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "none.wasm"))

    assert runtime_path() == tmp_path / "none.wasm"
    with pytest.raises(Unavailable, match=r"no runtime module at .*none.wasm.*make setup"):
        load_runtime()


@pytest.fixture
def copied(tmp_path: Path) -> RuntimeModule:
    module = load_runtime()
    for path in (module.path, module.compiled, module.compiled.with_suffix(".json")):
        shutil.copyfile(path, tmp_path / path.name)
    return load_runtime(tmp_path / module.path.name)


def test_native_code_is_trusted_only_as_it_was_recorded(copied: RuntimeModule) -> None:
    assert ensure_compiled(copied) == copied.compiled

    code = bytearray(copied.compiled.read_bytes())
    code[len(code) // 2] ^= 1
    copied.compiled.write_bytes(code)
    with pytest.raises(Invalid, match="is not what was compiled"):
        ensure_compiled(copied)


def test_native_code_of_another_engine_is_not_taken(copied: RuntimeModule) -> None:
    record = copied.compiled.with_suffix(".json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"engine": "other"}))

    with pytest.raises(Invalid):
        ensure_compiled(copied)
    record.write_text("{")
    with pytest.raises(Unavailable):
        ensure_compiled(copied)
