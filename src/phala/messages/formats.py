"""Which formats the chain writes for light clients, and which it will: versioned, and announced.

The chain's state keeps both under `PhalaMq`, so that whoever follows by proofs reads them by proof:
`Formats` is what every block is written in from now on; `NextFormats` is what follows, and the
first block that is. It stands there for `NOTICE_BLOCKS` at least before that block.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import U8, Descriptor
from phala.messages.bus import ENVELOPE_VERSION
from phala.messages.state import STATE_VERSION
from phala.messages.types import scale
from phala.primitives.keys import storage_prefix
from phala.primitives.types import BlockNumber

KEYS_VERSION: Final = 1  # which keys `PhalaMq` keeps topics, heads and sequences under
DIGEST_VERSION: Final = 1  # what a header's digest says of authorities
NOTICE_BLOCKS: Final = 28_800  # a day of blocks every three seconds: for operators to take it up

FORMATS_KEY: Final = storage_prefix("PhalaMq", "Formats")
NEXT_FORMATS_KEY: Final = storage_prefix("PhalaMq", "NextFormats")


@dataclass(frozen=True, slots=True)
class Formats:
    """A version of each format that light clients read."""

    keys: Annotated[int, U8]
    envelope: Annotated[int, U8]
    digest: Annotated[int, U8]
    state: Annotated[int, U8]  # of workers, clusters and contracts: `messages.state`


@dataclass(frozen=True, slots=True)
class NextFormats:
    """What was announced."""

    formats: Formats
    first: BlockNumber  # that is written so


FORMATS: Final[Descriptor[Formats]] = scale(Formats)
NEXT_FORMATS: Final[Descriptor[NextFormats]] = scale(NextFormats)
PRESENT: Final = Formats(KEYS_VERSION, ENVELOPE_VERSION, DIGEST_VERSION, STATE_VERSION)
