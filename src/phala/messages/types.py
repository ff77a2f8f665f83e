"""Ids that cross trust lines, each its own type; with them, the descriptors of all wire types."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NewType, TypeVar, cast

from phala.codec import Descriptor, FixedBytes, UInt, descriptor_of
from phala.primitives import types as words

T = TypeVar("T")

WorkerId = NewType("WorkerId", bytes)  # 32 bytes: the sr25519 public key that evidence binds
ContractId = NewType("ContractId", bytes)  # 32 bytes
ClusterId = NewType("ClusterId", bytes)  # 32 bytes
CodeId = NewType("CodeId", bytes)  # 32 bytes: blake2_256(runtime id ‖ source)
CallId = NewType("CallId", bytes)  # 32 bytes: names one command, query or deployment
SealKey = NewType("SealKey", bytes)  # 32 bytes: an X25519 public key, to encrypt to
Signature64 = NewType("Signature64", bytes)  # 64 bytes: sr25519
Generation = NewType("Generation", int)  # of a cluster's keys, from 1
Epoch = NewType("Epoch", int)  # of a worker's short-lived encryption key, from 1
Count = NewType("Count", int)  # messages in a topic so far

_BYTES_32: Final[FixedBytes[bytes]] = FixedBytes(32)
_BYTES_64: Final[FixedBytes[bytes]] = FixedBytes(64)
_U32: Final[UInt[int]] = UInt(32)
_U64: Final[UInt[int]] = UInt(64)

DESCRIPTORS: Final[Mapping[Any, Descriptor[Any]]] = MappingProxyType(
    {
        **words.DESCRIPTORS,
        **dict.fromkeys((WorkerId, ContractId, ClusterId, CodeId, CallId, SealKey), _BYTES_32),
        Signature64: _BYTES_64,
        Generation: _U32,
        Epoch: _U32,
        Count: _U64,
    }
)


def scale(kind: type[T]) -> Descriptor[T]:
    """The descriptor of a type above, of `primitives`, or of a dataclass made of them."""
    return cast("Descriptor[T]", descriptor_of(kind, DESCRIPTORS))
