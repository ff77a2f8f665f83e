"""Timestamp: the time of a block, as its author set it."""

from typing import Annotated, ClassVar, Final

from phala.codec import Compact
from phala.frame import (
    MICROSECOND,
    Constant,
    DispatchClass,
    Origin,
    Pallet,
    PalletError,
    Pays,
    StorageValue,
    call,
    ensure_unsigned,
)
from phala.primitives.types import MOMENT, Moment

MINIMUM_PERIOD_MS: Final = 1  # between two blocks; time never stands still or runs back

MOMENT_COMPACT: Final[Compact[Moment]] = Compact(MOMENT)


class TimeRanBack(PalletError):
    """The block's time is not after its parent's: set the clock, or wait."""


class Timestamp(Pallet):
    """The time of a block, as its author set it."""

    name = "Timestamp"
    now = StorageValue(MOMENT, default=Moment(0), doc="Milliseconds since the Unix epoch.")

    def time(self) -> Moment:
        """This block's time, once `set` ran; before it, the parent's."""
        return self.now.get()

    def next_after(self, clock: Moment) -> Moment:
        """What an author sets: its clock, unless that is behind the chain."""
        return max(clock, Moment(self.now.get() + MINIMUM_PERIOD_MS))

    @call(50 * MICROSECOND, dispatch_class=DispatchClass.MANDATORY, pays_fee=Pays.NO)
    def set(self, origin: Origin, now: Annotated[Moment, MOMENT_COMPACT]) -> None:
        """Set the block's time: an inherent, the first extrinsic of each block."""
        ensure_unsigned(origin)
        if now < self.now.get() + MINIMUM_PERIOD_MS:
            raise TimeRanBack
        self.now.put(now)

    calls: ClassVar = {0: set}  # noqa: A003 - the call's name on the wire
    errors: ClassVar = {0: TimeRanBack}
    constants: ClassVar = (
        Constant("MinimumPeriod", MOMENT, MINIMUM_PERIOD_MS, "The least time between two blocks."),
    )
