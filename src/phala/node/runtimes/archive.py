"""A release as a file: the sources of its runtime, told by a hash over their content.

The file is a zip of `phala/...` and a `MANIFEST`, the text that stands under `:code` of a chain
that this release begins. The hash is over names and bytes, so how they are packed is nobody's
concern.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from phala.crypto.hashes import blake2_256
from phala.errors import Invalid, Unavailable
from phala.primitives.types import Hash
from phala.runtime import Manifest

PACKAGE: Final = Path(__file__).parents[2]
# What a runtime and its host are made of. `node` is the host's own modules alone.
ROOMS: Final = (
    "attest", "codec", "crypto", "economics", "finality", "frame", "messages", "pallets",
    "primitives", "runtime", "trie",
)  # fmt: skip
MODULES: Final = (
    "__init__.py", "errors.py", "node/__init__.py", "node/blobs.py",
    "node/runtimes/__init__.py", "node/runtimes/host.py", "node/runtimes/wire.py",
)  # fmt: skip
LEFT_OUT: Final = frozenset({".pyc", ".so", ".pyd"})
MANIFEST: Final = "MANIFEST"
FILES_MAX: Final = 4_096
BYTES_MAX: Final = 64 * 1024 * 1024
EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the first time that a zip can say


class BadRelease(Invalid):
    """The file is no release, or another than it is named."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"{path.name} is no release: {what}", mend="make it by: phala node release FILE"
        )


@dataclass(frozen=True, slots=True)
class Release:
    """A release's sources by name, and what it calls itself."""

    manifest: Manifest  # without the sources' hash
    files: Mapping[str, bytes]  # sorted by name

    @property
    def sources(self) -> Hash:
        out = bytearray(b"phala release 1")
        for name, data in self.files.items():
            for part in (name.encode(), data):
                out += len(part).to_bytes(8, "little") + part
        return Hash(blake2_256(bytes(out)))

    @property
    def pinned(self) -> Manifest:
        """The manifest that no other sources fulfil: what `set_code` takes."""
        mine = self.manifest
        return Manifest(mine.name, mine.release, mine.metadata, mine.spec_version, self.sources)


def own_release(manifest: Manifest, package: Path = PACKAGE) -> Release:
    """What this process was started from, as the files are now."""
    found = {}
    for room in ROOMS:
        for path in (package / room).rglob("*"):
            if path.is_file() and path.suffix not in LEFT_OUT:
                found[path.relative_to(package).as_posix()] = path
    for name in MODULES:
        found[name] = package / name
    files = {
        f"phala/{name}": path.read_bytes() for name, path in sorted(found.items()) if path.exists()
    }
    return Release(manifest, files)


def save_release(release: Release, path: Path) -> None:
    """The whole file or, after a kill, the one before it."""
    partial = path.with_name(path.name + ".new")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as out:
            out.writestr(zipfile.ZipInfo(MANIFEST, EPOCH), release.manifest.encode())
            for name, data in release.files.items():
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                out.writestr(entry, data)
        partial.replace(path)
    except OSError as error:
        raise Unavailable(
            f"{path} is not written: {error.strerror}", mend="check its folder and the disk's space"
        ) from None


def load_release(path: Path) -> Release:
    """Raises `BadRelease`."""
    try:
        with zipfile.ZipFile(path) as found:
            entries = found.infolist()
            if len(entries) > FILES_MAX or sum(each.file_size for each in entries) > BYTES_MAX:
                raise BadRelease(path, f"it has more than {FILES_MAX} files or {BYTES_MAX} bytes")
            files = {each.filename: found.read(each) for each in entries}
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, RuntimeError) as error:
        raise BadRelease(path, str(error)) from None
    if len(files) != len(entries) or MANIFEST not in files:
        raise BadRelease(path, "it says nothing of itself, or says it twice")
    manifest = Manifest.decode(files.pop(MANIFEST))
    for name in files:
        parts = name.split("/")
        if parts[0] != "phala" or not all(parts) or {".", ".."} & set(parts) or "\\" in name:
            raise BadRelease(path, f"it holds {name!r}")
    return Release(manifest, dict(sorted(files.items())))


def unpack(release: Release, folder: Path) -> Path:
    """Its sources in a folder of their own, the same at every call: what is there is compared.

    A node's two processes may be at it at once: whoever comes second takes the first one's.
    """
    target = folder / release.sources.hex()
    if _holds(target, release):
        return target
    shutil.rmtree(target, ignore_errors=True)
    making = Path(tempfile.mkdtemp(prefix="unpacking-", dir=folder))
    try:
        for name, data in release.files.items():
            path = making / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        making.rename(target)
    except OSError as error:
        if not _holds(target, release):
            raise Unavailable(
                f"the release is not unpacked into {folder}: {error.strerror}",
                mend="check the folder's rights and the disk's space",
            ) from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target


def _holds(folder: Path, release: Release) -> bool:
    try:
        present = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
    except OSError:
        return False
    return present == dict(release.files)
