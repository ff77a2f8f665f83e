"""What happens to preimages."""

from phala.frame import event
from phala.primitives.types import Hash


@event
class Noted:
    """A preimage was noted."""

    hash: Hash


@event
class Requested:
    """Something asks for a preimage."""

    hash: Hash


@event
class Cleared:
    """A preimage is kept no more."""

    hash: Hash
