"""Hashes, computed by the host: Python in the guest is three times slower."""

from phala.phat.host import CURRENT


def blake2_256(data: bytes) -> bytes:
    return CURRENT.get().blake2_256(bytes(data))


def sha2_256(data: bytes) -> bytes:
    return CURRENT.get().sha2_256(bytes(data))
