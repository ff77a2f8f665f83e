"""What this runtime is called, and the limits of its blocks. A change of metadata is a new
`SPEC_VERSION`: clients keep metadata by it."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Final

from phala.codec import U8, U16, U32, U64, Descriptor, FixedBytes, Option, Text, Tuple, Vector
from phala.frame import WEIGHT, Constant, Described, Weight
from phala.primitives.address import SS58_PREFIX
from phala.primitives.types import scale
from phala.runtime.weights import BASE_REF_TIME

RELEASE: Final = "phala 0.1.0"
SPEC_NAME: Final = "phala"
SPEC_VERSION: Final = 1
TRANSACTION_VERSION: Final = 1
SYSTEM_VERSION: Final = 1  # state in layout V1, extrinsics root in V0

APIS: Final = (
    ("Core", 5),
    ("Metadata", 2),
    ("TaggedTransactionQueue", 3),
    ("AccountNonceApi", 1),
    ("TransactionPaymentApi", 4),
    ("TransactionPaymentCallApi", 3),
    ("SessionKeys", 1),
    ("GrandpaApi", 3),
)


@dataclass(frozen=True, slots=True)
class RuntimeVersion:
    spec_name: Annotated[str, Text(bytes_max=32)]
    impl_name: Annotated[str, Text(bytes_max=32)]
    authoring_version: Annotated[int, U32]
    spec_version: Annotated[int, U32]
    impl_version: Annotated[int, U32]
    apis: Annotated[
        tuple[tuple[bytes, int], ...],
        Vector(Tuple((FixedBytes(8), U32)), items_max=64),
    ]
    transaction_version: Annotated[int, U32]
    system_version: Annotated[int, U8]


RUNTIME_VERSION: Final[Descriptor[RuntimeVersion]] = Described(
    ("sp_version", "RuntimeVersion"), scale(RuntimeVersion)
)
VERSION: Final = RuntimeVersion(
    spec_name=SPEC_NAME,
    impl_name="phala-python",
    authoring_version=1,
    spec_version=SPEC_VERSION,
    impl_version=0,
    apis=tuple(
        (hashlib.blake2b(name.encode(), digest_size=8).digest(), version) for name, version in APIS
    ),
    transaction_version=TRANSACTION_VERSION,
    system_version=SYSTEM_VERSION,
)


# ---- limits of a block

BLOCK_REF_TIME_MAX: Final = 2_000_000_000_000  # picoseconds: two seconds on the reference machine
BLOCK_BYTES_MAX: Final = 5 * 1024 * 1024  # Substrate's
NORMAL_PERCENT: Final = 75  # of either, for what users send; the rest is the chain's own
NORMAL_REF_TIME_MAX: Final = BLOCK_REF_TIME_MAX * NORMAL_PERCENT // 100
SCHEDULED_REF_TIME_MAX: Final = BLOCK_REF_TIME_MAX * 50 // 100  # so that users' calls have room
NORMAL_BYTES_MAX: Final = BLOCK_BYTES_MAX * NORMAL_PERCENT // 100
PROOF_SIZE_MAX: Final = (1 << 64) - 1  # proofs have no limit: there is no relay chain


@dataclass(frozen=True, slots=True)
class WeightsPerClass:
    base_extrinsic: Annotated[Weight, WEIGHT]
    max_extrinsic: Annotated[Weight | None, Option(WEIGHT)]
    max_total: Annotated[Weight | None, Option(WEIGHT)]
    reserved: Annotated[Weight | None, Option(WEIGHT)]


PER_DISPATCH_CLASS: Final = ("frame_support", "dispatch", "PerDispatchClass")
PER_CLASS: Final = Described(("frame_system", "limits", "WeightsPerClass"), scale(WeightsPerClass))


@dataclass(frozen=True, slots=True)
class PerClassWeights:
    normal: Annotated[WeightsPerClass, PER_CLASS]
    operational: Annotated[WeightsPerClass, PER_CLASS]
    mandatory: Annotated[WeightsPerClass, PER_CLASS]


@dataclass(frozen=True, slots=True)
class BlockWeights:
    base_block: Annotated[Weight, WEIGHT]
    max_block: Annotated[Weight, WEIGHT]
    per_class: Annotated[
        PerClassWeights,
        Described(PER_DISPATCH_CLASS, scale(PerClassWeights), (("T", PER_CLASS),)),
    ]


@dataclass(frozen=True, slots=True)
class PerClassLengths:
    normal: Annotated[int, U32]
    operational: Annotated[int, U32]
    mandatory: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class BlockLength:
    max: Annotated[
        PerClassLengths,
        Described(PER_DISPATCH_CLASS, scale(PerClassLengths), (("T", U32),)),
    ]


@dataclass(frozen=True, slots=True)
class DbWeight:
    read: Annotated[int, U64]
    write: Annotated[int, U64]


def _limits() -> BlockWeights:
    base, whole = Weight(BASE_REF_TIME, 0), Weight(BLOCK_REF_TIME_MAX, PROOF_SIZE_MAX)
    normal = Weight(NORMAL_REF_TIME_MAX, PROOF_SIZE_MAX)
    rest = Weight(BLOCK_REF_TIME_MAX - NORMAL_REF_TIME_MAX, 0)
    return BlockWeights(
        Weight(0, 0),
        whole,
        PerClassWeights(
            WeightsPerClass(base, normal, normal, Weight(0, 0)),
            WeightsPerClass(base, whole, whole, rest),
            WeightsPerClass(base, None, None, None),
        ),
    )


def _described(name: str, path: tuple[str, ...], kind: Any, value: Any, doc: str) -> Constant:
    return Constant(name, Described(path, scale(kind)), value, doc)


# What clients look for among System's constants, and System itself cannot know.
SYSTEM_CONSTANTS: Final = (
    _described(
        "BlockWeights",
        ("frame_system", "limits", "BlockWeights"),
        BlockWeights,
        _limits(),
        "The limits of a block's weight.",
    ),
    _described(
        "BlockLength",
        ("frame_system", "limits", "BlockLength"),
        BlockLength,
        BlockLength(PerClassLengths(NORMAL_BYTES_MAX, BLOCK_BYTES_MAX, BLOCK_BYTES_MAX)),
        "The limits of a block's length.",
    ),
    _described(
        "DbWeight",
        ("sp_weights", "RuntimeDbWeight"),
        DbWeight,
        DbWeight(2_000_000, 10_000_000),
        "What a read and a write of the state take.",
    ),
    Constant("Version", RUNTIME_VERSION, VERSION, "What this runtime is called."),
    Constant("SS58Prefix", U16, SS58_PREFIX, "The network in addresses."),
)
