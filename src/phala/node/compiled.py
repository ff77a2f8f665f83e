"""Hot modules as extension modules: the same source, compiled by mypyc, where a build of it exists.

`use_compiled` is called before anything of those modules is imported. A build lies in a folder
whose name is a hash of all that it was made of, and a list in it names every other source that the
compiler read: so what was built of other sources is never loaded. Sealed code never asks for it:
what is measured there is source.
"""

import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

PACKAGE: Final = Path(__file__).parents[1]
BUILDS: Final = Path(sys.prefix) / "phala-compiled"
SOURCES: Final = "sources.json"  # the last file of a build that is written: path to SHA-256
PURE: Final = "PHALA_PURE"  # set to 1, the environment turns builds off
SUFFIX: Final = str(sysconfig.get_config_var("EXT_SUFFIX"))

MODULES: Final = (
    "phala.codec.compact",
    "phala.codec.generate",
    "phala.codec.reader",
    "phala.crypto.hashes",
    "phala.crypto.signatures",
    "phala.frame.block",
    "phala.frame.bound",
    "phala.frame.dispatch",
    "phala.frame.ledger",
    "phala.frame.outer",
    "phala.node.blobs",
    "phala.node.chain",
    "phala.node.core.pool",
    "phala.node.engines.author",
    "phala.node.engines.handover",
    "phala.node.engines.wire",
    "phala.node.index",
    "phala.node.indexer",
    "phala.node.rpc.params",
    "phala.node.service",
    "phala.node.store",
    "phala.node.words",
    "phala.node.writer",
    "phala.pallets.balances.moves",
    "phala.primitives.extrinsic",
    "phala.runtime.executive",
    "phala.runtime.validity",
    "phala.trie.branch",
    "phala.trie.encoding",
    "phala.trie.merkle",
    "phala.trie.ordered",
    "phala.trie.state",
)


def source_of(module: str) -> Path:
    return PACKAGE.parent / (module.replace(".", "/") + ".py")


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build_folder() -> Path:
    """Where a build of these sources by this Python and this mypyc lies, or would lie.

    Raises:
        importlib.metadata.PackageNotFoundError: mypyc is not installed.
    """
    recipe = [Path(__file__), Path(__file__).with_name("compile.py"), *map(source_of, MODULES)]
    parts = [sys.version, SUFFIX, importlib.metadata.version("mypy"), *map(sha256_of, recipe)]
    return BUILDS / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def is_whole(build: Path) -> bool:
    """Whether a build was finished, of the sources that are there now."""
    try:
        sources: dict[str, str] = json.loads((build / SOURCES).read_text())
        return all(sha256_of(PACKAGE / name) == digest for name, digest in sources.items())
    except OSError:
        return False


class Finder(MetaPathFinder):
    """Finds modules in a build, before the usual finders find their source."""

    def __init__(self, build: Path) -> None:
        self._paths = {
            path.name.removesuffix(SUFFIX): str(path) for path in build.glob(f"*{SUFFIX}")
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        found = self._paths.get(fullname)
        if found is None:
            return None
        return importlib.util.spec_from_file_location(
            fullname, found, loader=importlib.machinery.ExtensionFileLoader(fullname, found)
        )


def use_compiled() -> bool:
    """From here on import hot modules from their build, where there is one. Whether there is."""
    if any(isinstance(finder, Finder) for finder in sys.meta_path):
        return True
    loaded = any(name in sys.modules for name in MODULES)
    sealed = "phala.sealed" in sys.modules  # it runs from its measured source
    if os.environ.get(PURE) == "1" or loaded or sealed:
        return False
    try:
        build = build_folder()
    except importlib.metadata.PackageNotFoundError:
        return False
    if not is_whole(build):
        return False
    sys.meta_path.insert(0, Finder(build))
    return True
