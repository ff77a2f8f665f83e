"""How much of an account may go where, in plain numbers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Protocol, TypeVar

from phala.codec import Descriptor, FixedBytes
from phala.frame import (
    AccountData,
    AccountInfo,
    BoundMap,
    Choice,
    Described,
    PalletError,
)
from phala.pallets.balances.moves import EXISTENTIAL_DEPOSIT, liquid
from phala.primitives.types import AccountId, Balance, scale

LOCKS_MAX: Final = 50  # as Phala's own chain; of reserves, holds and freezes too

FOR_ALL: Final = 2  # what locks keep from: fees as well

HOLD_PREIMAGE: Final = 0
FREEZE_VOTE: Final = 0

# The reasons are wire format: add at the end, and never take one away.
HOLD_REASON: Final = Choice(("phala_runtime", "RuntimeHoldReason"), ("Preimage",))
FREEZE_REASON: Final = Choice(("phala_runtime", "RuntimeFreezeReason"), ("Vote",))
DIRECTION: Final = Choice(
    ("pallet_balances", "types", "AdjustmentDirection"), ("Increase", "Decrease")
)


@dataclass(frozen=True, slots=True)
class BalanceLock:
    id: Annotated[bytes, FixedBytes(8)]
    amount: Balance
    reasons: Annotated[int, Choice(("pallet_balances", "types", "Reasons"), ("Fee", "Misc", "All"))]


@dataclass(frozen=True, slots=True)
class ReserveData:
    id: Annotated[bytes, FixedBytes(8)]
    amount: Balance


@dataclass(frozen=True, slots=True)
class Hold:
    id: Annotated[int, HOLD_REASON]
    amount: Balance


@dataclass(frozen=True, slots=True)
class Freeze:
    id: Annotated[int, FREEZE_REASON]
    amount: Balance


def _described(path: tuple[str, ...], kind: Any) -> Descriptor[Any]:
    return Described(path, scale(kind))


BALANCE_LOCK: Final = _described(("pallet_balances", "types", "BalanceLock"), BalanceLock)
RESERVE_DATA: Final = _described(("pallet_balances", "types", "ReserveData"), ReserveData)
ID_AMOUNT: Final = ("frame_support", "traits", "tokens", "misc", "IdAmount")
HOLD: Final = _described(ID_AMOUNT, Hold)
FREEZE: Final = _described(ID_AMOUNT, Freeze)


def reducible(info: AccountInfo, *, keep_alive: bool) -> Balance:
    """The most that a transfer may take."""
    spendable = liquid(info.data)
    if keep_alive or info.consumers:
        spendable = min(spendable, Balance(max(info.data.free - EXISTENTIAL_DEPOSIT, 0)))
    return spendable


def with_data(info: AccountInfo, data: AccountData) -> AccountInfo:
    """An account with other balances. While some are reserved or frozen, it must not die."""
    before, after = (bool(each.reserved or each.frozen) for each in (info.data, data))
    consumers = info.consumers + after - before
    return AccountInfo(info.nonce, consumers, info.providers, info.sufficients, data)


def with_reserved(data: AccountData, reserved: int) -> AccountData:
    return AccountData(data.free, Balance(reserved), data.frozen, data.flags)


def with_frozen(data: AccountData, frozen: int) -> AccountData:
    return AccountData(data.free, data.reserved, Balance(frozen), data.flags)


def with_more(data: AccountData, amount: int) -> AccountData:
    return AccountData(Balance(data.free + amount), data.reserved, data.frozen, data.flags)


def with_moved(data: AccountData, amount: int) -> AccountData:
    """`amount` of what was free is reserved; less than 0: the other way."""
    return AccountData(
        Balance(data.free - amount), Balance(data.reserved + amount), data.frozen, data.flags
    )


# ---- lists of amounts, each under its name or reason


class Entry(Protocol):
    @property
    def id(self) -> Any: ...
    @property
    def amount(self) -> Balance: ...


E = TypeVar("E", bound=Entry)


def amount_of(entries: tuple[Entry, ...], name: object) -> Balance:
    return Balance(sum(each.amount for each in entries if each.id == name))


def raised(
    entries: tuple[E, ...],
    kind: Callable[[Any, Balance], E],
    name: object,
    amount: Balance,
    too_many: type[PalletError],
) -> tuple[E, ...]:
    """With so much more under the name. Raises `too_many` where there is no room for it."""
    others = tuple(each for each in entries if each.id != name)
    if len(others) >= LOCKS_MAX:
        raise too_many
    return (*others, kind(name, Balance(amount_of(entries, name) + amount)))


def lowered(entries: tuple[E, ...], name: object, amount: Balance) -> tuple[E, ...]:
    """With so much less under the name; without it, where nothing is left."""
    left = (
        replace(each, amount=Balance(each.amount - amount)) if each.id == name else each  # type: ignore[type-var]
        for each in entries
    )
    return tuple(each for each in left if each.amount)


def put_or_delete(
    items: BoundMap[AccountId, tuple[E, ...], tuple[E, ...]],
    who: AccountId,
    entries: tuple[E, ...],
) -> None:
    if entries:
        items.put(who, entries)
    else:
        items.delete(who)
