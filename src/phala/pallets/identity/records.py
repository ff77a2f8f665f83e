"""What an identity is made of: words or their hashes, and what registrars say of them.

Source: `pallet-identity`, `types.rs` and `legacy.rs`.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Final

from phala.codec import (
    U32,
    U64,
    Bytes,
    Descriptor,
    FixedBytes,
    Malformed,
    Option,
    Reader,
    Registry,
    Tuple,
    Vector,
)
from phala.codec.registry import Type
from phala.frame import Case, Described, cases_type
from phala.primitives.types import BALANCE, AccountId, Balance, scale

REGISTRARS_MAX: Final = 20
FIELDS_MAX: Final = 100  # that have no name of their own
RAW_MAX: Final = 32  # bytes of a word
HASH_KINDS: Final = ("BlakeTwo256", "Sha256", "Keccak256", "ShaThree256")
FIRST_HASH: Final = RAW_MAX + 2

DIGEST: Final[FixedBytes[bytes]] = FixedBytes(32)
FINGERPRINT: Final[FixedBytes[bytes]] = FixedBytes(20)


@dataclass(frozen=True, slots=True)
class Data:
    """Nothing (kind 0), a word of kind - 1 bytes (1 to 33), or a hash of one (34 to 37)."""

    kind: int
    data: bytes = b""

    @staticmethod
    def raw(word: bytes) -> "Data":
        assert len(word) <= RAW_MAX
        return Data(len(word) + 1, word)


@dataclass(frozen=True, slots=True)
class DataType(Descriptor[Data]):
    def write(self, out: bytearray, value: Data, /) -> None:
        out.append(value.kind)
        out += value.data

    def read(self, reader: Reader, /) -> Data:
        (kind,) = reader.take(1)
        if kind >= FIRST_HASH + len(HASH_KINDS):
            raise Malformed(f"Data has no variant {kind}", offset=reader.offset - 1)
        return Data(kind, reader.take(data_bytes(kind)))

    def type_info(self, registry: Registry, /) -> Type:
        words: list[Case] = [
            Case(f"Raw{size}", size + 1, (raw(size),)) for size in range(RAW_MAX + 1)
        ]
        hashes = [Case(name, FIRST_HASH + n, (DIGEST,)) for n, name in enumerate(HASH_KINDS)]
        cases = (Case("None", 0), *words, *hashes)
        return cases_type(("pallet_identity", "types", "Data"), cases, registry)


def raw(size: int) -> FixedBytes[bytes]:
    return FixedBytes(size)


def data_bytes(kind: int) -> int:
    if kind >= FIRST_HASH:
        return 32
    return max(kind - 1, 0)


DATA: Final = DataType()
NOTHING: Final = Data(0)


@dataclass(frozen=True, slots=True)
class IdentityInfo:
    additional: Annotated[
        tuple[tuple[Data, Data], ...], Vector(Tuple((DATA, DATA)), items_max=FIELDS_MAX)
    ] = ()
    display: Annotated[Data, DATA] = NOTHING
    legal: Annotated[Data, DATA] = NOTHING
    web: Annotated[Data, DATA] = NOTHING
    riot: Annotated[Data, DATA] = NOTHING
    email: Annotated[Data, DATA] = NOTHING
    pgp_fingerprint: Annotated[bytes | None, Option(FINGERPRINT)] = None
    image: Annotated[Data, DATA] = NOTHING
    twitter: Annotated[Data, DATA] = NOTHING


IDENTITY_INFO: Final[Descriptor[IdentityInfo]] = Described(
    ("pallet_identity", "legacy", "IdentityInfo"), scale(IdentityInfo)
)

UNKNOWN, FEE_PAID, REASONABLE, KNOWN_GOOD, OUT_OF_DATE, LOW_QUALITY, ERRONEOUS = range(7)
JUDGEMENTS: Final = (
    Case("Unknown", UNKNOWN),
    Case("FeePaid", FEE_PAID, (BALANCE,)),
    Case("Reasonable", REASONABLE),
    Case("KnownGood", KNOWN_GOOD),
    Case("OutOfDate", OUT_OF_DATE),
    Case("LowQuality", LOW_QUALITY),
    Case("Erroneous", ERRONEOUS),
)


NO_FEE: Final = Balance(0)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a registrar says. `FEE_PAID` says that it was asked: the fee is set aside."""

    kind: int
    fee: Balance = NO_FEE

    @property
    def sticky(self) -> bool:
        """A new identity does not shed it."""
        return self.kind in (FEE_PAID, ERRONEOUS)


