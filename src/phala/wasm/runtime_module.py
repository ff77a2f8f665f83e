"""Where the Python runtime module lies, and its native code, checked before it is trusted.

A folder named by the hash of the module's inputs holds `runtime.wasm`, and beside it
`NAME.cwasm`, what wasmtime made of it for one engine, with `NAME.json`, which says its hash.
Native code runs outside the sandbox: the hash tells a torn or mistaken file, not a forged one, so
the folder has to be as trusted as this program's own files. Everything is put in place by rename.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NewType

from phala.crypto.hashes import blake2_256
from phala.errors import Invalid, Unavailable
from phala.wasm.engine import ENGINE_ID

RuntimeId = NewType("RuntimeId", bytes)  # blake2_256 over the module

ENVIRONMENT: Final = "PHALA_RUNTIME"  # a module's path, where it is not the one built here
PACKAGE: Final = Path(__file__).parents[1]
GUEST: Final = Path(__file__).parent / "guest"
CACHE: Final = PACKAGE.parents[1] / ".build" / "runtime"
BUILDER: Final = "componentize-py"


@dataclass(frozen=True, slots=True)
class RuntimeModule:
    path: Path
    runtime_id: RuntimeId

    @property
    def compiled(self) -> Path:
        """Native code of this module for this engine, whether or not it is there."""
        return self.path.with_name(f"{self.runtime_id.hex()[:16]}-{ENGINE_ID[:16]}.cwasm")


def inputs() -> list[Path]:
    """What the module is made of, our own part of it."""
    return [*sorted((PACKAGE / "phat").glob("*.py")), *sorted(GUEST.glob("*.*"))]


def inputs_hash() -> str:
    try:
        builder = version(BUILDER)
    except PackageNotFoundError:
        raise Unavailable(
            f"{BUILDER} is not installed, so no runtime module was built here",
            mend=f"run make setup, or set {ENVIRONMENT} to a module's path",
        ) from None
    digest = hashlib.blake2b(builder.encode(), digest_size=16)
    for path in inputs():
        data = path.read_bytes()
        digest.update(f"\n{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def runtime_path() -> Path:
    """Where the module is, or will be."""
    told = os.environ.get(ENVIRONMENT)
    return Path(told) if told else CACHE / inputs_hash() / "runtime.wasm"


def load_runtime(path: Path | None = None) -> RuntimeModule:
    """The module and its id. Raises `Unavailable` where it was not built."""
    path = path or runtime_path()
    try:
        return RuntimeModule(path, RuntimeId(blake2_256(path.read_bytes())))
    except OSError as error:
        raise Unavailable(
            f"there is no runtime module at {path}: {error.strerror}", mend="run make setup"
        ) from None


def ensure_compiled(module: RuntimeModule) -> Path:
    """The native code, as recorded when it was made.

    Raises:
        Unavailable: it was not made.
        Invalid: it is not what was made.
    """
    try:
        recorded = json.loads(module.compiled.with_suffix(".json").read_text())
        found = blake2_256(module.compiled.read_bytes()).hex()
    except (OSError, ValueError):
        raise Unavailable(
            f"{module.compiled} is missing: the module is not compiled for this engine",
            mend="run make setup",
        ) from None
    expected = {
        "runtime": module.runtime_id.hex(),
        "engine": ENGINE_ID,
        "blake2_256": found,
    }
    if recorded != expected:
        raise Invalid(
            f"{module.compiled} is not what was compiled: {found}",
            mend="remove its folder, then run make setup",
        )
    return module.compiled
