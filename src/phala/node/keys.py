"""The key by which a solo node finalizes."""

import os
from pathlib import Path

from phala.crypto.signatures import Keypair, ed25519_from_seed
from phala.errors import Invalid

SEED_BYTES = 32


def load_grandpa_key(path: Path) -> Keypair:
    """The ed25519 pair of a file with a seed in hex.

    Raises:
        Invalid: there is none, or it is no seed.
    """
    try:
        seed = bytes.fromhex(path.read_text().strip().removeprefix("0x"))
    except (OSError, ValueError):
        seed = b""
    if len(seed) != SEED_BYTES:
        raise Invalid(
            f"{path} holds no finality key",
            mend="write 32 random bytes in hex there, and their public key into the spec",
        )
    return ed25519_from_seed(seed)


def load_grandpa_keys(folder: Path) -> tuple[Keypair, ...]:
    """The pair of `grandpa.key` and, where there is one, of `grandpa.next.key`: while authorities
    change, one folder finalizes for the set before and for the set after.

    Raises:
        Invalid: a file holds no seed.
    """
    following = folder / "grandpa.next.key"
    others = (load_grandpa_key(following),) if following.exists() else ()
    return (load_grandpa_key(folder / "grandpa.key"), *others)


def create_grandpa_key(path: Path) -> Keypair:
    """Make a key where there is none; the pair that the file holds then."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".new")
        partial.touch(mode=0o600)
        partial.write_text(os.urandom(SEED_BYTES).hex() + "\n")
        partial.replace(path)
    return load_grandpa_key(path)
