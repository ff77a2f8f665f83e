"""`phala node revert`: back to an earlier block, never below what is finalized."""

from phala.codec import Malformed
from phala.errors import Invalid
from phala.messages.bus import TOPIC, TOPIC_STATE
from phala.node.store import Store
from phala.node.tools.check import TOPIC_FRONT_BYTES, TOPICS, CheckFailed
from phala.primitives.types import BlockNumber


def revert(store: Store, number: int) -> int:
    """Forget the blocks above `number`. Returns how many they were.

    Raises:
        Invalid: there is no such block.
        Refused: one of them is finalized.
    """
    head = store.head().number
    if not store.base <= number <= head:
        raise Invalid(
            f"block {number} of {store.base} to {head}", mend="name a block that is there"
        )
    counts: dict[bytes, int] = {}
    try:
        for above in range(max(number, store.finalized) + 1, head + 1):
            for key, old in store.undo(BlockNumber(above)):
                if key.startswith(TOPICS):
                    before = 0 if old is None else TOPIC_STATE.decode(old).count
                    counts.setdefault(TOPIC.decode(key[TOPIC_FRONT_BYTES:]), before)
    except Malformed as error:
        raise CheckFailed(f"a topic of the state: {error.what}") from None
    store.revert(BlockNumber(number), counts)
    return head - number