@dataclass(frozen=True, slots=True)
class JudgementType(Descriptor[Judgement]):
    def write(self, out: bytearray, value: Judgement, /) -> None:
        out.append(value.kind)
        if value.kind == FEE_PAID:
            BALANCE.write(out, value.fee)

    def read(self, reader: Reader, /) -> Judgement:
        (kind,) = reader.take(1)
        if kind >= len(JUDGEMENTS):
            raise Malformed(f"Judgement has no variant {kind}", offset=reader.offset - 1)
        return Judgement(kind, BALANCE.read(reader) if kind == FEE_PAID else Balance(0))

    def type_info(self, registry: Registry, /) -> Type:
        found = cases_type(("pallet_identity", "types", "Judgement"), JUDGEMENTS, registry)
        return replace(found, params=(("Balance", registry.id_of(BALANCE)),))


JUDGEMENT: Final = JudgementType()


@dataclass(frozen=True, slots=True)
class Registration:
    judgements: Annotated[
        tuple[tuple[int, Judgement], ...],
        Vector(Tuple((U32, JUDGEMENT)), items_max=REGISTRARS_MAX),
    ]  # by registrar, in ascending order
    deposit: Balance
    info: Annotated[IdentityInfo, IDENTITY_INFO]

    @property
    def set_aside(self) -> Balance:
        """What of the account is reserved for it: deposit, and fees of judgements to come."""
        return Balance(self.deposit + sum(each.fee for _, each in self.judgements))

    def judged_by(self, registrar: int) -> Judgement | None:
        return dict(self.judgements).get(registrar)

    def with_judgement(self, registrar: int, judgement: Judgement | None) -> "Registration":
        """None takes it away."""
        others = tuple(each for each in self.judgements if each[0] != registrar)
        if judgement is not None:
            others = (*others, (registrar, judgement))
        return replace(self, judgements=tuple(sorted(others, key=_registrar)))


def _registrar(judged: tuple[int, Judgement]) -> int:
    return judged[0]


REGISTRATION: Final[Descriptor[Registration]] = Described(
    ("pallet_identity", "types", "Registration"), scale(Registration)
)


@dataclass(frozen=True, slots=True)
class RegistrarInfo:
    account: AccountId
    fee: Balance
    fields: Annotated[int, U64]  # which fields it looks at, one bit each from `display` = 1 on


REGISTRAR_INFO: Final[Descriptor[RegistrarInfo]] = Described(
    ("pallet_identity", "types", "RegistrarInfo"), scale(RegistrarInfo)
)


# ---- usernames

USERNAME_MAX: Final = 32  # bytes, with its suffix and the dot between
USERNAME: Final = Bytes(bytes_max=USERNAME_MAX)

ALLOCATION, AUTHORITY_DEPOSIT, SYSTEM = range(3)
PROVIDERS: Final = (
    Case("Allocation", ALLOCATION),
    Case("AuthorityDeposit", AUTHORITY_DEPOSIT, (BALANCE,)),
    Case("System", SYSTEM),
)


@dataclass(frozen=True, slots=True)
class Provider:
    """What a username was granted by: nothing here grants one by `SYSTEM`."""

    kind: int
    deposit: Balance = NO_FEE


@dataclass(frozen=True, slots=True)
class ProviderType(Descriptor[Provider]):
    def write(self, out: bytearray, value: Provider, /) -> None:
        out.append(value.kind)
        if value.kind == AUTHORITY_DEPOSIT:
            BALANCE.write(out, value.deposit)

    def read(self, reader: Reader, /) -> Provider:
        (kind,) = reader.take(1)
        if kind >= len(PROVIDERS):
            raise Malformed(f"Provider has no variant {kind}", offset=reader.offset - 1)
        return Provider(kind, BALANCE.read(reader) if kind == AUTHORITY_DEPOSIT else NO_FEE)

    def type_info(self, registry: Registry, /) -> Type:
        found = cases_type(("pallet_identity", "types", "Provider"), PROVIDERS, registry)
        return replace(found, params=(("Balance", registry.id_of(BALANCE)),))


PROVIDER: Final = ProviderType()


@dataclass(frozen=True, slots=True)
class AuthorityProperties:
    account_id: AccountId
    allocation: Annotated[int, U32]  # usernames that it can grant without a deposit


AUTHORITY_PROPERTIES: Final[Descriptor[AuthorityProperties]] = Described(
    ("pallet_identity", "types", "AuthorityProperties"), scale(AuthorityProperties)
)


@dataclass(frozen=True, slots=True)
class UsernameInformation:
    owner: AccountId
    provider: Annotated[Provider, PROVIDER]


USERNAME_INFORMATION: Final[Descriptor[UsernameInformation]] = Described(
    ("pallet_identity", "types", "UsernameInformation"), scale(UsernameInformation)
)
