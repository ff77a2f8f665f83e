"""Utility: several calls in one extrinsic, and accounts that are derived from another.

Source: `pallet-utility`: calls, events, errors, their numbers, and how an account is derived.
"""

from typing import Annotated, Any, ClassVar, Final

from phala.codec import U16, U32, Vector
from phala.crypto.hashes import blake2_256
from phala.frame import (
    DISPATCH_ERROR,
    DISPATCH_RESULT,
    MICROSECOND,
    RUNTIME_CALL,
    WEIGHT,
    Block,
    Call,
    Constant,
    Dispatcher,
    DispatchError,
    InnerRefused,
    Origin,
    Pallet,
    PalletError,
    Root,
    Signed,
    Weight,
    call,
    dispatch_result,
    ensure_root,
    ensure_signed,
    event,
)
from phala.frame.caller import ORIGIN_CALLER
from phala.primitives.types import AccountId

BATCH_MAX: Final = 1024  # calls
CALLS: Final = Vector(RUNTIME_CALL, items_max=4 * BATCH_MAX)
EACH_REF_TIME: Final = 2 * MICROSECOND  # of a call in a batch, beside its own


class TooManyCalls(PalletError):
    """The batch holds too many calls: send several batches."""


@event
class BatchInterrupted:
    """A call of the batch failed; those before it stand, those after it did not run."""

    index: Annotated[int, U32]
    error: Annotated[DispatchError, DISPATCH_ERROR]


@event
class BatchCompleted:
    """All calls of the batch went well."""


@event
class BatchCompletedWithErrors:
    """All calls of the batch ran, and some failed."""


@event
class ItemCompleted:
    """A call of the batch went well."""


@event
class ItemFailed:
    """A call of the batch failed."""

    error: Annotated[DispatchError, DISPATCH_ERROR]


@event
class DispatchedAs:
    """A call ran as somebody's."""

    result: Annotated[Any, DISPATCH_RESULT]


@event
class IfElseMainSuccess:
    """Of two calls the first went well."""


@event
class IfElseFallbackCalled:
    """Of two calls the first failed, and the second went well."""

    main_error: Annotated[DispatchError, DISPATCH_ERROR]


def weight_of_all(calls: tuple[Call, ...]) -> int:
    return sum(each.info.weight.ref_time for each in calls)


def count_of(calls: tuple[Call, ...]) -> int:
    return len(calls)


def weight_of_inner(_index: int, inner: Call) -> int:
    return inner.info.weight.ref_time


def weight_of_both(main: Call, fallback: Call) -> int:
    return main.info.weight.ref_time + fallback.info.weight.ref_time


def weight_given(_inner: Call, weight: Weight) -> int:
    return weight.ref_time


def weight_as(_origin: Origin, inner: Call) -> int:
    return inner.info.weight.ref_time


