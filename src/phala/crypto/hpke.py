"""Encryption to a public key: HPKE base mode, X25519, HKDF-SHA256, AES-256-GCM.

What a ciphertext is bound to goes into `info`. The ephemeral key comes from the operating system,
inside the library: a ciphertext is the one thing here that is not a function of its arguments.
Source: RFC 9180; single-shot API of `cryptography` 50.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from phala.crypto.secret import Secret
from phala.errors import Invalid

KEY_BYTES: Final = 32
OVERHEAD_BYTES: Final = 32 + 16  # the encapsulated key in front, the tag behind

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Unopenable(Invalid):
    """A ciphertext is altered, or is for another key or another place."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"{size} encrypted bytes do not open with this key for this place",
            mend="encrypt to the receiver's current key, with exactly the receiver's `info`",
        )


def public_of(private: Secret) -> bytes:
    """The 32-byte public key of a 32-byte X25519 private key (any 32 random bytes)."""
    return _private(private).public_key().public_bytes_raw()


def seal(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """`enc ‖ ciphertext`: `OVERHEAD_BYTES` more than the plaintext.

    Raises:
        Invalid: no X25519 key, or one of small order, to which nothing can be kept secret.
    """
    try:
        key = X25519PublicKey.from_public_bytes(public)
        return _SUITE.encrypt(plaintext, key, info)
    except ValueError:
        raise Invalid(
            f"0x{public.hex()} is no X25519 key", mend="take the receiver's key from the chain"
        ) from None


def open_sealed(private: Secret, sealed: bytes, info: bytes) -> bytes:
    """The plaintext, or `Unopenable`."""
    return Opener(private).open(sealed, info)


class Opener:
    """A private key that opens many: to load one takes a third as long as to open with it."""

    __slots__ = ("_key",)

    def __init__(self, private: Secret) -> None:
        self._key = _private(private)

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The plaintext, or `Unopenable`."""
        try:
            return _SUITE.decrypt(sealed, self._key, info)
        except (InvalidTag, ValueError):
            raise Unopenable(len(sealed)) from None


def _private(private: Secret) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(private.reveal())
