"""AES-256-GCM with a given key. A nonce serves once a key. Source: NIST SP 800-38D."""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from phala.crypto.hpke import Unopenable
from phala.crypto.secret import Secret

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
NONCE_ZERO: Final = bytes(NONCE_BYTES)  # for keys that encrypt one message


def seal(key: Secret, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """The ciphertext with its tag behind."""
    return AESGCM(key.reveal()).encrypt(nonce, plaintext, associated)


def open_sealed(key: Secret, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    """The plaintext, or `Unopenable`."""
    try:
        return AESGCM(key.reveal()).decrypt(nonce, sealed, associated)
    except (InvalidTag, ValueError):
        raise Unopenable(len(sealed)) from None
