"""Sealing with a key that only this code on this machine has: where that is from differs."""

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from phala.errors import Invalid

_NONCE_BYTES: Final = 12  # AES-GCM's own size, NIST SP 800-38D, section 8.2
_TAG_BYTES: Final = 16


class Sealer:
    """AES-GCM with a nonce by chance; the label is bound, not hidden."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, plaintext: bytes, *, label: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plaintext, label)

    def unseal(self, sealed: bytes, *, label: bytes) -> bytes:
        if len(sealed) < _NONCE_BYTES + _TAG_BYTES:
            raise Unopenable(sealed, label)
        try:
            return self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], label)
        except InvalidTag:
            raise Unopenable(sealed, label) from None


class Unopenable(Invalid):
    """Sealed bytes were altered, or are of another label, code or machine."""

    def __init__(self, sealed: bytes, label: bytes) -> None:
        super().__init__(
            f"{len(sealed)} sealed bytes do not open under the label {label!r}",
            mend="unseal what the same code sealed on this machine under the same label",
        )
