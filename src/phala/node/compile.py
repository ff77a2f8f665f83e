"""`python -m phala.node.compile`: the build that `phala.node.compiled` loads. `make setup` runs it.

The compiler gets copies of the sources in which classes are marked: those in `NATIVE` become C
structs, all others stay what they are to Python (frozen dataclasses with slots, descriptors,
enums). A mark takes the place of a blank line, so lines keep their numbers.
"""

import ast
import contextlib
import importlib.metadata
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from phala.errors import PhalaError, Unavailable
from phala.node.compiled import (
    BUILDS,
    MODULES,
    PACKAGE,
    PURE,
    SOURCES,
    SUFFIX,
    build_folder,
    is_whole,
    sha256_of,
)

NATIVE: Final = frozenset(
    {
        "Block",
        "BlockBuilder",
        "BoundDoubleMap",
        "BoundItem",
        "BoundMap",
        "BoundValue",
        "Branch",
        "Calls",
        "Chain",
        "Errors",
        "Events",
        "Handover",
        "Held",
        "NextBase",
        "Node",
        "Opening",
        "Pool",
        "Reader",
        "State",
        "Trie",
        "View",
        "Words",
        "_Patch",
        "_Update",
    }
)
MARK: Final = "@mypyc_attr(native_class=False)"
FLAGS: Final = ("-O2", "-g0", "-w", "-fPIC", "-fwrapv", "-DNDEBUG")
KEPT: Final = 4  # older builds: other branches' may be wanted again


def marked(source: str) -> str:
    """A module in which every class but the native ones says that it is none."""
    lines = source.split("\n")
    for at, line in enumerate(lines):
        found = re.match(r"class (\w+)", line)
        if found and found[1] not in NATIVE and "Protocol" not in line:
            before = at - 1
            while lines[before].strip():
                before -= 1
            lines[before] = MARK
    if MARK in lines:
        at = next(
            at
            for at, line in enumerate(lines)
            if re.match(r"(from (?!__future__)\S+ )?import .*[^(]$", line)
        )
        lines[at] = f"from mypy_extensions import mypyc_attr; {lines[at]}"
    return "\n".join(lines)


# ---- codecs, which are generated: those of what each transfer meets

SIGNATURES: Final = (  # of generated functions, with their types
    (r"def (\w+)\(value\):", r"def \1(value: Any) -> bytes:"),
    (r"def (\w+)\(data\):", r"def \1(data: bytes) -> Any:"),
    (r"def (\w+)\(data, at\):", r"def \1(data: bytes, at: int) -> tuple[Any, int]:"),
    (
        r"def (\w+)\(data, at, end\):",
        r"def \1(data: bytes, at: int, end: int) -> tuple[Any, int]:",
    ),
    (r"def (\w+)\(out, (\w+)\):", r"def \1(out: bytearray, \2: Any) -> None:"),
    (r"^(t\d+) = ", r"\1: dict[Any, Any] = "),
    (r"\bnumber\(", r"int.from_bytes("),
)


def hot_codecs() -> list[str]:
    """Texts of the codecs that a block of transfers runs through."""
    from phala.codec import Tuple, struct_of  # noqa: PLC0415 - nothing hot is imported before
    from phala.codec.generate import source_of  # noqa: PLC0415
    from phala.frame import ACCOUNT_INFO  # noqa: PLC0415
    from phala.frame.dispatch import parameters  # noqa: PLC0415
    from phala.pallets.balances import Balances, Deposit, Transfer, Withdraw  # noqa: PLC0415
    from phala.pallets.system import ExtrinsicSuccess  # noqa: PLC0415
    from phala.pallets.transaction_payment import TransactionFeePaid  # noqa: PLC0415
    from phala.primitives.extrinsic import NONCE_TIP, SIGNER  # noqa: PLC0415
    from phala.primitives.types import ACCOUNT_ID, BALANCE, DESCRIPTORS  # noqa: PLC0415

    hot: list[Any] = [ACCOUNT_ID, ACCOUNT_INFO, BALANCE, NONCE_TIP, SIGNER]
    transfer = parameters(Balances, Balances.calls[3])
    hot.append(Tuple(tuple(member.descriptor for member in transfer)))
    events = (Deposit, Transfer, Withdraw, ExtrinsicSuccess, TransactionFeePaid)
    hot += [struct_of(kind, DESCRIPTORS) for kind in events]
    return list(dict.fromkeys(source_of(each).text() for each in hot))


def codecs_source(texts: Sequence[str]) -> str:
    """What `phala.codec.generate` gets at its end."""
    out = []
    for at, text in enumerate(texts):
        typed = text
        for pattern, words in SIGNATURES:
            typed = re.sub(pattern, words, typed, flags=re.MULTILINE)
        names = sorted(set(re.findall(r"\bc\d+\b|\bslow_\w+", text)))
        out += ["", "", f"def _made_{at}(space: dict[str, Any]) -> Made:"]
        out += [f"    {name} = space[{name!r}]" for name in names]
        out += [f"    {line}" if line else "" for line in typed.split("\n")]
        out += ["    return Made(encode, decode, decode_from)", "", ""]
        out.append(f"COMPILED[{text!r}] = _made_{at}")
    return "\n".join(out)


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def read_by(modules: Sequence[str]) -> list[Path]:
    """The sources that these modules import, and so on; what a compiler may look at."""
    found: dict[str, Path] = {}
    left = list(modules)
    while left:
        name = left.pop()
        parts = name.split(".")
        path = PACKAGE.parent.joinpath(*parts)
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in found or not path.exists():
            continue
        found[name] = path
        left += [".".join(parts[:size]) for size in range(1, len(parts))]
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                left += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
            elif isinstance(node, ast.Import):
                left += [each.name for each in node.names]
    return sorted(found.values())


