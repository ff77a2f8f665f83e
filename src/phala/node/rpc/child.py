"""`childstate_*`: this chain has no child tries, so each of them is empty."""

from typing import Any, Final

from phala.node.rpc.errors import COUNT, STATE, RpcError
from phala.node.rpc.params import Params, block_hash, hex_bytes, keys, number, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Node
from phala.primitives.types import BlockNumber

CHILD_FRONT: Final = b":child_storage:default:"  # of the keys that child tries' roots lie under
PAGE_KEYS_MAX: Final = 1_000


def register(methods: Methods, node: Node) -> None:
    chain = node.chain

    def child(params: Params) -> bytes:
        key = params.needed(0, hex_bytes)
        if not key.startswith(CHILD_FRONT) or key == CHILD_FRONT:
            raise RpcError(STATE, "Client error: Invalid child storage key", "see :child_storage:")
        return key

    def ensure_state(params: Params, index: int) -> BlockNumber:
        asked = params.optional(index, block_hash)
        at = chain.head.number if asked is None else chain.number_of(asked)
        return chain.state_at(at).number

    def ensure_asked(params: Params) -> None:
        child(params)
        params.needed(1, hex_bytes)
        ensure_state(params, 2)

    @methods.add("childstate_getKeys", "state_getChildKeys")
    def get_keys(params: Params) -> Any:
        ensure_asked(params)
        return []

    @methods.add("childstate_getKeysPaged", "childstate_getKeysPagedAt")
    def get_keys_paged(params: Params) -> Any:
        child(params)
        params.needed(1, hex_bytes)
        if params.needed(2, number) > PAGE_KEYS_MAX:
            raise RpcError(COUNT, f"count exceeds maximum value. max: {PAGE_KEYS_MAX}")
        params.optional(3, hex_bytes)
        ensure_state(params, 4)
        return []

    @methods.add(
        "childstate_getStorage", "childstate_getStorageHash", "childstate_getStorageSize",
        "state_getChildStorage", "state_getChildStorageHash", "state_getChildStorageSize",
    )  # fmt: skip
    def get_storage(params: Params) -> Any:
        ensure_asked(params)

    @methods.add("childstate_getStorageEntries")
    def get_storage_entries(params: Params) -> Any:
        child(params)
        asked = params.needed(1, keys)
        ensure_state(params, 2)
        return [None for _ in asked]

    @methods.add("state_getChildReadProof")
    async def get_child_read_proof(params: Params) -> Any:
        """Nodes that show that no child trie lies under the key."""
        key = child(params)
        params.needed(1, keys)
        at = ensure_state(params, 2)
        proof = await node.prove([key], at)
        return {
            "at": to_hex(chain.header(at).hash()),
            "proof": [to_hex(each) for each in proof],
        }
