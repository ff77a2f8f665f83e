"""What the simulated platform says that it measured: the sources of sealed code, and the runtime.

A real platform measures the image that it starts. Here the same is said of the files that the
interpreter would load; a changed file is another enclave, which opens nothing of the old one's.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from phala.primitives.types import Hash

PACKAGE: Final = Path(__file__).parents[1]
# Rooms that sealed code never reaches, see `docs/tcb.txt`. All others are measured, new ones too.
OUTSIDE: Final = frozenset(
    {
        "bridge",
        "cli",
        "console",
        "devnet",
        "economics",
        "frame",
        "market",
        "node",
        "pallets",
        "pherry",
        "runtime",
        "sdk",
        "testing",
        "worker",
    }
)


@cache
def sources_digest() -> bytes:
    """SHA-384 over name and bytes of each module that sealed code may reach, by name."""
    digest = hashlib.sha384()
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in OUTSIDE:
            continue
        data = path.read_bytes()
        name = path.relative_to(PACKAGE).as_posix().encode()
        for part in (name, data):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def simulated_measurement(runtime_id: Hash) -> bytes:
    """48 bytes: what genesis allows, and what a simulated worker's evidence says."""
    return hashlib.sha384(b"phala/simulated/v1" + sources_digest() + runtime_id).digest()
