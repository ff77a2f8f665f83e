"""Receipts: what a worker swears to about one call, and the bundle that anyone can check offline.

A receipt hides what it is about: request and response stand in it as
`blake2_256(blinder ‖ bytes)`, and the blinder travels inside the encrypted reply.
Source: DESIGN §5.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import U8, Descriptor, FixedBytes
from phala.crypto.hashes import blake2_256
from phala.messages.types import (
    CallId,
    ClusterId,
    CodeId,
    ContractId,
    Count,
    Epoch,
    Generation,
    Signature64,
    WorkerId,
    scale,
)
from phala.primitives.types import BlockNumber, Hash

RECEIPT_VERSION: Final = 1

KIND_QUERY: Final = 0
KIND_COMMAND: Final = 1
KIND_DEPLOY: Final = 2


@dataclass(frozen=True, slots=True)
class Receipt:
    """Signed under `Purpose.RECEIPT`."""

    version: Annotated[int, U8]
    kind: Annotated[int, U8]
    genesis: Hash
    cluster: ClusterId
    contract: ContractId
    code_id: CodeId
    call: CallId
    # Blinded hash of the plaintext: SCALE SignedQuery or CommandRequest, a deployment's arguments.
    request: Annotated[bytes, FixedBytes(32)]
    response: Annotated[bytes, FixedBytes(32)]  # blinded hash of SCALE Outcome
    height: BlockNumber  # finalized block that the worker had reached
    block_hash: Hash
    count: Count  # of the cluster's topic, after this call for a command
    head: Hash
    root_mac: Annotated[bytes, FixedBytes(32)]  # HMAC(cluster root key, count ‖ state root)
    worker: WorkerId
    generation: Generation
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    body: Receipt
    signature: Signature64


RECEIPT: Final[Descriptor[Receipt]] = scale(Receipt)
SIGNED_RECEIPT: Final[Descriptor[SignedReceipt]] = scale(SignedReceipt)


def blinded(blinder: bytes, data: bytes) -> bytes:
    return blake2_256(blinder + data)
