"""Multisig: several accounts act as one when enough of them say so.

Source: `pallet-multisig`: calls, events, errors, their numbers, and how the account is derived.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Final, Protocol

from phala.codec import U16, U32, FixedBytes, Option, Vector, encode_compact
from phala.crypto.hashes import blake2_256
from phala.frame import (
    DISPATCH_RESULT,
    MICROSECOND,
    RUNTIME_CALL,
    WEIGHT,
    Block,
    Call,
    Constant,
    Described,
    Dispatcher,
    Hasher,
    InnerRefused,
    Origin,
    Pallet,
    PalletError,
    Signed,
    StorageDoubleMap,
    Weight,
    call,
    dispatch_result,
    ensure_signed,
    event,
)
from phala.primitives.types import ACCOUNT_ID, BALANCE, PHA, AccountId, Balance, BlockNumber, scale

SIGNATORIES_MAX: Final = 100
DEPOSIT_BASE: Final = Balance(PHA // 5)  # for what the state keeps of an operation,
DEPOSIT_FACTOR: Final = Balance(PHA // 10)  # and for each approval that it takes

ACCOUNTS: Final = Vector(ACCOUNT_ID, items_max=SIGNATORIES_MAX)
LISTED: Final = Vector(ACCOUNT_ID, items_max=10 * SIGNATORIES_MAX)  # more are refused by name
CALL_HASH: Final[FixedBytes[bytes]] = FixedBytes(32)


class MinimumThreshold(PalletError):
    """Fewer than 2 approvals are no multisig: ask for 2 or more, or use the call for 1."""


class AlreadyApproved(PalletError):
    """The account approved this before: leave it to another signatory."""


class NoApprovalsNeeded(PalletError):
    """There are enough approvals: send the call itself."""


class TooFewSignatories(PalletError):
    """No other signatory is named: name those who may approve."""


class TooManySignatories(PalletError):
    """There are too many signatories: name fewer."""


class SignatoriesOutOfOrder(PalletError):
    """The other signatories are not in ascending order: sort them, each once."""


class SenderInSignatories(PalletError):
    """The sender is among the other signatories: leave it out."""


class NotFound(PalletError):
    """There is no such operation: look up its call's hash."""


class NotOwner(PalletError):
    """Another account began this: leave its end to that one."""


class NoTimepoint(PalletError):
    """The operation has begun: say when."""


class WrongTimepoint(PalletError):
    """The operation began at another time: look it up."""


class UnexpectedTimepoint(PalletError):
    """The operation has not begun: name no time."""


class MaxWeightTooLow(PalletError):
    """The call weighs more than was allowed: allow its weight."""


@dataclass(frozen=True, slots=True)
class TimepointRecord:
    height: BlockNumber
    index: Annotated[int, U32]  # of the extrinsic in that block


TIMEPOINT: Final[Described[TimepointRecord]] = Described(
    ("pallet_multisig", "Timepoint"), scale(TimepointRecord)
)


@dataclass(frozen=True, slots=True)
class OperationRecord:
    when: Annotated[TimepointRecord, TIMEPOINT]
    deposit: Balance
    depositor: AccountId
    approvals: Annotated[tuple[AccountId, ...], ACCOUNTS]  # in ascending order


OPERATION: Final[Described[OperationRecord]] = Described(
    ("pallet_multisig", "Multisig"), scale(OperationRecord)
)


@event
class NewMultisig:
    """An operation began."""

    approving: AccountId
    multisig: AccountId
    call_hash: Annotated[bytes, CALL_HASH]


@event
class MultisigApproval:
    """One more signatory approved an operation."""

    approving: AccountId
    timepoint: Annotated[TimepointRecord, TIMEPOINT]
    multisig: AccountId
    call_hash: Annotated[bytes, CALL_HASH]


@event
class MultisigExecuted:
    """An operation had its approvals, and its call ran."""

    approving: AccountId
    timepoint: Annotated[TimepointRecord, TIMEPOINT]
    multisig: AccountId
    call_hash: Annotated[bytes, CALL_HASH]
    result: Annotated[Any, DISPATCH_RESULT]


@event
class MultisigCancelled:
    """Who began an operation ended it."""

    cancelling: AccountId
    timepoint: Annotated[TimepointRecord, TIMEPOINT]
    multisig: AccountId
    call_hash: Annotated[bytes, CALL_HASH]


@event
class DepositPoked:
    """What an operation reserves follows the present rates."""

    who: AccountId
    call_hash: Annotated[bytes, CALL_HASH]
    old_deposit: Balance
    new_deposit: Balance


class Currency(Protocol):
    """Who keeps deposits."""

    def reserve(self, who: AccountId, amount: Balance) -> None: ...
    def unreserve(self, who: AccountId, amount: Balance) -> Balance: ...


