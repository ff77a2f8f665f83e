"""`archive_v1_*`: the chain's history, for who does not follow its head.

Source: json-rpc-interface-spec, `archive`. Of blocks all is kept; of states, what the node's
pruning leaves: a state that is gone is told as an error of the operation.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any, Final

from phala.crypto.hashes import blake2_256
from phala.errors import PhalaError
from phala.node.chain import UnknownBlock
from phala.node.rpc.connection import Connection, Subscription
from phala.node.rpc.errors import TOO_MANY_SUBSCRIPTIONS, RpcError
from phala.node.rpc.items import ITEMS_MAX, Pages, no_child_trie, storage_items
from phala.node.rpc.params import Params, bad, block_hash, hex_bytes, number, text, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Node
from phala.primitives.header import HEADER
from phala.primitives.types import BlockNumber, Hash
from phala.trie import State

STORAGE_EVENT: Final = "archive_v1_storageEvent"
DIFF_EVENT: Final = "archive_v1_storageDiffEvent"
RUNNING_MAX: Final = 16  # of one connection at once
DIFF_ITEMS_MAX: Final = 64
KEYS_AT_ONCE: Final = 256  # then others may use the loop


def register(methods: Methods, node: Node) -> None:
    chain = node.chain

    def known(params: Params) -> BlockNumber | None:
        try:
            return chain.number_of(params.needed(0, block_hash))
        except UnknownBlock:
            return None

    methods.add("archive_v1_genesisHash")(lambda _params: to_hex(chain.genesis))
    methods.add("archive_v1_finalizedHeight")(lambda _params: chain.finalized)

    @methods.add("archive_v1_hashByHeight")
    def hash_by_height(params: Params) -> Any:
        at = params.needed(0, number)
        if at > chain.head.number:
            return []
        return [to_hex(chain.header(BlockNumber(at)).hash())]

    @methods.add("archive_v1_header")
    def header(params: Params) -> Any:
        at = known(params)
        return None if at is None else to_hex(HEADER.encode(chain.header(at)))

    @methods.add("archive_v1_body")
    def body(params: Params) -> Any:
        at = known(params)
        return None if at is None else [to_hex(each) for each in chain.store.body(at)]

    @methods.add("archive_v1_call")
    def call(params: Params) -> Any:
        at, block = known(params), params.needed(0, block_hash)
        function, data = params.needed(1, text), params.needed(2, hex_bytes)
        if at is None:
            return None
        try:
            output = node.runtime_at(at).call(State(chain.state_at(at)), block, function, data)
        except PhalaError as error:
            return {"success": False, "error": str(error)}
        return {"success": True, "value": to_hex(output)}

    def begin(subscription: Subscription, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Work that ends by an event, its own or the error's."""
        running = [
            each
            for each in subscription.to.subscriptions.values()
            if each.notification in (STORAGE_EVENT, DIFF_EVENT)
        ]
        if len(running) > RUNNING_MAX:
            raise RpcError(
                TOO_MANY_SUBSCRIPTIONS, "Too many operations on the connection",
                f"at most {RUNNING_MAX} at once; wait for one, or stop it",
            )  # fmt: skip

        async def whole() -> None:
            try:
                await work()
            except PhalaError as error:
                subscription.tell({"event": f"{name}Error", "error": str(error)})
            else:
                subscription.tell({"event": f"{name}Done"})
            subscription.end()

        def start() -> None:
            if subscription.ended:
                return
            task = subscription.to.run(whole())
            subscription.at_end(lambda: cancel_other(task))

        subscription.to.later(start)  # when the client knows its name

    @methods.add_subscription("archive_v1_storage", ended_by=(), notification=STORAGE_EVENT)
    def storage(params: Params, subscription: Subscription) -> None:
        block, items = params.needed(0, block_hash), params.needed(1, storage_items)
        no_child_trie(params, 2)
        if len(items) > ITEMS_MAX:
            raise bad(1, f"a list of at most {ITEMS_MAX} items", f"{len(items)} of them")

        async def work() -> None:
            at, pages = chain.number_of(block), Pages(items)
            while not pages.done:
                for item in await pages.next(node, at):
                    await subscription.to.room()
                    subscription.tell({"event": "storage", **item})

        begin(subscription, "storage", work)

    @methods.add_subscription("archive_v1_storageDiff", ended_by=(), notification=DIFF_EVENT)
    def storage_diff(params: Params, subscription: Subscription) -> None:
        block = params.needed(0, block_hash)
        items = params.optional(1, diff_items)
        previous = params.optional(2, block_hash)

        async def work() -> None:
            after = chain.number_of(block)
            before = BlockNumber(after - 1) if previous is None else chain.number_of(previous)
            if not 0 <= before <= after:
                raise UnknownBlock(previous or Hash(bytes(32)))  # none of its ancestors
            await tell_diff(
                node, subscription, before, after, items or [DiffItem(b"", hashed=True)]
            )

        begin(subscription, "storageDiff", work)

    def stop(name: str, notification: str) -> None:
        @methods.add_connected(name)
        def stopped(params: Params, connection: Connection) -> None:
            found = connection.subscriptions.get(params.needed(0, text))
            if found is not None and found.notification == notification:
                found.end()

    stop("archive_v1_stopStorage", STORAGE_EVENT)
    stop("archive_v1_stopStorageDiff", DIFF_EVENT)


