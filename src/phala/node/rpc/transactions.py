"""`transaction_v1_*` and `transactionWatch_v1_*`: sending, as the new API has it."""

from typing import Any, Final

from phala.crypto.hashes import blake2_256
from phala.errors import Invalid, PhalaError
from phala.node.core.pool import AlreadyImported, Banned, Change, Status
from phala.node.rpc.connection import Connection, Subscription
from phala.node.rpc.errors import INVALID_PARAMS, RpcError
from phala.node.rpc.params import Params, hex_bytes, text, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Happening, Included, NewHead, Node
from phala.primitives.types import Hash
from phala.runtime import InvalidTransaction

BROADCASTS_MAX: Final = 16  # of one connection; Substrate's
BROADCAST: Final = "transaction_v1_broadcast"  # no notification: it only lives with a connection


class Broadcast:
    """Keeps a transaction in the pool until it is in a block, can never be, or is stopped."""

    def __init__(self, node: Node, data: bytes, subscription: Subscription) -> None:
        self.node = node
        self.data = data
        self.hash = Hash(blake2_256(data))
        self.subscription = subscription

    def hear(self, happening: Happening) -> None:
        if isinstance(happening, NewHead):
            self.submit()
        elif isinstance(happening, Included):
            self.subscription.end()

    def submit(self) -> None:
        try:
            self.node.submit(self.data)
        except AlreadyImported:
            return
        except (Invalid, InvalidTransaction, Banned):
            self.subscription.end()
        except PhalaError:
            return  # no room now: again at the next block


def register(methods: Methods, node: Node) -> None:
    @methods.add_connected("transaction_v1_broadcast")
    def broadcast(params: Params, connection: Connection) -> Any:
        """The operation's id, or null where too many run. What is wrong with it, nobody tells."""
        data = params.needed(0, hex_bytes)
        running = [each.notification for each in connection.subscriptions.values()]
        if running.count(BROADCAST) >= BROADCASTS_MAX:
            return None
        subscription = connection.subscribe(BROADCAST)
        try:
            subscription.keep(len(data))
        except RpcError:
            subscription.end()
            return None
        new = Broadcast(node, data, subscription)
        subscription.at_end(node.watch(new.hash, new.hear))
        subscription.at_end(node.listen(new.hear))
        new.submit()
        return subscription.id

    @methods.add_connected("transaction_v1_stop")
    def stop(params: Params, connection: Connection) -> None:
        """As Substrate's, it does not know those that ended by themselves."""
        name = params.needed(0, text)
        found = connection.subscriptions.get(name)
        if found is None or found.notification != BROADCAST:
            raise RpcError(INVALID_PARAMS, "Invalid operation id", f"none is {name[:20]!r}")
        found.end()

    @methods.add_subscription(
        "transactionWatch_v1_submitAndWatch",
        ended_by=(),
        notification="transactionWatch_v1_watchEvent",
    )
    def submit_and_watch(params: Params, subscription: Subscription) -> None:
        data = params.needed(0, hex_bytes)
        subscription.keep(len(data))

        def listener(happening: Happening) -> None:
            assert isinstance(happening, Included | Change)
            event = watch_document(node, data, happening)
            if event is not None:
                subscription.tell(event)
            if is_over(happening):
                subscription.end()

        subscription.at_end(node.watch(Hash(blake2_256(data)), listener))
        try:
            node.submit(data)
        except (Invalid, InvalidTransaction, Banned) as error:
            subscription.tell({"event": "invalid", "error": str(error)})
            subscription.end()
        except PhalaError as error:
            subscription.tell({"event": "dropped", "error": str(error)})
            subscription.end()

    @methods.add_connected("transactionWatch_v1_unwatch")
    def unwatch(params: Params, connection: Connection) -> None:
        found = connection.subscriptions.get(params.needed(0, text))
        if found is not None and found.notification == "transactionWatch_v1_watchEvent":
            found.end()


def is_over(happening: Included | Change) -> bool:
    if isinstance(happening, Included):
        return happening.final
    return happening.status not in (Status.READY, Status.FUTURE)


def watch_document(node: Node, data: bytes, happening: Included | Change) -> Any:
    """An event of `transactionWatch_v1_watchEvent`; None where there is none for it."""
    if isinstance(happening, Included):
        body = node.chain.store.body(node.chain.number_of(happening.block))
        return {
            "event": "finalized" if happening.final else "bestChainBlockIncluded",
            "block": {"hash": to_hex(happening.block), "index": body.index(data)},
        }
    match happening.status:
        case Status.READY:
            return {"event": "validated"}
        case Status.FUTURE:
            return None
        case Status.DROPPED:
            return {"event": "dropped", "error": "the pool had no room for it"}
        case Status.INVALID:
            return {"event": "invalid", "error": "it can no longer be in a block"}
        case Status.USURPED:
            return {"event": "invalid", "error": "another one took its place"}
