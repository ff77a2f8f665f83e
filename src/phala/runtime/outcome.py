"""What the runtime answers: how a transaction stands, and what a block came to.

How a node drives a block (`runtime.executive`, `runtime.runtime`):

    runtime = Runtime()                            # one spec version; pure; keep it for the process
    pairs = runtime.genesis(config)                # dict[bytes, bytes]: the whole genesis state
    header = runtime.genesis_header(state_root)

    state = State(base)                            # a fresh overlay over the parent's key -> value
    builder = runtime.open_block(state, parent, logs=())       # parent: primitives.header.Header
    for extrinsic in builder.inherents(now):       # Timestamp.set, never running backwards
        builder.apply(extrinsic)
    for extrinsic in pool:
        try:
            builder.apply(extrinsic, check_signature=False)   # the pool checked it
        except InvalidTransaction as refusal:      # the block is as it was
            if refusal.problem is Problem.EXHAUSTS_RESOURCES: break     # keep it for the next one
            ...                                    # FUTURE stays in the pool; all else leaves it
    sealed = builder.seal(state_root_of)           # state_root_of(changes) -> Hash

    sealed.header, sealed.body, sealed.changes     # changes: ((key, value | None), ...) sorted
    sealed.messages                                # tuple[QueuedMessage, ...]: keep the bodies
    sealed.authorities                             # the set for every later block, or None

    sealed = runtime.execute(state, parent, header, body, state_root_of)    # import: the same

    validator = runtime.validator(State(base), parent)     # one for each new head; keep it
    valid = validator.validate(extrinsic, source, check_signature=True)
    check = validator.signature_check(extrinsic)           # None for bare ones
    verify_signature(check)                                # no state: in any process

    runtime.call(state, parent_hash, "AccountNonceApi_account_nonce", data)   # state_call
    runtime.metadata(15)
"""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from phala.codec.records import record
from phala.errors import Invalid, Refused
from phala.frame import DispatchError
from phala.pallets.grandpa import Authorities
from phala.primitives.header import Header
from phala.primitives.types import Hash

Changes: TypeAlias = tuple[tuple[bytes, bytes | None], ...]  # sorted by key; None: deleted
StateRootOf: TypeAlias = Callable[[Changes], Hash]  # of the parent's state with the changes


class Source(enum.Enum):
    """Where a transaction comes from; values are Substrate's `TransactionSource`."""

    IN_BLOCK = 0
    LOCAL = 1
    EXTERNAL = 2


class Problem(enum.Enum):
    """Why a transaction is not valid: Substrate's `TransactionValidityError`, outer and inner
    index, and the words its clients show."""

    CALL = (0, 0, "Transaction call is not expected")
    PAYMENT = (0, 1, "Inability to pay some fees (e.g. account balance too low)")
    FUTURE = (0, 2, "Transaction will be valid in the future")
    STALE = (0, 3, "Transaction is outdated")
    BAD_PROOF = (0, 4, "Transaction has a bad signature")
    ANCIENT_BIRTH_BLOCK = (0, 5, "Transaction has an ancient birth block")
    EXHAUSTS_RESOURCES = (0, 6, "Transaction would exhaust the block limits")
    CUSTOM = (0, 7, "Custom error")
    BAD_MANDATORY = (0, 8, "A call was labelled as mandatory, but resulted in an Error.")
    MANDATORY_VALIDATION = (
        0,
        9,
        "Transaction dispatch is mandatory; transactions must not be validated.",
    )
    BAD_SIGNER = (0, 10, "Invalid signing address")
    CANNOT_LOOKUP = (1, 0, "Could not lookup information required to validate the transaction")
    NO_UNSIGNED_VALIDATOR = (
        1,
        1,
        "Could not find an unsigned validator for the unsigned transaction",
    )


class InvalidTransaction(Refused):
    """A transaction cannot be in the next block. Nothing of the state changed."""

    def __init__(
        self,
        problem: Problem,
        *,
        mend: str,
        custom: int = 0,
        why: str = "",
        malformed: bool = False,
    ) -> None:
        words = problem.value[2] + (f": {custom}" if problem is Problem.CUSTOM else "")
        super().__init__(f"{words} ({why})" if why else words, mend=mend)
        self.problem = problem
        self.custom = custom  # of `CUSTOM`: the number of the check that said no
        self.words = words  # as Substrate's RPC error 1010 carries them in `data`
        self.malformed = malformed  # the bytes are no extrinsic at all: RPC error 1001

    def encode(self) -> bytes:
        """SCALE of `TransactionValidityError`."""
        outer, inner, _ = self.problem.value
        tail = bytes([self.custom]) if self.problem is Problem.CUSTOM else b""
        return bytes([outer, inner]) + tail


@dataclass(frozen=True, slots=True)
class ValidTransaction:
    """How the pool may order it: ready when every tag it requires is provided before it."""

    priority: int  # u64; higher first. A replacement of the same tags must have more
    requires: tuple[bytes, ...]
    provides: tuple[bytes, ...]
    longevity: int  # blocks; then validate again
    propagate: bool = True


@record
class SignatureCheck:
    """What a signed extrinsic claims; `verify` needs no state, so any process may run it."""

    account: bytes
    scheme: int  # 0 ed25519, 1 sr25519, 2 ecdsa: MultiSignature's variants
    signature: bytes
    message: bytes


CheckSignatures: TypeAlias = Callable[[Iterable[SignatureCheck]], Callable[[], None]]
"""Takes all there are, in order, and verifies them, maybe elsewhere and while others come; what it
returns waits, and raises `InvalidTransaction` where one is bad."""


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A body that the node keeps: SCALE of an `Envelope`; `count` is its place in the topic."""

    topic: bytes
    count: int  # the first message of a topic has count 0
    envelope: bytes


@record
class Applied:
    """An extrinsic is in the block. With an error it was paid for, and did nothing else."""

    index: int
    error: DispatchError | None


@dataclass(frozen=True, slots=True)
class Sealed:
    """A block, and all that follows from it."""

    header: Header
    hash: Hash
    body: tuple[bytes, ...]
    changes: Changes  # against the parent's state
    messages: tuple[QueuedMessage, ...]
    authorities: Authorities | None  # who finalizes every later block, where that changed


class BlockRefused(Invalid):
    """A block from elsewhere is not what its body comes to."""
