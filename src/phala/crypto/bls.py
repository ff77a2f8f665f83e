"""Threshold BLS over BLS12-381: keys in G1 (48 bytes), signatures in G2 (96 bytes).

A group's secret is shared; a partial is a share's signature, each verifiable on its own, and enough
of them combine to the group's signature, which serves as a key (`derive`) or as randomness
(`beacon`) under different messages. blst does the secret arithmetic, constant-time. With a
threshold of 1 a share is the secret, and a partial the signature. Source: DESIGN §6; the scheme is
`BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_` of draft-irtf-cfrg-bls-signature.
"""

from collections.abc import Mapping
from typing import Final

from blspy import BasicSchemeMPL, G1Element, G2Element, PrivateKey

from phala.crypto.secret import Secret
from phala.errors import Invalid

PUBLIC_BYTES: Final = 48
PARTIAL_BYTES: Final = 96


class BadPartial(Invalid):
    """A partial is not this share's signature of this message."""

    def __init__(self, index: int) -> None:
        super().__init__(
            f"the partial of share {index} does not verify",
            mend="ask that gatekeeper again, for the current generation",
        )


def keygen(seed: Secret) -> Secret:
    """A secret scalar from at least 32 random bytes."""
    return Secret(bytes(BasicSchemeMPL.key_gen(seed.reveal())))


def public_of(secret: Secret) -> bytes:
    return bytes(PrivateKey.from_bytes(secret.reveal()).get_g1())


def partial(share: Secret, message: bytes) -> bytes:
    return bytes(BasicSchemeMPL.sign(PrivateKey.from_bytes(share.reveal()), message))


def verify_partial(public: bytes, message: bytes, found: bytes, *, index: int) -> None:
    """Raises `BadPartial`, also for bytes that are no points of the groups."""
    try:
        good = BasicSchemeMPL.verify(
            G1Element.from_bytes(public), message, G2Element.from_bytes(found)
        )
    except (ValueError, RuntimeError):
        good = False
    if not good:
        raise BadPartial(index)


def combine(partials: Mapping[int, bytes], *, threshold: int) -> Secret:
    """The group's signature of verified partials, by index of their share, from 1.

    Raises:
        Invalid: too few, or a threshold above 1: shares of more than one gatekeeper need a
            distributed key generation, which this release does not run.
    """
    if threshold != 1:
        raise Invalid(
            f"a threshold of {threshold}", mend="run one gatekeeper with a threshold of 1"
        )
    if not partials:
        raise Invalid("no partial of 1 that is needed", mend="wait for the gatekeeper's")
    return Secret(partials[min(partials)])
