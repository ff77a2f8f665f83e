"""The form of extrinsics as clients learn it: the eight classic signed extensions, no other.

Old clients skip an extension that they do not know, and what they sign is refused: so there is
never a ninth with data. Source: reference/substrate-compat.md §1.4, §2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from phala.codec import (
    U8,
    U32,
    UNIT,
    Bytes,
    Compact,
    Descriptor,
    Newtype,
    Registry,
    Tuple,
)
from phala.codec.registry import (
    Field,
    Type,
    TypeDefComposite,
    TypeDefVariant,
    Variant,
)
from phala.frame import Pallet, TypeOnly
from phala.frame.metadata import Extension, Extrinsics
from phala.frame.outer import outer_call
from phala.primitives.address import MULTI_ADDRESS, MULTI_SIGNATURE
from phala.primitives.extrinsic import (
    EXTRINSIC_BYTES_MAX,
    EXTRINSIC_VERSION,
    SIGNED_EXTENSIONS,
)
from phala.primitives.types import BALANCE, HASH
from phala.runtime.world import PALLETS


@dataclass(frozen=True, slots=True)
class EraType(TypeOnly):
    """All 256 variants, as Substrate writes them: `Immortal`, then one for each first byte."""

    def type_info(self, registry: Registry, /) -> Type:
        second = Field(None, registry.id_of(U8), None)
        mortal = tuple(Variant(f"Mortal{byte}", (second,), byte, ()) for byte in range(1, 256))
        variants = (Variant("Immortal", (), 0, ()), *mortal)
        return Type(TypeDefVariant(variants), ("sp_runtime", "generic", "era", "Era"))


@dataclass(frozen=True, slots=True)
class EmptyType(TypeOnly):
    """A record of nothing."""

    path: tuple[str, ...]

    def type_info(self, _registry: Registry, /) -> Type:
        return Type(TypeDefComposite(()), self.path)


@dataclass(frozen=True, slots=True)
class UncheckedExtrinsicType(TypeOnly):
    pallets: tuple[tuple[int, type[Pallet]], ...]
    extra: Descriptor[Any]

    def type_info(self, registry: Registry, /) -> Type:
        whole = Field(None, registry.id_of(Bytes(bytes_max=EXTRINSIC_BYTES_MAX)), None)
        params = (
            ("Address", registry.id_of(MULTI_ADDRESS)),
            ("Call", registry.id_of(outer_call(dict(self.pallets)))),
            ("Signature", registry.id_of(MULTI_SIGNATURE)),
            ("Extra", registry.id_of(self.extra)),
        )
        path = ("sp_runtime", "generic", "unchecked_extrinsic", "UncheckedExtrinsic")
        return Type(TypeDefComposite((whole,)), path, params=params)


def _frame_system(module: str, name: str) -> tuple[str, ...]:
    return ("frame_system", "extensions", module, name)


# What each adds to an extrinsic, and to what is signed.
_FORMS: Final[Mapping[str, tuple[Descriptor[Any], Descriptor[Any]]]] = {
    "CheckNonZeroSender": (
        EmptyType(_frame_system("check_non_zero_sender", "CheckNonZeroSender")),
        UNIT,
    ),
    "CheckSpecVersion": (
        EmptyType(_frame_system("check_spec_version", "CheckSpecVersion")),
        U32,
    ),
    "CheckTxVersion": (EmptyType(_frame_system("check_tx_version", "CheckTxVersion")), U32),
    "CheckGenesis": (EmptyType(_frame_system("check_genesis", "CheckGenesis")), HASH),
    "CheckMortality": (
        Newtype(_frame_system("check_mortality", "CheckMortality"), EraType()),
        HASH,
    ),
    "CheckNonce": (Newtype(_frame_system("check_nonce", "CheckNonce"), Compact(U32)), UNIT),
    "CheckWeight": (EmptyType(_frame_system("check_weight", "CheckWeight")), UNIT),
    "ChargeTransactionPayment": (
        Newtype(("pallet_transaction_payment", "ChargeTransactionPayment"), Compact(BALANCE)),
        UNIT,
    ),
}

EXTENSIONS: Final = tuple(Extension(name, *_FORMS[name]) for name in SIGNED_EXTENSIONS)
EXTRA: Final = Tuple(tuple(extension.extra for extension in EXTENSIONS))
WHOLE: Final = UncheckedExtrinsicType(tuple(PALLETS.items()), EXTRA)

EXTRINSICS: Final = Extrinsics(
    version=EXTRINSIC_VERSION,
    address=MULTI_ADDRESS,
    signature=MULTI_SIGNATURE,
    extensions=EXTENSIONS,
    extra=EXTRA,
    whole=WHOLE,
)
