"""Keys from keys: HKDF-SHA256 (RFC 5869), `info` made of length-prefixed parts."""

import hashlib
import hmac
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from phala.crypto.secret import Secret

SALT: Final = b"phala/kdf/v1"


def derive(key: Secret, *info: bytes, size: int = 32) -> Secret:
    """A key for one purpose. Parts are length-prefixed: ("ab", "c") and ("a", "bc") differ."""
    joined = b"".join(len(part).to_bytes(4, "little") + part for part in info)
    return Secret(HKDF(SHA256(), size, SALT, joined).derive(key.reveal()))


def mac(key: Secret, message: bytes) -> bytes:
    """HMAC-SHA256, 32 bytes."""
    return hmac.new(key.reveal(), message, hashlib.sha256).digest()
