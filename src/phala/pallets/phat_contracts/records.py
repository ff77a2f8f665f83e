"""What the state keeps of clusters and votes, beside what light clients read."""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import U64, U128, Bytes, Descriptor, Malformed, Reader, Registry
from phala.codec.registry import Type
from phala.frame import Case, cases_type
from phala.messages.types import Generation, WorkerId
from phala.primitives.types import ACCOUNT_ID, AccountId, BlockNumber, Hash, Moment


@dataclass(frozen=True, slots=True)
class Vote:
    """What a replica says of a contract: keys, or None for a failure."""

    worker: WorkerId
    said: Annotated[bytes, Bytes(bytes_max=128)]


@dataclass(frozen=True, slots=True)
class Grace:
    """A generation whose commands are taken until a block, though another one is there."""

    generation: Generation
    until: BlockNumber


@dataclass(frozen=True, slots=True)
class FuelOwed:
    """What a cluster had to burn at a time."""

    at: Moment
    fuel: Annotated[int, U64]


NOTHING_OWED: Final = FuelOwed(Moment(0), 0)


@dataclass(frozen=True, slots=True)
class Permission(Descriptor[AccountId | None]):
    """Who may deploy, as `@phala/sdk` reads it: anybody, or one account."""

    def write(self, out: bytearray, value: AccountId | None, /) -> None:
        out.append(value is not None)
        if value is not None:
            ACCOUNT_ID.write(out, value)

    def read(self, reader: Reader, /) -> AccountId | None:
        (kind,) = reader.take(1)
        if kind > 1:
            raise Malformed(f"permission {kind}", offset=reader.offset - 1)
        return ACCOUNT_ID.read(reader) if kind else None

    def type_info(self, registry: Registry, /) -> Type:
        cases = (Case("Public", 0), Case("OnlyOwner", 1, (ACCOUNT_ID,)))
        return cases_type(("phala_pallets", "phat", "ClusterPermission"), cases, registry)


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """The original's record of a cluster."""

    owner: AccountId
    permission: Annotated[AccountId | None, Permission()]
    system_contract: Hash
    gas_price: Annotated[int, U128]
    deposit_per_item: Annotated[int, U128]
    deposit_per_byte: Annotated[int, U128]
