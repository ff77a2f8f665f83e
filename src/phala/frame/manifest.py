"""What stands under `:code`: which release makes the blocks after this state.

    phala runtime manifest 1
    name phala
    release 64 hex digits      blake2_256 of the release's own name
    metadata 64 hex digits     blake2_256 of its metadata, version 15
    spec 1
    sources 64 hex digits      of the release's archive; may be left out

The text is canonical: one manifest has one form, so it is told by its hash. Metadata is in it
because clients keep theirs by the hash of `:code`. With `sources` no other code will do; without,
whatever has this name, metadata and version does.
"""

import re
from dataclasses import dataclass
from typing import Final

from phala.errors import Invalid
from phala.primitives.types import Hash

CODE_KEY: Final = b":code"
MANIFEST_BYTES_MAX: Final = 512
SPEC_VERSION_MAX: Final = (1 << 32) - 1

_FORM: Final = re.compile(
    r"phala runtime manifest 1\n"
    r"name ([a-z][a-z0-9-]{0,31})\n"
    r"release ([0-9a-f]{64})\n"
    r"metadata ([0-9a-f]{64})\n"
    r"spec (0|[1-9][0-9]{0,9})\n"
    r"(?:sources ([0-9a-f]{64})\n)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A release, as the chain names it."""

    name: str
    release: Hash
    metadata: Hash
    spec_version: int
    sources: Hash | None = None

    def encode(self) -> bytes:
        lines = [
            "phala runtime manifest 1",
            f"name {self.name}",
            f"release {self.release.hex()}",
            f"metadata {self.metadata.hex()}",
            f"spec {self.spec_version}",
        ]
        if self.sources is not None:
            lines.append(f"sources {self.sources.hex()}")
        return ("\n".join(lines) + "\n").encode()

    @staticmethod
    def decode(data: bytes) -> "Manifest":
        """Raises `Invalid`: these bytes are no manifest, or none in its one form."""
        text = data[: MANIFEST_BYTES_MAX + 1].decode("ascii", errors="replace")
        found = _FORM.fullmatch(text)
        if found is None or int(found[4]) > SPEC_VERSION_MAX:
            raise Invalid(
                f"{len(data)} bytes that are no runtime manifest",
                mend="make one by: phala node release FILE",
            )
        return Manifest(
            found[1],
            Hash(bytes.fromhex(found[2])),
            Hash(bytes.fromhex(found[3])),
            int(found[4]),
            None if found[5] is None else Hash(bytes.fromhex(found[5])),
        )
