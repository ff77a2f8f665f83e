"""What a key signs is told apart by its purpose: no signature can stand for another."""

import enum

from phala.primitives.types import Hash


class Purpose(enum.Enum):
    """The values are wire format: never reuse one."""

    REGISTRATION = b"phala/registration/v1"
    ENCRYPTION_KEY = b"phala/encryption-key/v1"
    EGRESS = b"phala/egress/v1"
    RECEIPT = b"phala/receipt/v1"
    CERTIFICATE = b"phala/certificate/v1"
    QUERY = b"phala/query/v1"


def signed_bytes(purpose: Purpose, genesis: Hash, body: bytes) -> bytes:
    """What is really signed: a length byte, the purpose, the chain's genesis hash, the body."""
    return bytes([len(purpose.value)]) + purpose.value + genesis + body


def wrapped(message: bytes) -> bytes:
    """The same as a browser wallet signs it: between `<Bytes>` tags, so never an extrinsic."""
    return b"<Bytes>" + message + b"</Bytes>"
