"""TransactionPayment: what an extrinsic costs, taken before it runs.

    fee = base + length fee + multiplier * weight fee + tip

The figures are the original's (reference: its runtime's constants): 0.0001 PHA for the weight that
every extrinsic has, 0.00001 PHA a byte. The multiplier follows how full blocks are, as Substrate's
`TargetedFeeAdjustment` does; it never falls under 1, so what is estimated on a quiet chain is what
is paid. Of fees a share is burnt; the rest, and all tips, go to the treasury.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Protocol

from phala.codec import U8, U32, U128, Newtype
from phala.frame import (
    MICROSECOND,
    Constant,
    DispatchClass,
    DispatchInfo,
    Origin,
    Pallet,
    PalletError,
    StorageValue,
    call,
    ensure_root,
    event,
)
from phala.frame.block import Block
from phala.primitives.types import PHA, AccountId, Balance

BASE_FEE: Final = Balance(PHA // 10_000)
LENGTH_FEE: Final = Balance(PHA // 100_000)  # a byte
BASE_REF_TIME: Final = 100_000_000  # picoseconds that cost as much as `BASE_FEE`
MULTIPLIER_ONE: Final = 10**18
MULTIPLIER_MAX: Final = 10**9 * MULTIPLIER_ONE  # far from where a fee would not fit a balance
TARGET_PERCENT: Final = 25  # of what users' calls may take of a block
ADJUSTMENT: Final = MULTIPLIER_ONE // 100_000  # how much one block counts
OPERATIONAL_MULTIPLIER: Final = 5

PERBILL: Final = 10**9
BURN_SHARE: Final = 200_000_000  # a fifth of fees
BURN_SHARE_MAX: Final = 500_000_000

TREASURY: Final = AccountId(b"modlpy/trsry".ljust(32, b"\0"))

FIXED_U128: Final[Newtype[int]] = Newtype(("sp_arithmetic", "fixed_point", "FixedU128"), U128)

BILLIONTHS: Final[Newtype[int]] = Newtype(("sp_arithmetic", "per_things", "Perbill"), U32)


class ShareTooLarge(PalletError):
    """More than half of fees would be burnt: set a smaller share."""


@event
class TransactionFeePaid:
    """An extrinsic's signer paid for it."""

    who: AccountId
    actual_fee: Balance
    tip: Balance


@event
class BurnShareSet:
    """Another share of fees is burnt from now on."""

    share: Annotated[int, BILLIONTHS]


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
    def destroy(self, amount: Balance) -> None: ...


class TransactionPayment(Pallet):
    """What an extrinsic costs."""

    name = "TransactionPayment"
    next_fee_multiplier = StorageValue(
        FIXED_U128, default=MULTIPLIER_ONE, doc="By how much weight is dearer than at rest."
    )

    fee_burn_share = StorageValue(
        BILLIONTHS, default=BURN_SHARE, doc="Which part of fees is burnt; of tips none is."
    )

    def __init__(self, block: Block, *, currency: Currency, ref_time_max: int) -> None:
        """`ref_time_max`: picoseconds that users' calls may take of a block."""
        super().__init__(block)
        self.currency = currency
        self.ref_time_max = ref_time_max
        self._burnt = 0  # of this block's fees; no extrinsic that was paid for is undone

    def on_finalize(self) -> None:
        """Burn what is to be of the block's fees, at once: the sum of all plancks is changed once
        a block. The next block's multiplier, by how full this one is."""
        if self._burnt:
            self.currency.destroy(Balance(self._burnt))
            self._burnt = 0
        before = self.next_fee_multiplier.get()
        taken = self.block.ref_time[DispatchClass.NORMAL]
        after = next_multiplier(before, taken, self.ref_time_max)
        if after != before:
            self.next_fee_multiplier.put(after)

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
        """Put a share of what `charge` took aside to be burnt, and pay the rest to the treasury,
        after the call ran. `fee` holds the tip."""
        burnt = (fee - tip) * self.fee_burn_share.get() // PERBILL
        self._burnt += burnt
        self.currency.deposit(TREASURY, Balance(fee - burnt))
        self.emit(TransactionFeePaid(who, fee, tip))

    @call(20 * MICROSECOND)
    def set_fee_burn_share(self, origin: Origin, share: Annotated[int, BILLIONTHS]) -> None:
        """Set which part of fees is burnt: the chain itself may, up to a half."""
        ensure_root(origin)
        if share > BURN_SHARE_MAX:
            raise ShareTooLarge
        self.fee_burn_share.put(share)
        self.emit(BurnShareSet(share))

    calls: ClassVar = {100: set_fee_burn_share}  # far from what Substrate may add
    events: ClassVar = {0: TransactionFeePaid, 100: BurnShareSet}
    errors: ClassVar = {100: ShareTooLarge}
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


def next_multiplier(before: int, taken: int, most: int) -> int:
    """After a block in which users' calls took `taken` picoseconds of `most`.

    With v the adjustment and d by how much fullness differs from its target, the multiplier grows
    by v*d + (v*d)**2 / 2 of itself, or falls by v*d - (v*d)**2 / 2. All fixed-point products are
    rounded down. Source: `pallet-transaction-payment`, `TargetedFeeAdjustment`.
    """
    taken, target = min(taken, most), most * TARGET_PERCENT // 100
    apart = abs(taken - target) * MULTIPLIER_ONE // most
    first = ADJUSTMENT * apart // MULTIPLIER_ONE
    square = ADJUSTMENT * ADJUSTMENT // MULTIPLIER_ONE // 2
    second = square * (apart * apart // MULTIPLIER_ONE) // MULTIPLIER_ONE
    if taken >= target:
        after = before + (first + second) * before // MULTIPLIER_ONE
    else:
        after = before - (first - second) * before // MULTIPLIER_ONE
    return min(max(after, MULTIPLIER_ONE), MULTIPLIER_MAX)
