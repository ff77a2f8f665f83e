"""Keys that sign as Substrate does, for clients that bring none of their own.

`async-substrate-interface` brings none; `substrate-interface` signs with ECDSA as Ethereum does.
"""

from hashlib import blake2b

import coincurve
import ed25519_zebra
import sr25519

ED25519, SR25519, ECDSA = 0, 1, 2
# The phrase that everybody knows ("bottom drive obey …"), as `sp_core::crypto::DEV_PHRASE`.
DEV_SEED = bytes.fromhex("fac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e")
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def ss58(account: bytes, form: int) -> str:
    """An address, of a form under 64."""
    body = bytes([form]) + account
    body += blake2b(b"SS58PRE" + body).digest()[:2]
    number, text = int.from_bytes(body), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return text


class Key:
    """What both clients ask of a key pair: `crypto_type`, `public_key`, `ss58_address`, `sign`.

    Both put `public_key` where the account stands, so for ECDSA it is the hash of the key.
    """

    def __init__(self, crypto_type: int, seed: bytes, form: int) -> None:
        self.crypto_type, self.ss58_format = crypto_type, form
        if crypto_type == SR25519:
            self._pair = sr25519.pair_from_seed(seed)
            self.public_key = self._pair[0]
        elif crypto_type == ED25519:
            self._secret, self.public_key = ed25519_zebra.ed_from_seed(seed)
        else:
            self._private = coincurve.PrivateKey(seed)
            compressed = self._private.public_key.format(compressed=True)
            self.public_key = blake2b(compressed, digest_size=32).digest()
        self.ss58_address = ss58(self.public_key, form)

    def sign(self, data: object) -> bytes:
        message = bytes(getattr(data, "data", data))
        if self.crypto_type == SR25519:
            return sr25519.sign(self._pair, message)
        if self.crypto_type == ED25519:
            return ed25519_zebra.ed_sign(self._secret, message)
        digest = blake2b(message, digest_size=32).digest()
        return self._private.sign_recoverable(digest, hasher=None)

    @classmethod
    def dev(cls, uri: str, form: int) -> "Key":
        """`//Alice` and her like."""
        name = uri.removeprefix("//").encode()
        junction = (bytes([len(name) * 4]) + name).ljust(32, b"\0")
        public, private = sr25519.pair_from_seed(DEV_SEED)
        _, *pair = sr25519.hard_derive_keypair((junction, public, private), b"")
        key = cls(SR25519, DEV_SEED, form)
        key._pair = tuple(pair)
        key.public_key = pair[0]
        key.ss58_address = ss58(key.public_key, form)
        return key
