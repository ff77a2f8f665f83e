"""Secret URIs of the keys that finalize: `PHRASE//hard///password`, `0xSEED//hard`, or `//Alice`,
from the development phrase that everybody knows.

Source: the `sp-core` crate, `crypto` and `ed25519`; ed25519 has hard junctions alone.
"""

import hashlib
import re
from typing import Final

from mnemonic import Mnemonic

from phala.codec.compact import encode_compact
from phala.crypto.hashes import blake2_256
from phala.errors import Invalid

DEV_PHRASE: Final = "bottom drive obey lake curtain smoke basket hold race lonely fit walk"
SURI: Final = re.compile(
    r"(?P<phrase>[\w ]*)(?P<path>(//?[^/]+)*)(///(?P<password>.*))?", re.DOTALL
)
JUNCTION: Final = re.compile("/(/?)([^/]+)")
CHARS_MAX: Final = 1024
SEED_BYTES: Final = 32
SEED: Final = re.compile("(?:0x)?[0-9a-fA-F]{64}", re.ASCII)
TAG: Final = encode_compact(11) + b"Ed25519HDKD"


def ed25519_seed(suri: str) -> bytes:
    """The 32-byte seed that a secret URI names.

    Raises:
        Invalid: it names none. What it says stands in no error.
    """
    found = SURI.fullmatch(suri) if len(suri) <= CHARS_MAX else None
    if found is None:
        raise _no_key("no secret URI")
    phrase = found["phrase"]
    if SEED.fullmatch(phrase):
        seed = bytes.fromhex(phrase.removeprefix("0x"))
    else:
        seed = _seed_of(phrase or DEV_PHRASE, found["password"] or "")
    for hard, name in JUNCTION.findall(found["path"]):
        if not hard:
            raise _no_key("a soft junction, which ed25519 has not")
        seed = blake2_256(TAG + seed + _chain_code(name))
    return seed


def _seed_of(phrase: str, password: str) -> bytes:
    """Substrate stretches the phrase's entropy, not its words."""
    try:
        entropy = bytes(Mnemonic("english").to_entropy(phrase.split()))
    except (ValueError, LookupError):
        raise _no_key("no BIP-39 phrase") from None
    salt = b"mnemonic" + password.encode()
    return hashlib.pbkdf2_hmac("sha512", entropy, salt, 2048)[:SEED_BYTES]


def _chain_code(junction: str) -> bytes:
    if junction.isascii() and junction.isdigit() and int(junction) < 1 << 64:
        return int(junction).to_bytes(SEED_BYTES, "little")
    text = junction.encode()
    encoded = encode_compact(len(text)) + text
    return blake2_256(encoded) if len(encoded) > SEED_BYTES else encoded.ljust(SEED_BYTES, b"\0")


def _no_key(what: str) -> Invalid:
    return Invalid(what, mend="write 'PHRASE//hard', '0xSEED' or '//Alice'")