class Written(NamedTuple):
    """What the C compiler gets."""

    library: str  # its name as a Python module
    files: list[Path]
    shims: dict[str, Path]  # module to the C that loads it out of the library


def write_c(work: Path) -> Written:
    """Raises `Unavailable`: mypyc refuses the sources."""
    # Only who builds has mypyc.
    from mypyc.build import generate_c_extension_shim, include_dir, mypyc_build  # noqa: PLC0415
    from mypyc.common import RUNTIME_C_FILES, shared_lib_name  # noqa: PLC0415
    from mypyc.options import CompilerOptions  # noqa: PLC0415

    shutil.copytree(PACKAGE, work / "phala", ignore=shutil.ignore_patterns("__pycache__"))
    paths = [module.replace(".", "/") + ".py" for module in MODULES]
    for path in paths:
        copy = work / path
        copy.write_text(marked(copy.read_text()))
    generating = work / "phala" / "codec" / "generate.py"
    generating.write_text(generating.read_text() + codecs_source(hot_codecs()))
    options = CompilerOptions(multi_file=True, target_dir="c")
    said = io.StringIO()
    with working_in(work), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            groups, files, extras = mypyc_build(
                ["--config-file=", "--explicit-package-bases", "--ignore-missing-imports", *paths],
                options,
            )
        except SystemExit:
            raise Unavailable(
                f"mypyc refuses the sources: {said.getvalue().strip()[-400:]}",
                mend="mend them, or go on without: pure Python does the same",
            ) from None
        ((_, group),) = groups
        assert group is not None
        shims = {
            module: work / generate_c_extension_shim(module, module.split(".")[-1], "c", group)
            for module in MODULES
        }
    names = [*RUNTIME_C_FILES, *(each.path for each in extras)]
    runtime = [Path(include_dir()) / each for each in names]
    made = [work / each for each in files[0][0]]
    return Written(shared_lib_name(group), [*made, *runtime], shims)


def run(command: Sequence[str | Path]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        why = str(error)
    else:
        if not done.returncode:
            return
        why = f"{command[0]}: {done.stderr.strip()[-500:]}"
    raise Unavailable(why, mend="install a C compiler and Python's headers, or go on without")


def compile_c(written: Written, work: Path, into: Path) -> None:
    """Raises `Unavailable`: there is no C compiler, or it fails."""
    import mypyc.build  # noqa: PLC0415

    compiler = shlex.split(os.environ.get("CC", "cc"))
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{mypyc.build.include_dir()}"]
    includes.append(f"-I{work / 'c'}")
    objects = {file: work / f"{at}.o" for at, file in enumerate(written.files)}
    largest = sorted(objects, key=lambda file: -file.stat().st_size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(run, [*compiler, *FLAGS, *includes, "-c", file, "-o", objects[file]])
            for file in largest
        ]
        jobs += [
            pool.submit(
                run,
                [*compiler, *FLAGS, *includes, "-shared", file, "-o", into / f"{module}{SUFFIX}"],
            )
            for module, file in written.shims.items()
        ]
        for job in jobs:
            job.result()
    run([*compiler, "-shared", *objects.values(), "-o", into / f"{written.library}{SUFFIX}"])


def build() -> bool:
    """Make the build of the present sources, unless it is there. Whether it was made."""
    target = build_folder()
    if is_whole(target):
        return False
    sources = {path.relative_to(PACKAGE).as_posix(): sha256_of(path) for path in read_by(MODULES)}
    BUILDS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILDS, prefix="new-") as name:
        work, made = Path(name), Path(name) / "made"
        made.mkdir()
        compile_c(write_c(work), work, made)
        (made / SOURCES).write_text(json.dumps(sources, indent=1))
        shutil.rmtree(target, ignore_errors=True)  # of the same modules, above other sources
        made.rename(target)
    builds = sorted(BUILDS.glob(f"*/{SOURCES}"), key=lambda path: -path.stat().st_mtime)
    for old in builds[KEPT:]:
        shutil.rmtree(old.parent)
    return True


def main() -> int:
    """Whatever goes wrong is said in a line: pure Python does the same, later."""
    if os.environ.get(PURE) == "1":
        return 0
    began = time.monotonic()
    try:
        if not is_whole(build_folder()):
            say("compiling hot modules (under two minutes, once for these sources) ...")
        if build():
            say(f"compiled {len(MODULES)} modules in {time.monotonic() - began:.0f} s")
    except importlib.metadata.PackageNotFoundError:
        say("no compiled build: mypy is not installed; pure Python does the same")
    except PhalaError as error:
        say(f"no compiled build: {error.what}; pure Python does the same")
    return 0


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
