"""Why a call did nothing: the errors that rules raise, and their form in an event.

Source: `sp_runtime::DispatchError`, its variants and their numbers.
"""

from dataclasses import dataclass
from inspect import cleandoc
from typing import ClassVar, Final

from phala.codec import U8, Descriptor, FixedBytes, Malformed, Reader, Registry
from phala.codec.registry import Field, Type, TypeDefComposite
from phala.errors import Refused
from phala.frame.described import Case, Choice, cases_type


class DispatchRefused(Refused):
    """A rule says no. A subclass's docstring is its message: 'what happened: the mend.'"""

    _what: ClassVar[str]
    _mend: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls._what, _, cls._mend = cleandoc(cls.__doc__ or "").partition(": ")
        if not (cls._what and cls._mend):
            raise TypeError(f"{cls.__name__}'s docstring must read 'what happened: the mend.'")

    def __init__(self) -> None:
        super().__init__(self._what, mend=self._mend)


class PalletError(DispatchRefused):
    """A rule of a pallet says no: the pallet's table gives its number."""


class TokenError(DispatchRefused):
    """Balances do not allow it: a subclass says why."""

    index: ClassVar[int]


class FundsUnavailable(TokenError):
    """The account has less than that: receive funds first, or send less."""

    index = 0


class OnlyProvider(TokenError):
    """The account must stay alive: leave it the existential deposit."""

    index = 1


class BelowMinimum(TokenError):
    """The receiver would have less than the existential deposit: send more."""

    index = 2


class Frozen(TokenError):
    """These funds are frozen: wait until they are free."""

    index = 5


class NotExpendable(TokenError):
    """The account must keep the existential deposit: send less, or allow its death."""

    index = 8


class ArithmeticRefused(DispatchRefused):
    """A number leaves its bounds: pass a smaller one."""

    index: ClassVar[int] = 1  # Overflow


class CannotLookup(DispatchRefused):
    """The address names no account: give the account's id."""


class ConsumerRemaining(DispatchRefused):
    """Something rests on the account, which must stay: release what is held first."""


OTHER: Final = 0
CANNOT_LOOKUP: Final = 1
BAD_ORIGIN: Final = 2
MODULE: Final = 3
CONSUMER_REMAINING: Final = 4
TOKEN: Final = 7
ARITHMETIC: Final = 8


@dataclass(frozen=True, slots=True)
class DispatchError:
    kind: int  # the variant's number
    detail: bytes = b""  # of `Module`: pallet, error, three zeros; else the inner variant, if any


class InnerRefused(DispatchRefused):
    """A call inside this one was refused: see its error, and leave it out or mend it."""

    def __init__(self, error: DispatchError) -> None:
        super().__init__()
        self.error = error


MODULE_ERROR_BYTES: Final = 5
TOKEN_ERRORS: Final = Choice(
    ("sp_runtime", "TokenError"),
    (
        "FundsUnavailable",
        "OnlyProvider",
        "BelowMinimum",
        "CannotCreate",
        "UnknownAsset",
        "Frozen",
        "Unsupported",
        "CannotCreateHold",
        "NotExpendable",
        "Blocked",
    ),
)
ARITHMETIC_ERRORS: Final = Choice(
    ("sp_arithmetic", "ArithmeticError"), ("Underflow", "Overflow", "DivisionByZero")
)
TRANSACTIONAL_ERRORS: Final = Choice(
    ("sp_runtime", "TransactionalError"), ("LimitReached", "NoLayer")
)
TRIE_ERRORS: Final = Choice(
    ("sp_runtime", "proving_trie", "TrieError"),
    (
        "InvalidStateRoot",
        "IncompleteDatabase",
        "ValueAtIncompleteKey",
        "DecoderError",
        "InvalidHash",
        "DuplicateKey",
        "ExtraneousNode",
        "ExtraneousValue",
        "ExtraneousHashReference",
        "InvalidChildReference",
        "ValueMismatch",
        "IncompleteProof",
        "RootMismatch",
        "DecodeError",
    ),
)


ERROR_BYTES: Final[FixedBytes[bytes]] = FixedBytes(4)


@dataclass(frozen=True, slots=True)
class ModuleErrorDescriptor(Descriptor[bytes]):
    def write(self, out: bytearray, value: bytes, /) -> None:
        assert len(value) == MODULE_ERROR_BYTES
        out += value

    def read(self, reader: Reader, /) -> bytes:
        return reader.take(MODULE_ERROR_BYTES)

    def type_info(self, registry: Registry, /) -> Type:
        fields = (
            Field("index", registry.id_of(U8), "u8"),
            Field("error", registry.id_of(ERROR_BYTES), "[u8; MAX_MODULE_ERROR_ENCODED_SIZE]"),
        )
        return Type(TypeDefComposite(fields), ("sp_runtime", "ModuleError"))


CASES: Final = (
    Case("Other", 0),
    Case("CannotLookup", 1),
    Case("BadOrigin", 2),
    Case("Module", 3, (ModuleErrorDescriptor(),)),
    Case("ConsumerRemaining", 4),
    Case("NoProviders", 5),
    Case("TooManyConsumers", 6),
    Case("Token", 7, (TOKEN_ERRORS,)),
    Case("Arithmetic", 8, (ARITHMETIC_ERRORS,)),
    Case("Transactional", 9, (TRANSACTIONAL_ERRORS,)),
    Case("Exhausted", 10),
    Case("Corruption", 11),
    Case("Unavailable", 12),
    Case("RootNotAllowed", 13),
    Case("Trie", 14, (TRIE_ERRORS,)),
)


@dataclass(frozen=True, slots=True)
class DispatchErrorDescriptor(Descriptor[DispatchError]):
    def write(self, out: bytearray, value: DispatchError, /) -> None:
        out.append(value.kind)
        out += value.detail

    def read(self, reader: Reader, /) -> DispatchError:
        (kind,) = reader.take(1)
        if kind >= len(CASES):
            raise Malformed(f"DispatchError has no variant {kind}", offset=reader.offset - 1)
        detail = bytearray()
        for each in CASES[kind].fields:
            each.write(detail, each.read(reader))
        return DispatchError(kind, bytes(detail))

    def type_info(self, registry: Registry, /) -> Type:
        return cases_type(("sp_runtime", "DispatchError"), CASES, registry)


DISPATCH_ERROR: Final = DispatchErrorDescriptor()
