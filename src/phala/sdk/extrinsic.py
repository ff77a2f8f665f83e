"""Signed extrinsics of version 4, for the signed extensions that the chain's metadata lists.

Source: the `sp-runtime` crate, `generic::{UncheckedExtrinsic, Era}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from phala.codec.compact import encode_compact
from phala.crypto.hashes import blake2_256
from phala.errors import Invalid, Refused
from phala.sdk.keyring import Keypair

VERSION: Final = 4
SIGNED: Final = 0x80
ADDRESS_ID: Final = b"\0"  # MultiAddress::Id
PAYLOAD_BYTES_MAX: Final = 256  # longer ones are signed by their hash
ERA_BLOCKS: Final = (4, 65_536)
IMMORTAL: Final = b"\0"


@dataclass(frozen=True, slots=True)
class Mortality:
    """Valid from a block on, for a number of blocks that is a power of two."""

    born: int
    born_hash: bytes
    blocks: int

    @property
    def dies(self) -> int:
        """The first block that refuses it. Few periods are exact: then it dies a little earlier."""
        quantum = max(self.blocks >> 12, 1)
        phase = self.born % self.blocks // quantum * quantum
        return self.born - (self.born - phase) % self.blocks + self.blocks


@dataclass(frozen=True, slots=True)
class Terms:
    """What an extrinsic is signed for, beside its call."""

    genesis: bytes
    spec_version: int
    transaction_version: int
    nonce: int
    tip: int
    mortality: Mortality | None  # None: for ever


def encode_era(mortality: Mortality | None) -> bytes:
    if mortality is None:
        return IMMORTAL
    blocks = mortality.blocks
    if not ERA_BLOCKS[0] <= blocks <= ERA_BLOCKS[1] or blocks & blocks - 1:
        raise Invalid(f"an era of {blocks} blocks", mend="use a power of two from 4 to 65536")
    quantum = max(blocks >> 12, 1)
    low = min(15, max(1, blocks.bit_length() - 2))
    return (low | (mortality.born % blocks // quantum) << 4).to_bytes(2, "little")


def sign_extrinsic(call: bytes, pair: Keypair, extensions: Sequence[str], terms: Terms) -> bytes:
    """The whole extrinsic with its length in front, as `author_submitExtrinsic` takes it."""
    extra, additional = _extensions(extensions, terms)
    payload = call + extra + additional
    if len(payload) > PAYLOAD_BYTES_MAX:
        payload = blake2_256(payload)
    signature = bytes([pair.type.signature_index]) + pair.sign(payload)
    body = bytes([VERSION | SIGNED]) + ADDRESS_ID + pair.public + signature + extra + call
    return encode_compact(len(body)) + body


def priced_extrinsic(call: bytes, pair: Keypair, extensions: Sequence[str], terms: Terms) -> bytes:
    """An extrinsic of the same size whose signature nobody would take: to ask for its fee."""
    extra, _ = _extensions(extensions, terms)
    signature = bytes([pair.type.signature_index]) + b"\1" * 64
    body = bytes([VERSION | SIGNED]) + ADDRESS_ID + pair.public + signature + extra + call
    return encode_compact(len(body)) + body


def bare_extrinsic(call: bytes) -> bytes:
    """One that carries its own proof in the call."""
    body = bytes([VERSION]) + call
    return encode_compact(len(body)) + body


def extrinsic_hash(extrinsic: bytes) -> bytes:
    return blake2_256(extrinsic)


def _extensions(names: Sequence[str], terms: Terms) -> tuple[bytes, bytes]:
    """What travels, and what is only signed; both in the chain's order."""
    era = encode_era(terms.mortality)
    checkpoint = terms.mortality.born_hash if terms.mortality else terms.genesis
    known: dict[str, tuple[bytes, bytes]] = {
        "CheckNonZeroSender": (b"", b""),
        "CheckSpecVersion": (b"", terms.spec_version.to_bytes(4, "little")),
        "CheckTxVersion": (b"", terms.transaction_version.to_bytes(4, "little")),
        "CheckGenesis": (b"", terms.genesis),
        "CheckMortality": (era, checkpoint),
        "CheckNonce": (encode_compact(terms.nonce), b""),
        "CheckWeight": (b"", b""),
        "ChargeTransactionPayment": (encode_compact(terms.tip), b""),
        "CheckMetadataHash": (b"\0", b"\0"),
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Refused(
            f"the chain wants {', '.join(unknown)} in its extrinsics", mend="update this client"
        )
    parts = [known[name] for name in names]
    return b"".join(extra for extra, _ in parts), b"".join(signed for _, signed in parts)
