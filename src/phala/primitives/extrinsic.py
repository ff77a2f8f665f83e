"""Extrinsics of format version 4: signed by an account, or bare.

    compact length ‖ 0x84 ‖ address ‖ signature ‖ era ‖ compact nonce ‖ compact tip ‖ call
    compact length ‖ 0x04 ‖ call

The extra data is that of the eight classic signed extensions, of which three have any. What is
signed also holds what the chain knows by itself: versions, genesis, the era's first block.
Source: reference/substrate-compat.md §1.4; `sp_runtime::generic::{UncheckedExtrinsic, Era}`.
"""

from dataclasses import dataclass
from typing import Final

from phala.codec import U32, U128, Compact, Malformed, Reader, Tuple
from phala.codec.compact import encode_compact, read_compact
from phala.codec.records import record
from phala.crypto.hashes import blake2_256
from phala.primitives.address import (
    MULTI_ADDRESS,
    MULTI_SIGNATURE,
    MultiAddress,
    MultiSignature,
)
from phala.primitives.types import Balance, BlockNumber, Hash

EXTRINSIC_VERSION: Final = 4
SIGNED_BIT: Final = 0x80
EXTRINSIC_BYTES_MAX: Final = 5 * 1024 * 1024  # Substrate's block length limit
PAYLOAD_BYTES_MAX: Final = 256  # longer ones are hashed before they are signed
PERIOD_MIN, PERIOD_MAX = 4, 1 << 16

SIGNED_EXTENSIONS: Final = (
    "CheckNonZeroSender",
    "CheckSpecVersion",
    "CheckTxVersion",
    "CheckGenesis",
    "CheckMortality",
    "CheckNonce",
    "CheckWeight",
    "ChargeTransactionPayment",
)

_NONCE: Final[Compact[int]] = Compact(U32)
_TIP: Final[Compact[int]] = Compact(U128)
SIGNER: Final = Tuple((MULTI_ADDRESS, MULTI_SIGNATURE))
NONCE_TIP: Final = Tuple((_NONCE, _TIP))


@dataclass(frozen=True, slots=True)
class Era:
    """How long an extrinsic may wait: for ever (`period` 0), or in one window of blocks.

    `period` is a power of two, 4..65536; `phase` is the birth block modulo the period, a multiple
    of `period >> 12` where that is more than one.
    """

    period: int = 0
    phase: int = 0

    @staticmethod
    def mortal(period: int, current: BlockNumber) -> "Era":
        """The era that holds `current`, of the next power of two of blocks."""
        size = min(max(1 << max(period - 1, 1).bit_length(), PERIOD_MIN), PERIOD_MAX)
        step = max(size >> 12, 1)
        return Era(size, current % size // step * step)

    def encode(self) -> bytes:
        if not self.period:
            return b"\0"
        step = max(self.period >> 12, 1)
        low = min(max(self.period.bit_length() - 2, 1), 15)
        return (low | self.phase // step << 4).to_bytes(2, "little")

    def birth(self, current: BlockNumber) -> BlockNumber:
        """The first block of the window that holds `current`; its hash is signed as well."""
        if not self.period:
            return BlockNumber(0)
        latest = max(current, self.phase) - self.phase
        return BlockNumber(latest // self.period * self.period + self.phase)

    def death(self, current: BlockNumber) -> int:
        """The first block after the window; 2**64 - 1 for immortal ones."""
        return self.birth(current) + self.period if self.period else (1 << 64) - 1


IMMORTAL: Final = Era()


def read_era(reader: Reader) -> Era:
    """An era from the front; forms that `Era.encode` does not make are `Malformed`."""
    start = reader.offset
    first = reader.take(1)
    if first == b"\0":
        return IMMORTAL
    number = int.from_bytes(first + reader.take(1), "little")
    period = 2 << (number & 15)
    step = max(period >> 12, 1)
    phase = (number >> 4) * step
    if period < PERIOD_MIN or phase >= period:
        raise Malformed(f"{number} is no era", offset=start)
    return Era(period, phase)


@record
class Signature:
    """Who signed, and the extra data of the signed extensions."""

    signer: MultiAddress
    signature: MultiSignature
    era: Era
    nonce: int
    tip: Balance

    def extra(self) -> bytes:
        nonce, tip = self.nonce, self.tip
        if 0 <= nonce < 1 << 32 and 0 <= tip < 1 << 128:
            return self.era.encode() + encode_compact(nonce) + encode_compact(tip)
        return self.era.encode() + _NONCE.encode(nonce) + _TIP.encode(tip)  # raises


@record
class Extrinsic:
    """A call, not yet decoded, and who sent it; None: bare, it proves itself."""

    signature: Signature | None
    call: bytes

    def encode(self) -> bytes:
        """With its length in front, as in blocks and in RPC."""
        if self.signature is None:
            body = bytes([EXTRINSIC_VERSION]) + self.call
        else:
            by = self.signature
            body = b"".join(
                (
                    bytes([EXTRINSIC_VERSION | SIGNED_BIT]),
                    MULTI_ADDRESS.encode(by.signer),
                    MULTI_SIGNATURE.encode(by.signature),
                    by.extra(),
                    self.call,
                )
            )
        return encode_compact(len(body)) + body


def decode_extrinsic(data: bytes) -> Extrinsic:
    """An extrinsic with its length in front. Raises `Malformed`."""
    reader = Reader(data)
    size = read_compact(reader)
    if size > EXTRINSIC_BYTES_MAX:
        raise Malformed(f"{size} bytes, at most {EXTRINSIC_BYTES_MAX} are allowed", offset=0)
    if size != len(data) - reader.offset:
        raise Malformed(f"{size} bytes are said, {len(data) - reader.offset} follow", offset=0)
    (version,) = reader.take(1)
    if version == EXTRINSIC_VERSION | SIGNED_BIT:
        (signer, signed), at = SIGNER.decode_from(data, reader.offset)
        reader = Reader(data, at)
        era = read_era(reader)
        (nonce, tip), at = NONCE_TIP.decode_from(data, reader.offset)
        return Extrinsic(Signature(signer, signed, era, nonce, Balance(tip)), data[at:])
    if version != EXTRINSIC_VERSION:
        raise Malformed(f"extrinsic version {version}", offset=reader.offset - 1)
    return Extrinsic(None, data[reader.offset :])


def signing_payload(
    call: bytes,
    extra: bytes,
    *,
    spec_version: int,
    transaction_version: int,
    genesis: Hash,
    birth_hash: Hash,
) -> bytes:
    """What an account signs: call, extra data, what the extensions add; hashed when longer."""
    payload = b"".join(
        (
            call,
            extra,
            spec_version.to_bytes(4, "little"),
            transaction_version.to_bytes(4, "little"),
            genesis,
            birth_hash,
        )
    )
    return blake2_256(payload) if len(payload) > PAYLOAD_BYTES_MAX else payload


def extrinsic_hash(data: bytes) -> Hash:
    return Hash(blake2_256(data))
