"""Where in the order of a cluster's topic a message stands."""

from dataclasses import dataclass

from phala.messages.types import ClusterId, Count
from phala.primitives.types import BlockNumber, Hash, Moment


@dataclass(frozen=True, slots=True)
class Turn:
    cluster: ClusterId
    block: BlockNumber
    time: Moment
    count: Count  # of the topic, this message included
    head: Hash
