"""`chain_*` and `grandpa_*`: blocks, heads, finality."""

from typing import Any, Final

from phala.codec.compact import encode_compact
from phala.finality import decode_justification
from phala.node.rpc.connection import Subscription
from phala.node.rpc.errors import INVALID_PARAMS, RpcError
from phala.node.rpc.params import Params, block_hash, hex_bytes, number, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Finalized, Happening, NewHead, Node, Reverted
from phala.node.writer import authorities_after
from phala.primitives.address import encode_ss58
from phala.primitives.header import DIGEST_ITEM, ENGINE_GRANDPA, Header
from phala.primitives.types import AccountId, BlockNumber

BLOCK_HASHES_MAX: Final = 1_000  # asked for in one list
MESSAGES_MAX: Final = 1_024  # bodies in one answer


def header_document(header: Header) -> dict[str, Any]:
    return {
        "parentHash": to_hex(header.parent_hash),
        "number": hex(header.number),
        "stateRoot": to_hex(header.state_root),
        "extrinsicsRoot": to_hex(header.extrinsics_root),
        "digest": {"logs": [to_hex(DIGEST_ITEM.encode(item)) for item in header.digest]},
    }


def register(methods: Methods, node: Node) -> None:
    chain = node.chain

    def asked_number(params: Params, index: int = 0) -> BlockNumber:
        """The number of the block whose hash is asked for; the head where none is."""
        asked = params.optional(index, block_hash)
        return chain.head.number if asked is None else chain.number_of(asked)

    def hash_at(at: int) -> str | None:
        header = None if at > chain.head.number else chain.store.header(BlockNumber(at))
        return None if header is None else to_hex(header.hash())

    @methods.add("chain_getBlockHash")
    def get_block_hash(params: Params) -> Any:
        many = params.optional(0, lambda value, _: value if isinstance(value, list) else None)
        if many is not None:
            if len(many) > BLOCK_HASHES_MAX:
                raise RpcError(INVALID_PARAMS, "Invalid params", f"at most {BLOCK_HASHES_MAX}")
            return [hash_at(number(each, 0)) for each in many]
        at = params.optional(0, number)
        return hash_at(chain.head.number if at is None else at)

    @methods.add("chain_getHeader")
    def get_header(params: Params) -> Any:
        asked = params.optional(0, block_hash)
        if asked is not None and chain.store.number_of(asked) is None:
            return None
        return header_document(chain.header(asked_number(params)))

    @methods.add("chain_getBlock")
    def get_block(params: Params) -> Any:
        asked = params.optional(0, block_hash)
        if asked is not None and chain.store.number_of(asked) is None:
            return None
        at = asked_number(params)
        justification = chain.store.justification(at)
        return {
            "block": {
                "header": header_document(chain.header(at)),
                "extrinsics": [to_hex(each) for each in chain.store.body(at)],
            },
            "justifications": None
            if justification is None
            else [[list(ENGINE_GRANDPA), list(justification)]],
        }

    @methods.add("chain_getHead")
    def get_head(_params: Params) -> Any:
        return to_hex(chain.head.hash())

    @methods.add("chain_getFinalizedHead", "chain_getFinalisedHead")
    def get_finalized_head(_params: Params) -> Any:
        return to_hex(chain.header(chain.finalized).hash())

    def heads(subscription: Subscription, happening: Happening) -> None:
        if isinstance(happening, NewHead):
            subscription.tell(header_document(happening.header))
        elif isinstance(happening, Reverted):
            subscription.tell(header_document(chain.header(happening.number)))

    @methods.add_subscription(
        "chain_subscribeNewHeads", "chain_subscribeNewHead", "subscribe_newHead",
        ended_by=("chain_unsubscribeNewHeads", "chain_unsubscribeNewHead", "unsubscribe_newHead"),
        notification="chain_newHead",
    )  # fmt: skip
    def subscribe_new_heads(_params: Params, subscription: Subscription) -> None:
        subscription.tell(header_document(chain.head))
        subscription.at_end(node.listen(lambda happening: heads(subscription, happening)))

    @methods.add_subscription(
        "chain_subscribeAllHeads",
        ended_by=("chain_unsubscribeAllHeads",),
        notification="chain_allHead",
    )
    def subscribe_all_heads(_params: Params, subscription: Subscription) -> None:
        subscription.tell(header_document(chain.head))
        subscription.at_end(node.listen(lambda happening: heads(subscription, happening)))

    @methods.add_subscription(
        "chain_subscribeFinalizedHeads", "chain_subscribeFinalisedHeads",
        ended_by=("chain_unsubscribeFinalizedHeads", "chain_unsubscribeFinalisedHeads"),
        notification="chain_finalizedHead",
    )  # fmt: skip
    def subscribe_finalized_heads(_params: Params, subscription: Subscription) -> None:
        def listener(happening: Happening) -> None:
            if isinstance(happening, Finalized):
                subscription.tell(header_document(chain.header(happening.number)))

        subscription.tell(header_document(chain.header(chain.finalized)))
        subscription.at_end(node.listen(listener))

    @methods.add_subscription(
        "grandpa_subscribeJustifications",
        ended_by=("grandpa_unsubscribeJustifications",),
        notification="grandpa_justifications",
    )
    def subscribe_justifications(_params: Params, subscription: Subscription) -> None:
        def listener(happening: Happening) -> None:
            if isinstance(happening, Finalized):
                subscription.tell(to_hex(happening.justification))

        subscription.at_end(node.listen(listener))

    @methods.add("grandpa_roundState")
    def round_state(_params: Params) -> Any:
        """The round of the block that is finalized next, and behind it the last that is over, with
        the votes that its justification has. There are no prevotes, and precommits come together:
        of the next round, none are known."""
        found = authorities_after(chain, chain.head.number)
        total = sum(each.weight for each in found.authorities)
        missing = [encode_ss58(AccountId(each.key)) for each in found.authorities]
        none = {"currentWeight": 0, "missing": missing}
        best = {
            "round": chain.finalized + 2,
            "totalWeight": total,
            "thresholdWeight": total - (total - 1) // 3,
            "prevotes": none,
            "precommits": none,
        }
        return {"setId": found.id, "best": best, "background": over()}

    def over() -> list[dict[str, Any]]:
        """The last round that is over; none where its voters' state is pruned, as genesis' is."""
        at = chain.finalized
        justification = chain.store.justification(at)
        if justification is None or at - 1 < chain.oldest:
            return []
        voters = authorities_after(chain, BlockNumber(at - 1)).authorities
        found = decode_justification(justification)
        votes = {each.authority for each in found.precommits}
        total = sum(each.weight for each in voters)
        none = [encode_ss58(AccountId(each.key)) for each in voters]
        missing = [encode_ss58(AccountId(each.key)) for each in voters if each.key not in votes]
        weight = sum(each.weight for each in voters if each.key in votes)
        return [
            {
                "round": found.round,
                "totalWeight": total,
                "thresholdWeight": total - (total - 1) // 3,
                "prevotes": {"currentWeight": 0, "missing": none},
                "precommits": {"currentWeight": weight, "missing": missing},
            }
        ]

    @methods.add("grandpa_proveFinality")
    def prove_finality(params: Params) -> Any:
        """SCALE of the newest final block's hash, its justification and no headers.

        Whoever lacks the headers between reads them from the chain: each names its parent.
        """
        at = params.needed(0, number)
        if at > chain.finalized:
            return None
        final = chain.finalized
        justification = chain.store.justification(final)
        if justification is None:  # genesis needs none
            return None
        proof = b"".join(
            (
                chain.header(final).hash(),
                encode_compact(len(justification)),
                justification,
                encode_compact(0),
            )
        )
        return to_hex(proof)

    @methods.add("mq_getMessages")
    def get_messages(params: Params) -> Any:
        from_count = params.needed(1, number)
        limit = min(params.optional(2, number) or MESSAGES_MAX, MESSAGES_MAX)
        topic = params.needed(0, hex_bytes)
        return [to_hex(each) for each in chain.store.messages(topic, from_count, limit)]
