"""Signatures of the three kinds that Substrate accounts have. A bad one raises.

sr25519 signs with Substrate's context; ed25519 is judged by ZIP-215 (`ed25519-zebra`), as Substrate
does: acceptance at the edges differs between libraries, and it is consensus.
"""

from dataclasses import dataclass
from typing import Final

import ed25519_zebra
import sr25519
from coincurve import PublicKey

from phala.crypto.hashes import blake2_256
from phala.crypto.secret import Secret
from phala.errors import Invalid

PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
ECDSA_SIGNATURE_BYTES: Final = 65  # r, s, recovery id
ECDSA_PUBLIC_BYTES: Final = 33


class BadSignature(Invalid):
    """The key did not sign these bytes."""

    def __init__(self, scheme: str, public: bytes) -> None:
        super().__init__(
            f"the {scheme} key 0x{public.hex()} did not sign these bytes",
            mend="sign exactly these bytes, for this purpose and chain, with this key",
        )


@dataclass(frozen=True, slots=True)
class Keypair:
    """An sr25519 or ed25519 key."""

    public: bytes
    secret: Secret

    def __post_init__(self) -> None:
        assert len(self.public) == PUBLIC_BYTES


def sr25519_from_seed(seed: bytes) -> Keypair:
    """The pair of a 32-byte mini secret, as Substrate expands it."""
    public, secret = sr25519.pair_from_seed(_sized(seed, 32, "a seed"))
    return Keypair(public, Secret(secret))


def sr25519_sign(pair: Keypair, message: bytes) -> bytes:
    """64 bytes. Signing is randomized: two signatures of one message differ."""
    signature: bytes = sr25519.sign((pair.public, pair.secret.reveal()), message)
    return signature


def sr25519_verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Raises `BadSignature`, also for bytes that are no key or no signature."""
    try:
        good = (
            len(public) == PUBLIC_BYTES
            and len(signature) == SIGNATURE_BYTES
            and sr25519.verify(signature, message, public)
        )
    except Exception:  # noqa: BLE001 - the library raises several kinds for bytes that are no key
        good = False
    if not good:
        raise BadSignature("sr25519", public)


def ed25519_from_seed(seed: bytes) -> Keypair:
    secret, public = ed25519_zebra.ed_from_seed(_sized(seed, 32, "a seed"))
    return Keypair(public, Secret(secret))


def ed25519_sign(pair: Keypair, message: bytes) -> bytes:
    """64 bytes, the same for the same message."""
    signature: bytes = ed25519_zebra.ed_sign(pair.secret.reveal(), message)
    return signature


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Raises `BadSignature`, also for bytes that are no key or no signature."""
    try:
        good = (
            len(public) == PUBLIC_BYTES
            and len(signature) == SIGNATURE_BYTES
            and ed25519_zebra.ed_verify(signature, message, public)
        )
    except Exception:  # noqa: BLE001 - the library raises several kinds for bytes that are no key
        good = False
    if not good:
        raise BadSignature("ed25519", public)


def ecdsa_recover(message: bytes, signature: bytes) -> bytes:
    """The 33-byte compressed key that signed blake2_256 of the message. Raises `BadSignature`."""
    try:
        return PublicKey.from_signature_and_message(
            _sized(signature, ECDSA_SIGNATURE_BYTES, "a signature"), blake2_256(message), None
        ).format(compressed=True)
    except Exception:  # noqa: BLE001 - the library raises several kinds for what is no signature
        raise BadSignature("ecdsa", b"") from None


def ecdsa_account(public: bytes) -> bytes:
    """The account of an ecdsa key: blake2_256 of its compressed form."""
    return blake2_256(_sized(public, ECDSA_PUBLIC_BYTES, "an ecdsa key"))


def verify_account(scheme: int, account: bytes, message: bytes, signature: bytes) -> None:
    """An account's signature, of the scheme that Substrate's `MultiSignature` numbers so: 0
    ed25519, 1 sr25519, else ecdsa. Raises `Invalid`."""
    match scheme:
        case 0:
            ed25519_verify(account, message, signature)
        case 1:
            sr25519_verify(account, message, signature)
        case _:
            if ecdsa_account(ecdsa_recover(message, signature)) != account:
                raise Invalid("another key signed", mend="sign with the account's own key")


def _sized(data: bytes, size: int, what: str) -> bytes:
    if len(data) != size:
        raise Invalid(f"{what} of {len(data)} bytes", mend=f"pass {size} bytes")
    return data