class Utility(Pallet):
    """Several calls in one extrinsic, and accounts that are derived from another."""

    name = "Utility"

    def __init__(self, block: Block, *, dispatcher: Dispatcher) -> None:
        super().__init__(block)
        self.dispatcher = dispatcher

    @call(20 * MICROSECOND, weigh=weight_of_all, count=count_of, each=EACH_REF_TIME)
    def batch(self, origin: Origin, calls: Annotated[tuple[Call, ...], CALLS]) -> None:
        """Run calls up to the first that fails; what was done stays done."""
        ensure_caller(origin)
        ensure_few(calls)
        for index, each in enumerate(calls):
            error = self.dispatcher.dispatch(each, origin)
            if error is not None:
                self.emit(BatchInterrupted(index, error))
                return
            self.emit(ItemCompleted())
        self.emit(BatchCompleted())

    @call(20 * MICROSECOND, weigh=weight_of_inner)
    def as_derivative(
        self, origin: Origin, index: Annotated[int, U16], call: Annotated[Call, RUNTIME_CALL]
    ) -> None:
        """Run a call as the account that is derived from the signer's, which has no key."""
        who = derivative_account(ensure_signed(origin), index)
        assert isinstance(origin, Signed)
        error = self.dispatcher.dispatch(call, origin.become(who))
        if error is not None:
            raise InnerRefused(error)

    @call(20 * MICROSECOND, weigh=weight_of_all, count=count_of, each=EACH_REF_TIME)
    def batch_all(self, origin: Origin, calls: Annotated[tuple[Call, ...], CALLS]) -> None:
        """Run all calls, or none of them."""
        ensure_caller(origin)
        ensure_few(calls)
        for each in calls:
            error = self.dispatcher.dispatch(each, origin)
            if error is not None:
                raise InnerRefused(error)
            self.emit(ItemCompleted())
        self.emit(BatchCompleted())

    @call(20 * MICROSECOND, weigh=weight_as)
    def dispatch_as(
        self,
        origin: Origin,
        as_origin: Annotated[Origin, ORIGIN_CALLER],
        call: Annotated[Call, RUNTIME_CALL],
    ) -> None:
        """Run a call as anybody: the chain itself may."""
        ensure_root(origin)
        error = self.dispatcher.dispatch(call, as_origin)
        self.emit(DispatchedAs(dispatch_result(error)))

    @call(20 * MICROSECOND, weigh=weight_of_all, count=count_of, each=EACH_REF_TIME)
    def force_batch(self, origin: Origin, calls: Annotated[tuple[Call, ...], CALLS]) -> None:
        """Run all calls, also after one that fails."""
        ensure_caller(origin)
        ensure_few(calls)
        failed = False
        for each in calls:
            error = self.dispatcher.dispatch(each, origin)
            failed = failed or error is not None
            self.emit(ItemCompleted() if error is None else ItemFailed(error))
        self.emit(BatchCompletedWithErrors() if failed else BatchCompleted())

    @call(20 * MICROSECOND, weigh=weight_given)
    def with_weight(
        self,
        origin: Origin,
        call: Annotated[Call, RUNTIME_CALL],
        weight: Annotated[Weight, WEIGHT],  # noqa: ARG002 - taken before the call runs
    ) -> None:
        """Run a call for a weight that is not its own: the chain itself may."""
        ensure_root(origin)
        error = self.dispatcher.dispatch(call, origin)
        if error is not None:
            raise InnerRefused(error)

    @call(20 * MICROSECOND, weigh=weight_of_both)
    def if_else(
        self,
        origin: Origin,
        main: Annotated[Call, RUNTIME_CALL],
        fallback: Annotated[Call, RUNTIME_CALL],
    ) -> None:
        """Run a call, and another where the first fails."""
        ensure_caller(origin)
        error = self.dispatcher.dispatch(main, origin)
        if error is None:
            self.emit(IfElseMainSuccess())
            return
        second = self.dispatcher.dispatch(fallback, origin)
        if second is not None:
            raise InnerRefused(second)
        self.emit(IfElseFallbackCalled(error))

    @call(20 * MICROSECOND, weigh=weight_as)
    def dispatch_as_fallible(
        self,
        origin: Origin,
        as_origin: Annotated[Origin, ORIGIN_CALLER],
        call: Annotated[Call, RUNTIME_CALL],
    ) -> None:
        """As `dispatch_as`; where the call fails, so does this one."""
        ensure_root(origin)
        error = self.dispatcher.dispatch(call, as_origin)
        if error is not None:
            raise InnerRefused(error)
        self.emit(DispatchedAs(dispatch_result(None)))

    calls: ClassVar = {
        0: batch,
        1: as_derivative,
        2: batch_all,
        3: dispatch_as,
        4: force_batch,
        5: with_weight,
        6: if_else,
        7: dispatch_as_fallible,
    }
    events: ClassVar = {
        0: BatchInterrupted,
        1: BatchCompleted,
        2: BatchCompletedWithErrors,
        3: ItemCompleted,
        4: ItemFailed,
        5: DispatchedAs,
        6: IfElseMainSuccess,
        7: IfElseFallbackCalled,
    }
    errors: ClassVar = {0: TooManyCalls}
    constants: ClassVar = (
        Constant("batched_calls_limit", U32, BATCH_MAX, "The most calls in one batch."),
    )


def ensure_caller(origin: Origin) -> None:
    """A batch is an account's, or the chain's own."""
    if not isinstance(origin, Root):
        ensure_signed(origin)


def ensure_few(calls: tuple[Call, ...]) -> None:
    if len(calls) > BATCH_MAX:
        raise TooManyCalls


def derivative_account(who: AccountId, index: int) -> AccountId:
    """The account number `index` of those that `who` controls."""
    return AccountId(blake2_256(b"modlpy/utilisuba" + who + index.to_bytes(2, "little")))
