"""ECDSA as evidence carries it: P-256 with SHA-256 for quotes, r and s of 32 bytes each,
big-endian; P-384 with SHA-384 for AMD, NVIDIA and Amazon.
"""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from phala.errors import Invalid

POINT_BYTES: Final = 33  # SEC 1, section 2.3.3, compressed
ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SEC 2, 2.4.2
ORDER_384: Final = int(  # SEC 2, 2.5.1
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
    "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
    16,
)

_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())
_ALGORITHM_384: Final = ec.ECDSA(hashes.SHA384())


class SignatureMismatch(Invalid):
    """The signature is not that key's, over those bytes."""

    def __init__(self, key: bytes) -> None:
        super().__init__(
            f"no signature of the key {key.hex()}", mend="give the bytes as they were signed"
        )


class PointInvalid(Invalid):
    """The bytes are no point of the curve."""

    def __init__(self, key: bytes) -> None:
        super().__init__(f"{key.hex()} is no P-256 public key", mend="give a point in SEC 1 form")


def ensure_point(key: bytes) -> ec.EllipticCurvePublicKey:
    """The key of 33 compressed bytes, or `PointInvalid`."""
    if len(key) != POINT_BYTES:
        raise PointInvalid(key)
    return _point(key)


def _point(encoded: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), encoded)
    except ValueError:
        raise PointInvalid(encoded) from None


def verify_p256(key: bytes, message: bytes, signature: bytes) -> bytes:
    """The message, when `signature` is the key's. Of its two forms the one with s in the lower
    half counts, so nobody without the key makes another.

    Args:
        key: 33 bytes compressed, or 64 bytes x and y.
        message: what was signed, not its hash.
        signature: 64 bytes.

    Raises:
        PointInvalid: `key` is no point.
        SignatureMismatch: everything else.
    """
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if len(signature) != 64 or 2 * s > ORDER:
        ensure_key(key)
        raise SignatureMismatch(key)
    verify_p256_any(key, message, r, s)
    return message


def ensure_key(key: bytes) -> ec.EllipticCurvePublicKey:
    """The key of 33 bytes compressed, or 64 bytes x and y; or `PointInvalid`."""
    return _point(b"\x04" + key) if len(key) == 64 else ensure_point(key)


def verify_p256_any(key: bytes, message: bytes, r: int, s: int) -> None:
    """Whether (r, s) is the key's over `message`, in either form of s; raises as `verify_p256`."""
    point = ensure_key(key)
    if not (0 < r < ORDER and 0 < s < ORDER):
        raise SignatureMismatch(key)
    try:
        point.verify(encode_dss_signature(r, s), message, _ALGORITHM)
    except InvalidSignature:
        raise SignatureMismatch(key) from None


def verify_p384(point: bytes, message: bytes, r: int, s: int) -> None:
    """Whether (r, s) is the key's, in either form of s: vendors give both.

    So evidence has two forms, and its identity is the hash of what was signed, never of the whole.

    Args:
        point: 97 bytes uncompressed.
        message: what was signed, not its hash.

    Raises:
        SignatureMismatch: whatever is wrong.
    """
    if not (0 < r < ORDER_384 and 0 < s < ORDER_384):
        raise SignatureMismatch(point)
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
        key.verify(encode_dss_signature(r, s), message, _ALGORITHM_384)
    except (InvalidSignature, ValueError):
        raise SignatureMismatch(point) from None
