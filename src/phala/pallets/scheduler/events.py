"""What happens to tasks, and why one is refused. Names and numbers are `pallet-scheduler`'s."""

from typing import Annotated, Any, Final

from phala.codec import U8, U32, Option, Tuple
from phala.frame import DISPATCH_RESULT, PalletError, event
from phala.pallets.scheduler.kept import NAME
from phala.primitives.types import BLOCK_NUMBER, BlockNumber

TASK: Final = Tuple((BLOCK_NUMBER, U32))  # a block, and a place in its agenda


class FailedToSchedule(PalletError):
    """The name is taken, or the block's agenda is full: choose another name or block."""


class NotFound(PalletError):
    """There is no such task: look at the agenda."""


class TargetBlockNumberInPast(PalletError):
    """The block is made already: name a later one."""


@event
class Scheduled:
    """A call is to be made in a later block."""

    when: BlockNumber
    index: Annotated[int, U32]


@event
class Canceled:
    """A call is not to be made."""

    when: BlockNumber
    index: Annotated[int, U32]


@event
class Dispatched:
    """A call was made as scheduled."""

    task: Annotated[tuple[int, int], TASK]
    id: Annotated[bytes | None, Option(NAME)]
    result: Annotated[Any, DISPATCH_RESULT]


@event
class CallUnavailable:
    """A call could not be made: nobody noted it, or it is no call of this runtime."""

    task: Annotated[tuple[int, int], TASK]
    id: Annotated[bytes | None, Option(NAME)]


@event
class PeriodicFailed:
    """A call was made and is not made again: the agenda of its next block is full."""

    task: Annotated[tuple[int, int], TASK]
    id: Annotated[bytes | None, Option(NAME)]


@event
class PermanentlyOverweight:
    """A call weighs more than all calls of a block may."""

    task: Annotated[tuple[int, int], TASK]
    id: Annotated[bytes | None, Option(NAME)]


@event
class AgendaIncomplete:
    """Calls of this block were left for a later one."""

    when: BlockNumber


@event
class RetrySet:
    """A task is tried again, so often, where it fails."""

    task: Annotated[tuple[int, int], TASK]
    id: Annotated[bytes | None, Option(NAME)]
    period: BlockNumber
    retries: Annotated[int, U8]


@event
class RetryCancelled:
    """A task is tried once."""

    task: Annotated[tuple[int, int], TASK]
    id: Annotated[bytes | None, Option(NAME)]


@event
class RetryFailed:
    """A task failed and is not tried again: the agenda of that block is full."""

    task: Annotated[tuple[int, int], TASK]
    id: Annotated[bytes | None, Option(NAME)]
