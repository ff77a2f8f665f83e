"""`state_*`: storage, proofs, runtime calls."""

from itertools import islice
from typing import Any, Final

from phala.crypto.hashes import blake2_256
from phala.errors import Invalid
from phala.node.chain import StateView, UnknownBlock
from phala.node.rpc.connection import Subscription
from phala.node.rpc.errors import BLOCK_RANGE, COUNT, STATE, TOO_BIG, RpcError
from phala.node.rpc.params import Params, block_hash, hex_bytes, keys, number, text, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Happening, NewHead, Node, Reverted
from phala.primitives.types import BlockNumber, Hash
from phala.runtime import CODE_KEY, RuntimeVersion
from phala.trie import State

KEY_BYTES: Final = 64  # that a key takes in memory, beside its own
PAGE_KEYS_MAX: Final = 1_000  # Substrate's limit
QUERY_VALUES_MAX: Final = 10_000  # keys times blocks
VALUES_MAX: Final = 10_000  # keys in one answer that has no pages


def register(methods: Methods, node: Node) -> None:
    chain = node.chain

    def view(params: Params, index: int) -> StateView:
        asked = params.optional(index, block_hash)
        return chain.state_at(chain.head.number if asked is None else chain.number_of(asked))

    def call(name: str, data: bytes, at: StateView) -> bytes:
        block = chain.header(at.number).hash()
        return node.runtime_at(at.number).call(State(at), block, name, data)

    def value(found: bytes | None) -> str | None:
        return None if found is None else to_hex(found)

    @methods.add("state_getMetadata")
    def get_metadata(params: Params) -> Any:
        return to_hex(node.runtime_at(view(params, 0).number).metadata(14))

    @methods.add("state_getRuntimeVersion", "chain_getRuntimeVersion")
    def get_runtime_version(params: Params) -> Any:
        return version_document(node.runtime_at(view(params, 0).number).version)

    @methods.add("state_call", "state_callAt")
    def state_call(params: Params) -> Any:
        name, data = params.needed(0, text), params.optional(1, hex_bytes) or b""
        at = view(params, 2)
        try:
            return to_hex(call(name, data, at))
        except Invalid as error:  # no such method, or no arguments of it
            raise RpcError(STATE, f"Execution failed: {error.what}", error.mend) from None

    @methods.add("state_getStorage", "state_getStorageAt")
    def get_storage(params: Params) -> Any:
        return value(view(params, 1).get(params.needed(0, hex_bytes)))

    @methods.add("state_getStorageHash", "state_getStorageHashAt")
    def get_storage_hash(params: Params) -> Any:
        found = view(params, 1).get(params.needed(0, hex_bytes))
        return None if found is None else to_hex(blake2_256(found))

    @methods.add("state_getStorageSize", "state_getStorageSizeAt")
    def get_storage_size(params: Params) -> Any:
        found = view(params, 1).get(params.needed(0, hex_bytes))
        return None if found is None else len(found)

    def page(prefix: bytes, count: int, start: bytes | None, at: StateView) -> list[str]:
        if count > PAGE_KEYS_MAX:
            raise RpcError(
                COUNT, f"count exceeds maximum value. value: {count}, max: {PAGE_KEYS_MAX}"
            )
        found = at.keys(prefix, start or b"")
        return [to_hex(key) for key in islice((key for key in found if key != start), count)]

    @methods.add("state_getKeysPaged", "state_getKeysPagedAt")
    def get_keys_paged(params: Params) -> Any:
        prefix = params.optional(0, hex_bytes) or b""
        count = params.needed(1, number)
        return page(prefix, count, params.optional(2, hex_bytes), view(params, 3))

    def few(at: StateView, params: Params) -> list[bytes]:
        """All keys under the asked prefix, or an error where they are many."""
        found = list(islice(at.keys(params.optional(0, hex_bytes) or b""), VALUES_MAX + 1))
        if len(found) > VALUES_MAX:
            raise RpcError(TOO_BIG, "Response is too big", "take pages by state_getKeysPaged")
        return found

    @methods.add("state_getKeys")
    def get_keys(params: Params) -> Any:
        return [to_hex(key) for key in few(view(params, 1), params)]

    @methods.add("state_getPairs", unsafe=True)
    def get_pairs(params: Params) -> Any:
        at = view(params, 1)
        return [[to_hex(key), value(at.get(key))] for key in few(at, params)]

    def block_range(first: Hash, last: Hash | None) -> tuple[BlockNumber, BlockNumber]:
        try:
            end = chain.head.number if last is None else chain.number_of(last)
            return chain.number_of(first), end
        except UnknownBlock as error:
            raise RpcError(BLOCK_RANGE, "Cannot resolve a block range", error.what) from None

    @methods.add("state_queryStorageAt")
    def query_storage_at(params: Params) -> Any:
        asked, at = params.needed(0, keys), view(params, 1)
        return [changes_document(node, at, asked)]

    @methods.add("state_queryStorage", unsafe=True)
    def query_storage(params: Params) -> Any:
        asked = params.needed(0, keys)
        first, end = block_range(params.needed(1, block_hash), params.optional(2, block_hash))
        if not 0 <= (end - first) * len(asked) <= QUERY_VALUES_MAX:
            raise RpcError(BLOCK_RANGE, "Cannot resolve a block range", "ask for fewer")
        out = [changes_document(node, chain.state_at(first), asked)]
        for each in range(first + 1, end + 1):
            before, after = (chain.state_at(BlockNumber(n)) for n in (each - 1, each))
            changed = [key for key in asked if before.get(key) != after.get(key)]
            if changed:
                out.append(changes_document(node, after, changed))
        return out

    @methods.add("state_getReadProof")
    async def get_read_proof(params: Params) -> Any:
        asked, at = params.needed(0, keys), view(params, 1)
        proof = await node.prove(asked, at.number)
        return {
            "at": to_hex(chain.header(at.number).hash()),
            "proof": [to_hex(each) for each in proof],
        }

    @methods.add_subscription(
        "state_subscribeStorage",
        ended_by=("state_unsubscribeStorage",),
        notification="state_storage",
    )
    def subscribe_storage(params: Params, subscription: Subscription) -> None:
        asked = params.needed(0, keys)
        subscription.keep(sum(len(key) + KEY_BYTES for key in asked))

        def listener(happening: Happening) -> None:
            if isinstance(happening, NewHead):
                changed = [key for key in asked if key in happening.keys]
                if changed:
                    at = chain.state_at(happening.header.number)
                    subscription.tell(changes_document(node, at, changed))
            elif isinstance(happening, Reverted):
                at = chain.state_at(happening.number)
                subscription.tell(changes_document(node, at, asked))

        # All keys at once, whether they hold anything or not: clients wait for that.
        subscription.tell(changes_document(node, chain.state_at(chain.head.number), asked))
        subscription.at_end(node.listen(listener))

    @methods.add_subscription(
        "state_subscribeRuntimeVersion", "chain_subscribeRuntimeVersion",
        ended_by=("state_unsubscribeRuntimeVersion", "chain_unsubscribeRuntimeVersion"),
        notification="state_runtimeVersion",
    )  # fmt: skip
    def subscribe_runtime_version(_params: Params, subscription: Subscription) -> None:
        def listener(happening: Happening) -> None:
            if isinstance(happening, NewHead) and CODE_KEY in happening.keys:
                version = node.runtime_at(happening.header.number).version
                subscription.tell(version_document(version))

        subscription.tell(version_document(node.runtime.version))
        subscription.at_end(node.listen(listener))


def changes_document(node: Node, at: StateView, asked: list[bytes]) -> dict[str, Any]:
    found = [(key, at.get(key)) for key in asked]
    return {
        "block": to_hex(node.chain.header(at.number).hash()),
        "changes": [[to_hex(key), None if got is None else to_hex(got)] for key, got in found],
    }


def version_document(version: RuntimeVersion) -> dict[str, Any]:
    return {
        "specName": version.spec_name,
        "implName": version.impl_name,
        "authoringVersion": version.authoring_version,
        "specVersion": version.spec_version,
        "implVersion": version.impl_version,
        "apis": [[to_hex(name), number] for name, number in version.apis],
        "transactionVersion": version.transaction_version,
        "systemVersion": version.system_version,
        "stateVersion": version.system_version,
    }
