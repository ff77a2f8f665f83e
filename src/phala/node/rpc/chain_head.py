"""`chainHead_v1_*`: following the head, with blocks that stay readable while they are pinned.

Source: json-rpc-interface-spec, and `sc-rpc-spec-v2` for limits and numbers.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from phala.errors import PhalaError, Refused
from phala.node.rpc.connection import Connection, Subscription
from phala.node.rpc.errors import (
    BLOCK_NOT_PINNED,
    DUPLICATE_HASHES,
    NO_RUNTIME,
    NOT_WAITING,
    TOO_MANY_FOLLOWS,
    RpcError,
)
from phala.node.rpc.items import ITEMS_MAX, Pages, no_child_trie, storage_items
from phala.node.rpc.params import Params, bad, block_hash, hex_bytes, text, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Finalized, Happening, NewHead, Node, Reverted
from phala.primitives.header import HEADER, RuntimeEnvironmentUpdated
from phala.primitives.types import BlockNumber, Hash
from phala.trie import State

LOG: Final = logging.getLogger("phala.node.rpc")
FOLLOW_EVENT: Final = "chainHead_v1_followEvent"
FOLLOWS_MAX: Final = 2  # of one connection; the specification's
OPERATIONS_MAX: Final = 16  # of one connection at once; Substrate's
PINNED_MAX: Final = 512  # by one follow; Substrate's
INITIAL_BLOCKS: Final = 16  # final ones that a follow begins with; Substrate's
LAG_BLOCKS_MAX: Final = 128  # from what is final to the head; Substrate's
LAG_MESSAGES_MAX: Final = 1_024  # that wait for a slow reader

LIMIT_REACHED: Final = {"result": "limitReached"}

Work: TypeAlias = Callable[[str], Awaitable[None]]  # of the operation with this id


class Follow:
    """One client's view: what it was told of, has pinned, and waits for."""

    def __init__(self, node: Node, subscription: Subscription, *, with_runtime: bool) -> None:
        self.node = node
        self.subscription = subscription
        self.with_runtime = with_runtime
        self.pinned: dict[Hash, BlockNumber] = {}  # in the order of the chain
        self.operations: set[str] = set()  # not done
        self.waiting: dict[str, Callable[[], None]] = {}  # for a `continue`
        self._tasks: set[asyncio.Future[None]] = set()
        self._count = 0
        self._final = node.chain.finalized

    def tell(self, event: str, **fields: Any) -> None:
        self.subscription.tell({"event": event, **fields})

    def begin(self) -> None:
        chain = self.node.chain
        first = max(chain.oldest, chain.finalized + 1 - INITIAL_BLOCKS)
        final = [self._pin(number) for number in range(first, chain.finalized + 1)]
        runtime = {"finalizedBlockRuntime": runtime_document(self.node, chain.finalized)}
        self.tell(
            "initialized",
            finalizedBlockHashes=[to_hex(each) for each in final],
            **(runtime if self.with_runtime else {}),
        )
        for number in range(chain.finalized + 1, chain.head.number + 1):
            self._new_block(number)
        if chain.head.number > chain.finalized:
            self.tell("bestBlockChanged", bestBlockHash=to_hex(chain.head.hash()))
        if chain.head.number - chain.finalized > LAG_BLOCKS_MAX:
            self.stop()

    def hear(self, happening: Happening) -> None:
        if isinstance(happening, NewHead):
            if self._is_late():
                self.stop()
                return
            self._new_block(happening.header.number)
            self.tell("bestBlockChanged", bestBlockHash=to_hex(happening.hash))
        elif isinstance(happening, Reverted):
            self.stop()
        elif isinstance(happening, Finalized):
            header = self.node.chain.header
            numbers = range(self._final + 1, happening.number + 1)
            self._final = happening.number
            self.tell(
                "finalized",
                finalizedBlockHashes=[to_hex(header(BlockNumber(n)).hash()) for n in numbers],
                prunedBlockHashes=[],
            )

    def _is_late(self) -> bool:
        """Whether the client, or finality, no longer keeps up; or what it pins is pruned."""
        chain = self.node.chain
        return (
            len(self.pinned) >= PINNED_MAX
            or next(iter(self.pinned.values()), chain.oldest) < chain.oldest
            or chain.head.number - self._final > LAG_BLOCKS_MAX
            or self.subscription.to.pending > LAG_MESSAGES_MAX
        )

    def _pin(self, number: int) -> Hash:
        block = self.node.chain.header(BlockNumber(number)).hash()
        self.pinned[block] = BlockNumber(number)
        return block

    def _new_block(self, number: int) -> None:
        block = self._pin(number)
        header = self.node.chain.header(BlockNumber(number))
        runtime: dict[str, Any] = {}
        if self.with_runtime:
            other = RuntimeEnvironmentUpdated() in header.digest
            runtime["newRuntime"] = runtime_document(self.node, number) if other else None
        parent = to_hex(header.parent_hash)
        self.tell("newBlock", blockHash=to_hex(block), parentBlockHash=parent, **runtime)

    def stop(self) -> None:
        """The client has to follow anew."""
        self.tell("stop")
        self.subscription.end()

    def number(self, block: Hash) -> BlockNumber:
        found = self.pinned.get(block)
        if found is None:
            raise RpcError(BLOCK_NOT_PINNED, "Invalid block hash", f"{to_hex(block)} is not pinned")
        return found

    def unpin(self, blocks: list[Hash]) -> None:
        """All or none of them."""
        if len(dict.fromkeys(blocks)) < len(blocks):
            raise RpcError(DUPLICATE_HASHES, "Received duplicate hashes for the `chainHead_unpin`")
        for block in blocks:
            self.number(block)
        for block in blocks:
            del self.pinned[block]

    def start(self, work: Work) -> dict[str, Any]:
        """Do the work once the client knows the operation's id."""
        self._count += 1
        name = str(self._count)
        self.operations.add(name)
        self.subscription.to.later(lambda: self._run(name, work))
        return {"result": "started", "operationId": name}

    def _run(self, name: str, work: Work) -> None:
        task = asyncio.ensure_future(self._work(name, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, name: str, work: Work) -> None:
        if not self.goes_on(name):
            return
        try:
            await work(name)
        except Refused:  # the state is gone
            self.tell_of(name, "operationInaccessible")
        except PhalaError as error:
            self.tell_of(name, "operationError", error=str(error))
        except Exception:  # a fault of ours; the node goes on
            LOG.exception("an operation failed")
            self.tell_of(name, "operationError", error="Internal error")
        if name not in self.waiting:
            self.operations.discard(name)

    def goes_on(self, name: str) -> bool:
        """Whether the client still waits for an operation."""
        return name in self.operations and not self.subscription.ended

    def tell_of(self, name: str, event: str, **fields: Any) -> None:
        if self.goes_on(name):
            self.tell(event, operationId=name, **fields)

    async def read(self, name: str, number: BlockNumber, pages: Pages) -> None:
        """Tell of one page; the next waits for the client."""
        items = await pages.next(self.node, number)
        if not self.goes_on(name):
            return
        if items:
            self.tell("operationStorageItems", operationId=name, items=items)
        if pages.done:
            self.tell("operationStorageDone", operationId=name)
            return
        self.waiting[name] = lambda: self._run(name, lambda _: self.read(name, number, pages))
        self.tell("operationWaitingForContinue", operationId=name)

    def go_on(self, name: str) -> None:
        if name not in self.operations:
            return
        work = self.waiting.pop(name, None)
        if work is None:
            raise RpcError(NOT_WAITING, "Wait for operationWaitingForContinue", f"operation {name}")
        self.subscription.to.later(work)

    def cancel(self, name: str) -> None:
        self.operations.discard(name)
        self.waiting.pop(name, None)


def runtime_document(node: Node, number: int) -> dict[str, Any]:
    try:
        version = node.runtime_at(BlockNumber(number)).version
    except PhalaError as error:
        return {"type": "invalid", "error": str(error)}
    return {
        "type": "valid",
        "spec": {
            "specName": version.spec_name,
            "implName": version.impl_name,
            "specVersion": version.spec_version,
            "implVersion": version.impl_version,
            "transactionVersion": version.transaction_version,
            "apis": {to_hex(name): number for name, number in version.apis},
        },
    }


def yes_or_no(value: Any, index: int) -> bool:
    if not isinstance(value, bool):
        raise bad(index, "true or false", value)
    return value


def block_hashes(value: Any, index: int) -> list[Hash]:
    if not isinstance(value, list):
        return [block_hash(value, index)]
    if len(value) > PINNED_MAX:
        raise bad(index, f"a list of at most {PINNED_MAX} hashes", value)
    return [block_hash(each, index) for each in value]


def register(methods: Methods, node: Node) -> None:
    chain = node.chain
    follows: dict[Subscription, Follow] = {}

    def followed(params: Params, connection: Connection) -> Follow | None:
        found = connection.subscriptions.get(params.needed(0, text))
        return None if found is None else follows.get(found)

    def forget(subscription: Subscription) -> None:
        del follows[subscription]

    def has_room(connection: Connection) -> bool:
        """Whether the connection may begin one more operation."""
        here = [follows[each] for each in connection.subscriptions.values() if each in follows]
        return sum(len(each.operations) for each in here) < OPERATIONS_MAX

    @methods.add_subscription("chainHead_v1_follow", ended_by=(), notification=FOLLOW_EVENT)
    def follow(params: Params, subscription: Subscription) -> None:
        with_runtime = params.needed(0, yes_or_no)
        if sum(each in follows for each in subscription.to.subscriptions.values()) >= FOLLOWS_MAX:
            raise RpcError(
                TOO_MANY_FOLLOWS, "Maximum number of chainHead_follow has been reached",
                f"at most {FOLLOWS_MAX} on a connection; unfollow one",
            )  # fmt: skip
        new = follows[subscription] = Follow(node, subscription, with_runtime=with_runtime)
        subscription.at_end(lambda: forget(subscription))
        subscription.at_end(node.listen(new.hear))
        new.begin()

    @methods.add_connected("chainHead_v1_unfollow")
    def unfollow(params: Params, connection: Connection) -> None:
        found = followed(params, connection)
        if found is not None:
            found.subscription.end()

    @methods.add_connected("chainHead_v1_header")
    def header(params: Params, connection: Connection) -> Any:
        found, block = followed(params, connection), params.needed(1, block_hash)
        if found is None:
            return None
        return to_hex(HEADER.encode(chain.header(found.number(block))))

    @methods.add_connected("chainHead_v1_body")
    def body(params: Params, connection: Connection) -> Any:
        found, block = followed(params, connection), params.needed(1, block_hash)
        if found is None or not has_room(connection):
            return LIMIT_REACHED
        number = found.number(block)

        async def work(name: str) -> None:
            extrinsics = [to_hex(each) for each in chain.store.body(number)]
            found.tell_of(name, "operationBodyDone", value=extrinsics)

        return found.start(work)

    @methods.add_connected("chainHead_v1_call")
    def call(params: Params, connection: Connection) -> Any:
        found, block = followed(params, connection), params.needed(1, block_hash)
        function, data = params.needed(2, text), params.needed(3, hex_bytes)
        if found is None or not has_room(connection):
            return LIMIT_REACHED
        number = found.number(block)
        if not found.with_runtime:
            raise RpcError(
                NO_RUNTIME, "Invalid runtime call: the follow is without runtime",
                "follow with withRuntime true",
            )  # fmt: skip

        async def work(name: str) -> None:
            state = State(chain.state_at(number))
            output = node.runtime_at(number).call(state, block, function, data)
            found.tell_of(name, "operationCallDone", output=to_hex(output))

        return found.start(work)

    @methods.add_connected("chainHead_v1_storage")
    def storage(params: Params, connection: Connection) -> Any:
        found, block = followed(params, connection), params.needed(1, block_hash)
        items = params.needed(2, storage_items)
        no_child_trie(params, 3)
        if found is None or not has_room(connection):
            return LIMIT_REACHED
        number = found.number(block)
        pages = Pages(items[:ITEMS_MAX])
        started = found.start(lambda name: found.read(name, number, pages))
        return {**started, "discardedItems": max(0, len(items) - ITEMS_MAX)}

    @methods.add_connected("chainHead_v1_continue")
    def go_on(params: Params, connection: Connection) -> None:
        found, name = followed(params, connection), params.needed(1, text)
        if found is not None:
            found.go_on(name)

    @methods.add_connected("chainHead_v1_stopOperation")
    def stop_operation(params: Params, connection: Connection) -> None:
        found, name = followed(params, connection), params.needed(1, text)
        if found is not None:
            found.cancel(name)

    @methods.add_connected("chainHead_v1_unpin")
    def unpin(params: Params, connection: Connection) -> None:
        found, blocks = followed(params, connection), params.needed(1, block_hashes)
        if found is not None:
            found.unpin(blocks)