def weight_of_one(_others: tuple[AccountId, ...], inner: Call) -> int:
    return inner.info.weight.ref_time


def weight_of_last(
    _threshold: int,
    _others: tuple[AccountId, ...],
    _timepoint: TimepointRecord | None,
    inner: Call,
    _max_weight: Weight,
) -> int:
    return inner.info.weight.ref_time


class Multisig(Pallet):
    """Several accounts act as one when enough of them say so."""

    name = "Multisig"
    multisigs = StorageDoubleMap(
        (Hasher.TWOX_64_CONCAT, Hasher.BLAKE2_128_CONCAT),
        (AccountId, CALL_HASH),
        OPERATION,
        doc="Operations that have begun.",
    )

    def __init__(self, block: Block, *, currency: Currency, dispatcher: Dispatcher) -> None:
        super().__init__(block)
        self.currency = currency
        self.dispatcher = dispatcher

    # ---- calls

    @call(50 * MICROSECOND, weigh=weight_of_one)
    def as_multi_threshold_1(
        self,
        origin: Origin,
        other_signatories: Annotated[tuple[AccountId, ...], LISTED],
        call: Annotated[Call, RUNTIME_CALL],
    ) -> None:
        """Act as an account of which any one signatory may."""
        who = ensure_signed(origin)
        if not other_signatories:
            raise TooFewSignatories
        together = ensure_signatories(who, other_signatories)
        error = self.dispatcher.dispatch(call, Signed(multi_account(together, 1)))
        if error is not None:
            raise InnerRefused(error)

    @call(120 * MICROSECOND, weigh=weight_of_last)
    def as_multi(
        self,
        origin: Origin,
        threshold: Annotated[int, U16],
        other_signatories: Annotated[tuple[AccountId, ...], LISTED],
        maybe_timepoint: Annotated[TimepointRecord | None, Option(TIMEPOINT)],
        call: Annotated[Call, RUNTIME_CALL],
        max_weight: Annotated[Weight, WEIGHT],
    ) -> None:
        """Approve a call; the last approval runs it."""
        who, multisig = self._parties(origin, threshold, other_signatories)
        call_hash = blake2_256(call.encoded)
        operation = self._operation(multisig, call_hash, maybe_timepoint)
        known = () if operation is None else operation.approvals
        if operation is None or len(known) + (who not in known) < threshold:
            self._approve(who, multisig, call_hash, operation, threshold)
            return
        if call.info.weight.ref_time > max_weight.ref_time:
            raise MaxWeightTooLow
        self.multisigs.delete(multisig, call_hash)
        self.currency.unreserve(operation.depositor, operation.deposit)
        error = self.dispatcher.dispatch(call, Signed(multisig))
        self.emit(
            MultisigExecuted(who, operation.when, multisig, call_hash, dispatch_result(error))
        )

    @call(100 * MICROSECOND)
    def approve_as_multi(
        self,
        origin: Origin,
        threshold: Annotated[int, U16],
        other_signatories: Annotated[tuple[AccountId, ...], LISTED],
        maybe_timepoint: Annotated[TimepointRecord | None, Option(TIMEPOINT)],
        call_hash: Annotated[bytes, CALL_HASH],
        max_weight: Annotated[Weight, WEIGHT],  # noqa: ARG002 - the call is not known yet
    ) -> None:
        """Approve a call by its hash; the last approval must carry the call itself."""
        who, multisig = self._parties(origin, threshold, other_signatories)
        operation = self._operation(multisig, call_hash, maybe_timepoint)
        if operation is not None and len(operation.approvals) >= threshold:
            raise NoApprovalsNeeded
        self._approve(who, multisig, call_hash, operation, threshold)

    @call(100 * MICROSECOND)
    def cancel_as_multi(
        self,
        origin: Origin,
        threshold: Annotated[int, U16],
        other_signatories: Annotated[tuple[AccountId, ...], LISTED],
        timepoint: Annotated[TimepointRecord, TIMEPOINT],
        call_hash: Annotated[bytes, CALL_HASH],
    ) -> None:
        """End an operation; who began it may, and gets the deposit back."""
        who, multisig = self._parties(origin, threshold, other_signatories)
        operation = self.multisigs.get(multisig, call_hash)
        if operation is None:
            raise NotFound
        if operation.when != timepoint:
            raise WrongTimepoint
        if operation.depositor != who:
            raise NotOwner
        self.multisigs.delete(multisig, call_hash)
        self.currency.unreserve(who, operation.deposit)
        self.emit(MultisigCancelled(who, timepoint, multisig, call_hash))

    @call(100 * MICROSECOND)
    def poke_deposit(
        self,
        origin: Origin,
        threshold: Annotated[int, U16],
        other_signatories: Annotated[tuple[AccountId, ...], LISTED],
        call_hash: Annotated[bytes, CALL_HASH],
    ) -> None:
        """Have what an operation reserves follow the present rates; who began it may."""
        who, multisig = self._parties(origin, threshold, other_signatories)
        operation = self.multisigs.get(multisig, call_hash)
        if operation is None:
            raise NotFound
        if operation.depositor != who:
            raise NotOwner
        before, after = operation.deposit, deposit_of(threshold)
        if after == before:
            return
        if after > before:
            self.currency.reserve(who, Balance(after - before))
        else:
            self.currency.unreserve(who, Balance(before - after))
        self.multisigs.put(multisig, call_hash, replace(operation, deposit=after))
        self.emit(DepositPoked(who, call_hash, before, after))

    # ---- what they share

    def _parties(
        self, origin: Origin, threshold: int, others: tuple[AccountId, ...]
    ) -> tuple[AccountId, AccountId]:
        """Who asks, and as which account."""
        who = ensure_signed(origin)
        if threshold < 2:
            raise MinimumThreshold
        if not others:
            raise TooFewSignatories
        return who, multi_account(ensure_signatories(who, others), threshold)

    def _operation(
        self, multisig: AccountId, call_hash: bytes, timepoint: TimepointRecord | None
    ) -> OperationRecord | None:
        """The operation, which began at that time; None where it has not begun."""
        operation = self.multisigs.get(multisig, call_hash)
        if operation is None:
            if timepoint is not None:
                raise UnexpectedTimepoint
        elif timepoint is None:
            raise NoTimepoint
        elif timepoint != operation.when:
            raise WrongTimepoint
        return operation

    def _approve(
        self,
        who: AccountId,
        multisig: AccountId,
        call_hash: bytes,
        operation: OperationRecord | None,
        threshold: int,
    ) -> None:
        if operation is None:
            deposit = deposit_of(threshold)
            self.currency.reserve(who, deposit)
            when = TimepointRecord(self.block.number, max(self.block.phase, 0))
            begun = OperationRecord(when, deposit, who, (who,))
            self.multisigs.put(multisig, call_hash, begun)
            self.emit(NewMultisig(who, multisig, call_hash))
            return
        if who in operation.approvals:
            raise AlreadyApproved
        approvals = tuple(sorted((*operation.approvals, who)))
        self.multisigs.put(multisig, call_hash, replace(operation, approvals=approvals))
        self.emit(MultisigApproval(who, operation.when, multisig, call_hash))

    calls: ClassVar = {
        0: as_multi_threshold_1,
        1: as_multi,
        2: approve_as_multi,
        3: cancel_as_multi,
        4: poke_deposit,
    }
    events: ClassVar = {
        0: NewMultisig,
        1: MultisigApproval,
        2: MultisigExecuted,
        3: MultisigCancelled,
        4: DepositPoked,
    }
    errors: ClassVar = {
        0: MinimumThreshold,
        1: AlreadyApproved,
        2: NoApprovalsNeeded,
        3: TooFewSignatories,
        4: TooManySignatories,
        5: SignatoriesOutOfOrder,
        6: SenderInSignatories,
        7: NotFound,
        8: NotOwner,
        9: NoTimepoint,
        10: WrongTimepoint,
        11: UnexpectedTimepoint,
        12: MaxWeightTooLow,
    }
    constants: ClassVar = (
        Constant("DepositBase", BALANCE, DEPOSIT_BASE, "What every operation reserves."),
        Constant("DepositFactor", BALANCE, DEPOSIT_FACTOR, "What it reserves for each approval."),
        Constant("MaxSignatories", U32, SIGNATORIES_MAX, "The most signatories of an account."),
    )


def deposit_of(threshold: int) -> Balance:
    return Balance(DEPOSIT_BASE + DEPOSIT_FACTOR * threshold)


def ensure_signatories(who: AccountId, others: tuple[AccountId, ...]) -> tuple[AccountId, ...]:
    """All signatories in ascending order."""
    if len(others) >= SIGNATORIES_MAX:
        raise TooManySignatories
    if any(a >= b for a, b in pairwise(others)):
        raise SignatoriesOutOfOrder
    if who in others:
        raise SenderInSignatories
    return tuple(sorted((*others, who)))


def multi_account(signatories: tuple[AccountId, ...], threshold: int) -> AccountId:
    """The account of these signatories, in ascending order, for so many approvals."""
    listed = encode_compact(len(signatories)) + b"".join(signatories)
    preimage = b"modlpy/utilisuba" + listed + threshold.to_bytes(2, "little")
    return AccountId(blake2_256(preimage))
