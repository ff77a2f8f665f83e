"""Build the Python runtime module and its native code, if they are not there: make setup does.

Chance, clocks and file times are pinned while it is built, so that two builds agree in whatever a
contract can see. Their bytes still differ in a few of padding: the module's hash, not its inputs',
is its name.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from phala.crypto.hashes import blake2_256
from phala.errors import PhalaError, Unavailable
from phala.wasm.engine import ENGINE_ID, Engine
from phala.wasm.runtime_module import (
    BUILDER,
    ENVIRONMENT,
    GUEST,
    PACKAGE,
    RuntimeModule,
    ensure_compiled,
    load_runtime,
    runtime_path,
)

COMPILE_MEMORY_BYTES: Final = 8 << 30  # of address space: the engine reserves much, uses 1 GiB
COMPILE_SECONDS: Final = 300
BUILD_SECONDS: Final = 300
MODULES_KEPT: Final = 4  # of earlier inputs, 65 MB each: somebody may still run one


def build_module(target: Path) -> None:
    """Make the module's folder appear, whole, unless somebody else was quicker."""
    target.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent.parent, prefix="new-") as name:
        work = Path(name)
        baked = work / "app" / "phala" / "phat"
        baked.mkdir(parents=True)
        (baked.parent / "__init__.py").touch()
        for source in sorted((PACKAGE / "phat").glob("*.py")):
            shutil.copyfile(source, baked / source.name)
        shutil.copyfile(GUEST / "app.py", work / "app" / "app.py")
        run(
            [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-o", "fixed_world.so",
             str(GUEST / "fixed_world.c")],
            work,
        )  # fmt: skip
        made = work / "made"
        made.mkdir()
        run(
            [str(Path(sys.executable).with_name(BUILDER)), "-d", str(GUEST / "world.wit"),
             "-w", "contract", "componentize", "app", "-p", "app", "--stub-wasi",
             "-o", "made/runtime.wasm"],
            work,
            LD_PRELOAD=str(work / "fixed_world.so"),
        )  # fmt: skip
        try:
            made.rename(target.parent)
        except OSError:
            if not target.exists():
                raise


def run(command: list[str], work: Path, **environment: str) -> None:
    environment |= {"PATH": os.defpath, "HOME": str(work), "PYTHONHASHSEED": "0"}
    try:
        ended = subprocess.run(  # noqa: S603 - the compiler and the builder, named above
            command, cwd=work, env=environment, capture_output=True, text=True, check=False,
            timeout=BUILD_SECONDS,
        )  # fmt: skip
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not there", mend=f"install {command[0]}") from None
    if ended.returncode:
        raise Unavailable(
            f"{command[0]} failed: {ended.stderr[-2000:] or ended.stdout[-2000:]}",
            mend="mend what it names, then run make setup",
        )


def compile_module(module: RuntimeModule) -> None:
    """Native code for this engine, made in a child under limits: a module may be a bomb."""
    ended = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "phala.wasm.build", "--compile", str(module.path)],
        preexec_fn=_limit,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise Unavailable(
            f"the runtime module does not compile: {ended.stderr[-2000:]}",
            mend="remove its folder, then run make setup",
        )


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (COMPILE_MEMORY_BYTES, COMPILE_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (COMPILE_SECONDS, COMPILE_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _compile_here(path: Path) -> None:
    module = load_runtime(path)
    native = Engine().compile(module.path.read_bytes())
    record = {
        "runtime": module.runtime_id.hex(),
        "engine": ENGINE_ID,
        "blake2_256": blake2_256(native).hex(),
    }
    put(module.compiled, native)
    put(module.compiled.with_suffix(".json"), json.dumps(record).encode())


def put(path: Path, data: bytes) -> None:
    """By rename: a file that another process has mapped must never be written to."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(data)
    new.rename(path)


def ensure_runtime() -> RuntimeModule:
    """The module and its native code, built where they are missing."""
    path = runtime_path()
    if not path.exists() and ENVIRONMENT not in os.environ:
        with step("building the Python runtime module, once"):
            build_module(path)
        prune(path.parent.parent)
    module = load_runtime(path)
    try:
        ensure_compiled(module)
    except Unavailable:
        with step("compiling it for this machine, once"):
            compile_module(module)
    return module


def prune(folder: Path) -> None:
    """Remove all but the newest modules; whoever has one mapped keeps it."""
    found = [path for path in folder.iterdir() if (path / "runtime.wasm").exists()]
    found.sort(key=lambda path: path.stat().st_mtime_ns)
    for path in found[:-MODULES_KEPT]:
        shutil.rmtree(path, ignore_errors=True)


class step:  # noqa: N801 - reads as a statement
    def __init__(self, what: str) -> None:
        self.what = what
        self.started = time.monotonic()

    def __enter__(self) -> None:
        say(f"{self.what} ...")

    def __exit__(self, *failed: object) -> None:
        seconds = time.monotonic() - self.started
        say(" failed\n" if failed[0] else f" {seconds:.0f} s\n")


def say(text: str) -> None:
    # Not click: whatever this room imports is in the trusted computing base.
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    match sys.argv[1:]:
        case ["--compile", path]:
            _compile_here(Path(path))
        case []:
            try:
                module = ensure_runtime()
            except PhalaError as error:
                sys.exit(f"error: {error.what}\n{error.mend}")
            say(f"runtime {module.runtime_id.hex()[:16]} in {module.path.parent}\n")
        case _:
            sys.exit("usage: python -m phala.wasm.build")


if __name__ == "__main__":
    main()
