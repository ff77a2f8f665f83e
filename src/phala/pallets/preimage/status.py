"""What is known of a preimage: who noted it, and how many ask for it."""

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from phala.codec import U32, Enum, Option, Tuple, struct_of
from phala.primitives.types import ACCOUNT_ID, BALANCE, DESCRIPTORS, AccountId, Balance

Ticket: TypeAlias = tuple[AccountId, Balance]  # who noted it, and what that holds
TICKET: Final = Tuple((ACCOUNT_ID, BALANCE))


@dataclass(frozen=True, slots=True)
class Unrequested:
    ticket: Annotated[Ticket, TICKET]
    len: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class Requested:
    maybe_ticket: Annotated[Ticket | None, Option(TICKET)]
    count: Annotated[int, U32]  # how many ask for it
    maybe_len: Annotated[int | None, Option(U32)]  # None: it is not here


REQUEST_STATUS: Final = Enum(
    ("pallet_preimage", "RequestStatus"),
    ((0, struct_of(Unrequested, DESCRIPTORS)), (1, struct_of(Requested, DESCRIPTORS))),
)
