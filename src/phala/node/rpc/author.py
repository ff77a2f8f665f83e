"""`author_*` and `account_*`: extrinsics on their way into a block."""

from collections.abc import Awaitable
from typing import Any

from phala.crypto.hashes import blake2_256
from phala.errors import PhalaError
from phala.node.core.pool import Change, Status
from phala.node.rpc.connection import ANSWER_BYTES_MAX, Subscription
from phala.node.rpc.errors import BAD_FORMAT, INVALID_PARAMS, TOO_BIG, RpcError, of_submission
from phala.node.rpc.params import Params, hex_bytes, text, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Happening, Included, Node
from phala.primitives.address import decode_ss58
from phala.primitives.types import Hash
from phala.runtime.validity import nonce_tag


def register(methods: Methods, node: Node) -> None:
    def submit(data: bytes) -> Hash:
        if not data:
            raise RpcError(BAD_FORMAT, "Extrinsic has invalid format", "no bytes")
        try:
            return node.submit(data)
        except PhalaError as error:
            raise of_submission(error) from None

    @methods.add("author_submitExtrinsic")
    def submit_extrinsic(params: Params) -> Any:
        data = params.needed(0, hex_bytes)
        if not data:
            raise RpcError(BAD_FORMAT, "Extrinsic has invalid format", "no bytes")
        try:
            found = node.submit_soon(data)
        except PhalaError as error:
            raise of_submission(error) from None
        return to_hex(found) if isinstance(found, bytes) else submitted(found)

    async def submitted(found: Awaitable[Hash]) -> Any:
        try:
            return to_hex(await found)
        except PhalaError as error:
            raise of_submission(error) from None

    @methods.add("author_pendingExtrinsics")
    def pending_extrinsics(_params: Params) -> Any:
        if 2 * node.pool.ready_bytes > ANSWER_BYTES_MAX:
            raise RpcError(TOO_BIG, "Response is too big", f"{len(node.pool)} are pending")
        return [to_hex(each) for each in node.pool.data()]

    @methods.add_subscription(
        "author_submitAndWatchExtrinsic",
        ended_by=("author_unwatchExtrinsic",),
        notification="author_extrinsicUpdate",
    )
    def submit_and_watch(params: Params, subscription: Subscription) -> None:
        data = params.needed(0, hex_bytes)

        def listener(happening: Happening) -> None:
            assert isinstance(happening, Included | Change)
            subscription.tell(status_document(happening))
            if is_last(happening):
                subscription.end()

        # From before it is submitted: the pool tells of it at once.
        subscription.at_end(node.watch(Hash(blake2_256(data)), listener))
        submit(data)

    @methods.add("system_accountNextIndex", "account_nextIndex")
    def next_index(params: Params) -> Any:
        """The nonce that follows all that the pool has of an account."""
        address = params.needed(0, text)
        try:
            account = decode_ss58(address)
        except PhalaError as error:
            raise RpcError(INVALID_PARAMS, "Invalid params", error.what) from None
        head = node.chain.head.hash()
        data = node.runtime.call(node.state(), head, "AccountNonceApi_account_nonce", account)
        nonce = int.from_bytes(data, "little")
        while node.pool.provides(nonce_tag(account, nonce)):
            nonce += 1
        return nonce


def is_last(happening: Included | Change) -> bool:
    """Whether nothing more can become of the transaction."""
    if isinstance(happening, Included):
        return happening.final
    return happening.status not in (Status.READY, Status.FUTURE)


def status_document(happening: Included | Change) -> Any:
    """A value of `TransactionStatus`, as clients know it."""
    if isinstance(happening, Included):
        return {"finalized" if happening.final else "inBlock": to_hex(happening.block)}
    if happening.status is Status.USURPED:
        assert happening.by is not None
        return {"usurped": to_hex(happening.by)}
    return happening.status.value
