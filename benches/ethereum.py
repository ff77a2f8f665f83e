"""Signed Ethereum transfers, for the peers that the transfer bench runs against."""

from hashlib import sha256

from coincurve import PrivateKey
from Crypto.Hash import keccak

CHAIN_ID = 31337  # anvil's
GAS = 21_000
GAS_PRICE_WEI = 2_000_000_000


def keccak_256(data: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=data).digest()


def rlp(item: int | bytes | list[int | bytes]) -> bytes:
    """Recursive length prefix. Source: Ethereum yellow paper, appendix B."""
    if isinstance(item, list):
        return _with_length(b"".join(rlp(part) for part in item), 0xC0)
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if len(item) == 1 and item[0] < 0x80:
        return item
    return _with_length(item, 0x80)


def _with_length(body: bytes, offset: int) -> bytes:
    if len(body) < 56:
        return bytes([offset + len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([offset + 55 + len(size)]) + size + body


class Sender:
    """A key from a number, and its next nonce."""

    def __init__(self, number: int, chain_id: int = CHAIN_ID) -> None:
        self.chain_id = chain_id
        self.key = PrivateKey(sha256(b"sender%d" % number).digest())
        self.address = keccak_256(self.key.public_key.format(compressed=False)[1:])[12:]
        self.nonce = 0

    def transfer(self, to: bytes, wei: int) -> bytes:
        """A raw legacy transaction. Source: EIP-155."""
        fields: list[int | bytes] = [self.nonce, GAS_PRICE_WEI, GAS, to, wei, b""]
        digest = keccak_256(rlp([*fields, self.chain_id, 0, 0]))
        signature = self.key.sign_recoverable(digest, hasher=None)
        r, s = (int.from_bytes(signature[i : i + 32], "big") for i in (0, 32))
        self.nonce += 1
        return rlp([*fields, self.chain_id * 2 + 35 + signature[64], r, s])
