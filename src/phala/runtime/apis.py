"""The questions that clients ask of the runtime by `state_call`: their types."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from phala.codec import (
    BOOL,
    U8,
    U32,
    U64,
    Bytes,
    Descriptor,
    Newtype,
    Option,
    Reader,
    Registry,
    Tuple,
    Vector,
)
from phala.codec.registry import Field, Type, TypeDefComposite
from phala.frame import RUNTIME_CALL, WEIGHT, Case, Choice, Described, TypeOnly, Weight, cases_type
from phala.frame.metadata import Method, RuntimeApi
from phala.frame.weight import DISPATCH_CLASS
from phala.pallets.grandpa import AUTHORITIES
from phala.pallets.session import KEY_TYPE
from phala.pallets.transaction_payment import InclusionFee
from phala.primitives.types import ACCOUNT_ID, BALANCE, HASH, Balance, scale
from phala.runtime.extrinsics import WHOLE
from phala.runtime.outcome import InvalidTransaction, Problem, ValidTransaction
from phala.runtime.version import RUNTIME_VERSION

METADATA_BYTES_MAX: Final = 16 * 1024 * 1024
TAGS_MAX: Final = 64
TAG_BYTES_MAX: Final = 128

OPAQUE_METADATA: Final[Newtype[bytes]] = Newtype(
    ("sp_core", "OpaqueMetadata"), Bytes(bytes_max=METADATA_BYTES_MAX)
)
TAGS: Final = Vector(Bytes(bytes_max=TAG_BYTES_MAX), items_max=TAGS_MAX)
_VALIDITY: Final = ("sp_runtime", "transaction_validity")


@dataclass(frozen=True, slots=True)
class RuntimeDispatchInfo:
    """What a transaction weighs and costs, without its tip."""

    weight: Weight
    dispatch_class: int
    partial_fee: Balance


@dataclass(frozen=True, slots=True)
class RuntimeDispatchInfoDescriptor(Descriptor[RuntimeDispatchInfo]):
    def write(self, out: bytearray, value: RuntimeDispatchInfo, /) -> None:
        WEIGHT.write(out, value.weight)
        DISPATCH_CLASS.write(out, value.dispatch_class)
        BALANCE.write(out, value.partial_fee)

    def read(self, reader: Reader, /) -> RuntimeDispatchInfo:
        return RuntimeDispatchInfo(
            WEIGHT.read(reader), DISPATCH_CLASS.read(reader), BALANCE.read(reader)
        )

    def type_info(self, registry: Registry, /) -> Type:
        fields = (
            Field("weight", registry.id_of(WEIGHT), "Weight"),
            Field("class", registry.id_of(DISPATCH_CLASS), "DispatchClass"),
            Field("partial_fee", registry.id_of(BALANCE), "Balance"),
        )
        path = ("pallet_transaction_payment", "types", "RuntimeDispatchInfo")
        return Type(TypeDefComposite(fields), path)


@dataclass(frozen=True, slots=True)
class FeeDetails:
    inclusion_fee: Annotated[
        InclusionFee | None,
        Option(
            Described(("pallet_transaction_payment", "types", "InclusionFee"), scale(InclusionFee))
        ),
    ]
    tip: Balance


@dataclass(frozen=True, slots=True)
class ValidTransactionRecord:
    priority: Annotated[int, U64]
    requires: Annotated[tuple[bytes, ...], TAGS]
    provides: Annotated[tuple[bytes, ...], TAGS]
    longevity: Annotated[int, U64]
    propagate: Annotated[bool, BOOL]


@dataclass(frozen=True, slots=True)
class ProblemsType(TypeOnly):
    """`InvalidTransaction` (outer 0) or `UnknownTransaction` (1)."""

    outer: int

    def type_info(self, registry: Registry, /) -> Type:
        cases = [
            Case(camel(problem.name), problem.value[1], (U8,) if problem is Problem.CUSTOM else ())
            for problem in Problem
            if problem.value[0] == self.outer
        ]
        name = ("InvalidTransaction", "UnknownTransaction")[self.outer]
        return cases_type((*_VALIDITY, name), cases, registry)


@dataclass(frozen=True, slots=True)
class ValidityErrorType(TypeOnly):
    def type_info(self, registry: Registry, /) -> Type:
        cases = (Case("Invalid", 0, (ProblemsType(0),)), Case("Unknown", 1, (ProblemsType(1),)))
        return cases_type((*_VALIDITY, "TransactionValidityError"), cases, registry)


@dataclass(frozen=True, slots=True)
class ValidityType(TypeOnly):
    def type_info(self, registry: Registry, /) -> Type:
        cases = (Case("Ok", 0, (VALID_TRANSACTION,)), Case("Err", 1, (ValidityErrorType(),)))
        described = cases_type(("Result",), cases, registry)
        good, bad = registry.id_of(VALID_TRANSACTION), registry.id_of(ValidityErrorType())
        return replace(described, params=(("T", good), ("E", bad)))


def camel(name: str) -> str:
    """`BAD_PROOF` as `BadProof`."""
    return "".join(word.capitalize() for word in name.split("_"))


RUNTIME_DISPATCH_INFO: Final = RuntimeDispatchInfoDescriptor()
FEE_DETAILS: Final[Descriptor[FeeDetails]] = Described(
    ("pallet_transaction_payment", "types", "FeeDetails"), scale(FeeDetails)
)
VALID_TRANSACTION: Final[Descriptor[Any]] = Described(
    (*_VALIDITY, "ValidTransaction"), scale(ValidTransactionRecord)
)
ENCODED_KEYS: Final = Bytes(bytes_max=1024)
OPTIONAL_SEED: Final = Option(ENCODED_KEYS)
KEYS_BY_TYPE: Final = Option(Vector(Tuple((ENCODED_KEYS, KEY_TYPE)), items_max=16))
SOURCE: Final = Choice((*_VALIDITY, "TransactionSource"), ("InBlock", "Local", "External"))


def encode_validity(outcome: ValidTransaction | InvalidTransaction) -> bytes:
    """`Result<ValidTransaction, TransactionValidityError>`."""
    if isinstance(outcome, InvalidTransaction):
        return b"\x01" + outcome.encode()
    return b"\0" + VALID_TRANSACTION.encode(outcome)


FEES_OF_PARTS: Final = (
    Method("query_weight_to_fee", (("weight", WEIGHT),), BALANCE),
    Method("query_length_to_fee", (("length", U32),), BALANCE),
)
RUNTIME_APIS: Final = (
    RuntimeApi("Core", (Method("version", (), RUNTIME_VERSION),)),
    RuntimeApi(
        "Metadata",
        (
            Method("metadata", (), OPAQUE_METADATA),
            Method("metadata_at_version", (("version", U32),), Option(OPAQUE_METADATA)),
            Method("metadata_versions", (), Vector(U32, items_max=16)),
        ),
    ),
    RuntimeApi(
        "TaggedTransactionQueue",
        (
            Method(
                "validate_transaction",
                (("source", SOURCE), ("tx", WHOLE), ("block_hash", HASH)),
                ValidityType(),
            ),
        ),
    ),
    RuntimeApi("AccountNonceApi", (Method("account_nonce", (("account", ACCOUNT_ID),), U32),)),
    RuntimeApi(
        "TransactionPaymentApi",
        (
            Method("query_info", (("uxt", WHOLE), ("len", U32)), RUNTIME_DISPATCH_INFO),
            Method("query_fee_details", (("uxt", WHOLE), ("len", U32)), FEE_DETAILS),
            *FEES_OF_PARTS,
        ),
    ),
    RuntimeApi(
        "TransactionPaymentCallApi",
        (
            Method(
                "query_call_info", (("call", RUNTIME_CALL), ("len", U32)), RUNTIME_DISPATCH_INFO
            ),
            Method("query_call_fee_details", (("call", RUNTIME_CALL), ("len", U32)), FEE_DETAILS),
            *FEES_OF_PARTS,
        ),
    ),
    RuntimeApi(
        "SessionKeys",
        (
            Method("generate_session_keys", (("seed", OPTIONAL_SEED),), ENCODED_KEYS),
            Method("decode_session_keys", (("encoded", ENCODED_KEYS),), KEYS_BY_TYPE),
        ),
    ),
    RuntimeApi(
        "GrandpaApi",
        (
            Method("grandpa_authorities", (), AUTHORITIES),
            Method("current_set_id", (), U64),
        ),
    ),
)
