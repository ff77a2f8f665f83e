"""Dev: what nobody may do on a chain that people rely on. Each call is refused but where the
chain's genesis says that it is a development network.

An extrinsic without a signature runs a call as whomever it names. So a block with one comes to the
same state for everybody who has its header and body: a light client, a peer, an enclave.
"""

from typing import Annotated, Any, ClassVar, Final

from phala.codec import BOOL, U64
from phala.frame import (
    DISPATCH_RESULT,
    MICROSECOND,
    RUNTIME_CALL,
    Block,
    Call,
    Dispatcher,
    Origin,
    Pallet,
    PalletError,
    StorageValue,
    call,
    dispatch_result,
    ensure_unsigned,
    event,
)
from phala.frame.caller import ORIGIN_CALLER

AHEAD_MAX: Final = 256  # that wait for those before them


class NotADevChain(PalletError):
    """The chain is no development network: sign the extrinsic with an account."""


class SequencePassed(PalletError):
    """The call was made before: ask for it again."""


class SequenceTooFar(PalletError):
    """The calls before it are not here: make those first."""


@event
class DispatchedAs:
    """A call ran as somebody's who did not sign it."""

    result: Annotated[Any, DISPATCH_RESULT]


def weight_of_inner(_sequence: int, _origin: Origin, inner: Call) -> int:
    return inner.info.weight.ref_time


class Dev(Pallet):
    """What a development network allows, and no other chain."""

    name = "Dev"
    is_dev = StorageValue(
        BOOL, default=False, doc="Whether the genesis says that this is a development network."
    )
    next_sequence = StorageValue(U64, default=0, doc="The number of the next call.")

    def __init__(self, block: Block, *, dispatcher: Dispatcher) -> None:
        super().__init__(block)
        self.dispatcher = dispatcher

    def check(self, sequence: int) -> int:
        """How many calls are to come before it. Raises `PalletError`: none may be made, or it was
        made."""
        if not self.is_dev.get():
            raise NotADevChain
        ahead = sequence - self.next_sequence.get()
        if ahead < 0:
            raise SequencePassed
        if ahead > AHEAD_MAX:
            raise SequenceTooFar
        return ahead

    @call(20 * MICROSECOND, weigh=weight_of_inner)
    def dispatch_as(
        self,
        origin: Origin,
        sequence: Annotated[int, U64],
        as_origin: Annotated[Origin, ORIGIN_CALLER],
        call: Annotated[Call, RUNTIME_CALL],
    ) -> None:
        """Run a call as anybody, unsigned and free: each number once, in order. Where the call
        fails, the event says so."""
        ensure_unsigned(origin)
        if self.check(sequence):
            raise SequenceTooFar
        self.next_sequence.put(sequence + 1)
        error = self.dispatcher.dispatch(call, as_origin)
        self.emit(DispatchedAs(dispatch_result(error)))

    calls: ClassVar = {0: dispatch_as}
    events: ClassVar = {0: DispatchedAs}
    errors: ClassVar = {0: NotADevChain, 1: SequencePassed, 2: SequenceTooFar}
