"""TransactionPayment: what an extrinsic costs, taken before it runs.

    fee = base + length fee + multiplier * weight fee + tip

The figures are the original's (reference: its runtime's constants): 0.0001 PHA for the weight that
every extrinsic has, 0.00001 PHA a byte. Fees go to the treasury.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from phala.codec import U8, U128, Newtype
from phala.frame import (
    Constant,
    DispatchInfo,
    Pallet,
    StorageValue,
    event,
)
from phala.frame.block import Block
from phala.primitives.types import PHA, AccountId, Balance

BASE_FEE: Final = Balance(PHA // 10_000)
LENGTH_FEE: Final = Balance(PHA // 100_000)  # a byte
BASE_REF_TIME: Final = 100_000_000  # picoseconds that every extrinsic takes; they cost `BASE_FEE`
MULTIPLIER_ONE: Final = 10**18
OPERATIONAL_MULTIPLIER: Final = 5

TREASURY: Final = AccountId(b"modlpy/trsry".ljust(32, b"\0"))

FIXED_U128: Final[Newtype[int]] = Newtype(("sp_arithmetic", "fixed_point", "FixedU128"), U128)


@event
class TransactionFeePaid:
    """An extrinsic's signer paid for it."""

    who: AccountId
    actual_fee: Balance
    tip: Balance


@dataclass(frozen=True, slots=True)
class InclusionFee:
    base_fee: Balance
    len_fee: Balance
    adjusted_weight_fee: Balance

    @property
    def total(self) -> Balance:
        return Balance(self.base_fee + self.len_fee + self.adjusted_weight_fee)


class Currency(Protocol):
    """Who keeps balances."""

    def withdraw(self, who: AccountId, amount: Balance, *, extrinsics: int = 0) -> None: ...
    def deposit(self, who: AccountId, amount: Balance) -> None: ...


class TransactionPayment(Pallet):
    """What an extrinsic costs."""

    name = "TransactionPayment"
    next_fee_multiplier = StorageValue(
        FIXED_U128, default=MULTIPLIER_ONE, doc="By how much weight is dearer than at rest."
    )

    def __init__(self, block: Block, *, currency: Currency) -> None:
        super().__init__(block)
        self.currency = currency

    def inclusion_fee(self, info: DispatchInfo, length: int) -> InclusionFee:
        """What a signed extrinsic pays without its tip, also for a call that is free when bare."""
        weight_fee = weight_to_fee(info.weight.ref_time)
        return InclusionFee(
            BASE_FEE,
            Balance(LENGTH_FEE * length),
            Balance(self.next_fee_multiplier.get() * weight_fee // MULTIPLIER_ONE),
        )

    def fee(self, info: DispatchInfo, length: int, tip: Balance) -> Balance:
        """All that the signer pays, the tip too."""
        weight_fee = self.next_fee_multiplier.get() * weight_to_fee(info.weight.ref_time)
        return Balance(BASE_FEE + LENGTH_FEE * length + weight_fee // MULTIPLIER_ONE + tip)

    def charge(self, who: AccountId, fee: Balance) -> None:
        """Take the fee before the call runs, and count the extrinsic.

        Raises:
            TokenError: nothing happened.
        """
        self.currency.withdraw(who, fee, extrinsics=1)

    def settle(self, who: AccountId, fee: Balance, tip: Balance) -> None:
        """Pay what `charge` took to the treasury, after the call ran."""
        self.currency.deposit(TREASURY, fee)
        self.emit(TransactionFeePaid(who, fee, tip))

    events: ClassVar = {0: TransactionFeePaid}
    constants: ClassVar = (
        Constant(
            "OperationalFeeMultiplier",
            U8,
            OPERATIONAL_MULTIPLIER,
            "How much an operational call's tip counts.",
        ),
    )


def weight_to_fee(ref_time: int) -> Balance:
    return Balance(ref_time * BASE_FEE // BASE_REF_TIME)