def cancel_other(task: asyncio.Task[None]) -> None:
    """Cancel a task from elsewhere; who ends itself goes on to its end."""
    if task is not asyncio.current_task():
        task.cancel()


# ---- differences


@dataclass(frozen=True, slots=True)
class DiffItem:
    """Keys that start with `prefix`, told with a hash of the value or the value itself."""

    prefix: bytes
    hashed: bool


def diff_items(value: Any, index: int) -> list[DiffItem]:
    if not isinstance(value, list) or len(value) > DIFF_ITEMS_MAX:
        raise bad(index, f"a list of at most {DIFF_ITEMS_MAX} items", value)
    return [_diff_item(each, index) for each in value]


def _diff_item(value: Any, index: int) -> DiffItem:
    if not isinstance(value, dict) or value.get("returnType") not in ("value", "hash"):
        raise bad(index, "an object with returnType value or hash", value)
    if value.get("childTrieKey") is not None:
        raise bad(index, "of the main trie: this chain has no child tries", value["childTrieKey"])
    key = value.get("key")
    prefix = b"" if key is None else hex_bytes(key, index)
    return DiffItem(prefix, value["returnType"] == "hash")


async def tell_diff(
    node: Node,
    subscription: Subscription,
    before: BlockNumber,
    after: BlockNumber,
    items: list[DiffItem],
) -> None:
    """Tell of each key that two blocks' states hold differently, once for each item."""
    for item in items:
        last = b""
        while True:
            keys = list(islice(_candidates(node, before, after, item.prefix, last), KEYS_AT_ONCE))
            for key in keys:
                event = _difference(node, before, after, key, item)
                if event is not None:
                    await subscription.to.room()
                    subscription.tell(event)
            if len(keys) < KEYS_AT_ONCE:
                break
            last = keys[-1]
            await asyncio.sleep(0)


def _candidates(
    node: Node, before: BlockNumber, after: BlockNumber, prefix: bytes, last: bytes
) -> Iterator[bytes]:
    """Keys after `last` that may differ, in order: what the blocks between changed, where the store
    still has it by block; else all that either state has."""
    chain = node.chain
    if before >= chain.folded:
        changed = {
            key
            for each in range(before + 1, after + 1)
            for key, _ in chain.store.changes(BlockNumber(each))
            if key.startswith(prefix) and key > last
        }
        yield from sorted(changed)
        return
    states = (chain.state_at(before).keys(prefix, last), chain.state_at(after).keys(prefix, last))
    yield from (key for key in _merged(*states) if not last or key > last)


def _merged(one: Iterator[bytes], other: Iterator[bytes]) -> Iterator[bytes]:
    last = None
    for key in merge(one, other):
        if key != last:
            yield key
        last = key


def _difference(
    node: Node, before: BlockNumber, after: BlockNumber, key: bytes, item: DiffItem
) -> dict[str, Any] | None:
    old, new = node.chain.state_at(before).get(key), node.chain.state_at(after).get(key)
    if old == new:
        return None
    kind = "added" if old is None else "deleted" if new is None else "modified"
    value = old if new is None else new
    assert value is not None
    shown = {"hash": to_hex(blake2_256(value))} if item.hashed else {"value": to_hex(value)}
    return {"event": "storageDiff", "key": to_hex(key), **shown, "type": kind}
