"""The keys by which a node finalizes: one in a file that it begins with, others in its keystore.

The keystore is Substrate's: a file a key, named by the hex of its type and of its public part. It
holds the secret as a JSON string; ours are seeds in hex.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from phala.crypto.signatures import Keypair, ed25519_from_seed
from phala.errors import Invalid, Refused

SEED_BYTES = 32
KEYSTORE = "keystore"
GRANDPA = b"gran"
KEYS_MAX = 64  # in a keystore


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
    """The pair of `grandpa.key`, that of `grandpa.next.key` where there is one, and those of the
    keystore: while authorities change, one folder finalizes for the set before and the set after.

    Raises:
        Invalid: a file holds no seed.
    """
    following = folder / "grandpa.next.key"
    others = (load_grandpa_key(following),) if following.exists() else ()
    found = (load_grandpa_key(folder / "grandpa.key"), *others, *load_keystore(folder))
    return tuple({pair.public: pair for pair in found}.values())


def load_keystore(folder: Path) -> Iterator[Keypair]:
    """Those of the keystore that finalize, by name. Raises `Invalid`: a file holds no seed, or
    another key's."""
    for path in sorted((folder / KEYSTORE).glob(GRANDPA.hex() + "*")):
        try:
            seed = bytes.fromhex(str(json.loads(path.read_text())).removeprefix("0x"))
        except (OSError, ValueError, RecursionError):
            seed = b""
        pair = ed25519_from_seed(seed) if len(seed) == SEED_BYTES else None
        if pair is None or path.name != GRANDPA.hex() + pair.public.hex():
            raise Invalid(f"{path} holds no key of its name", mend="remove it from the keystore")
        yield pair


def save_in_keystore(folder: Path, seed: bytes) -> Keypair:
    """Keep a key that finalizes. Raises `Refused`: there are too many."""
    pair = ed25519_from_seed(seed)
    place = folder / KEYSTORE
    place.mkdir(mode=0o700, exist_ok=True)
    path = place / (GRANDPA.hex() + pair.public.hex())
    if not path.exists() and sum(1 for _ in place.iterdir()) >= KEYS_MAX:
        raise Refused(f"{place} has {KEYS_MAX} keys", mend="remove those that no set names")
    partial = place / (".new-" + pair.public.hex())
    partial.touch(mode=0o600)
    partial.write_text(json.dumps("0x" + seed.hex()))
    partial.replace(path)
    return pair


def create_grandpa_key(path: Path) -> Keypair:
    """Make a key where there is none; the pair that the file holds then."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".new")
        partial.touch(mode=0o600)
        partial.write_text(os.urandom(SEED_BYTES).hex() + "\n")
        partial.replace(path)
    return load_grandpa_key(path)
