"""Enclave to chain: signed messages, each with the sender's next number."""

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from phala.codec import U8, U32, U64, Bytes, Descriptor, Enum, struct_of
from phala.messages.payloads.cluster import PartialGiven
from phala.messages.payloads.system import GROUP_KEY_BYTES
from phala.messages.types import (
    DESCRIPTORS,
    ContractId,
    Generation,
    SealKey,
    Signature64,
    WorkerId,
    scale,
)
from phala.primitives.types import Hash

EGRESS_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class GroupKeyAnnounced:
    """The outcome of a period's key generation, as one gatekeeper has it."""

    period: Annotated[int, U32]
    public: Annotated[bytes, Bytes(bytes_max=GROUP_KEY_BYTES)]


@dataclass(frozen=True, slots=True)
class ContractKeyAnnounced:
    """A contract's public keys of a generation; they count when k replicas signed the same."""

    contract: ContractId
    generation: Generation
    command_key: SealKey
    signing_key: Annotated[bytes, Bytes(bytes_max=32)]  # sr25519


@dataclass(frozen=True, slots=True)
class ContractFailed:
    """`instantiate` did not succeed: the contract never comes to be."""

    contract: ContractId


EnclaveMessage: TypeAlias = GroupKeyAnnounced | PartialGiven | ContractKeyAnnounced | ContractFailed

ENCLAVE_MESSAGE: Final = Enum(
    ("phala", "messages", "EnclaveMessage"),
    tuple(
        (index, struct_of(kind, DESCRIPTORS))
        for index, kind in enumerate(
            (GroupKeyAnnounced, PartialGiven, ContractKeyAnnounced, ContractFailed)
        )
    ),
)


@dataclass(frozen=True, slots=True)
class EgressBody:
    """What the worker signs, under `Purpose.EGRESS`. `sequence` starts at 0 and has no gaps."""

    version: Annotated[int, U8]
    genesis: Hash
    worker: WorkerId
    sequence: Annotated[int, U64]
    message: Annotated[EnclaveMessage, ENCLAVE_MESSAGE]


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """A call argument of `PhalaMq.sync_offchain_message`."""

    body: EgressBody
    signature: Signature64


EGRESS_BODY: Final[Descriptor[EgressBody]] = scale(EgressBody)
SIGNED_MESSAGE: Final[Descriptor[SignedMessage]] = scale(SignedMessage)
