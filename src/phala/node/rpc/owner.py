"""What only the node's owner asks: keys, peers, the pool, logs. All of it is unsafe.

The key that finalizes is a file of the node's, `grandpa.key`: no key comes or goes by RPC.
"""

import logging
import re
from typing import Any, Final, NoReturn

from phala.crypto.hashes import blake2_256
from phala.node.core.pool import Status
from phala.node.rpc.errors import NO_KEYSTORE, NO_LOCAL_STORAGE, PEER_ARGUMENT, RpcError
from phala.node.rpc.params import Params, bad, block_hash, hex_bytes, text, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Node
from phala.node.writer import authorities_after
from phala.primitives.types import Hash

REMOVED_MAX: Final = 1_000  # at once
KEY_TYPE: Final = re.compile("[a-z0-9_]{4}", re.ASCII)
DIRECTIVES_MAX: Final = 16
DIRECTIVE: Final = re.compile(
    r"([a-z_][a-z0-9_.]{0,63})=(error|warning|info|debug)", re.ASCII | re.IGNORECASE
)


def key_type(value: Any, index: int) -> str:
    if not isinstance(value, str) or not KEY_TYPE.fullmatch(value):
        raise bad(index, "a key type of four letters", value)
    return value


def removed(value: Any, index: int) -> Hash:
    """A hash, or an extrinsic: `{"hash": …}` or `{"extrinsic": …}`."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, what),) = value.items()
        if name == "hash":
            return block_hash(what, index)
        if name == "extrinsic":
            return Hash(blake2_256(hex_bytes(what, index)))
    raise bad(index, "an object with hash or extrinsic", value)


def register(methods: Methods, node: Node) -> None:
    register_keys(methods, node)
    register_rest(methods, node)


def register_keys(methods: Methods, node: Node) -> None:
    def own_keys() -> list[bytes]:
        found = authorities_after(node.chain, node.chain.head.number)
        return [each.key for each in found.authorities]

    @methods.add("author_hasKey", unsafe=True)
    def has_key(params: Params) -> Any:
        """A node runs only with its chain's authority's key: what the chain names, it has."""
        key, kind = params.needed(0, hex_bytes), params.needed(1, key_type)
        return kind == "gran" and key in own_keys()

    @methods.add("author_hasSessionKeys", unsafe=True)
    def has_session_keys(params: Params) -> Any:
        return params.needed(0, hex_bytes) in own_keys()

    def no_keystore() -> NoReturn:
        raise RpcError(
            NO_KEYSTORE, "Key store is unavailable: the key is the file grandpa.key",
            "stop the node, put another file there, and name its key on the chain",
        )  # fmt: skip

    @methods.add("author_insertKey", unsafe=True)
    def insert_key(params: Params) -> Any:
        params.needed(0, key_type)
        params.needed(1, text)
        params.needed(2, hex_bytes)
        no_keystore()

    @methods.add("author_rotateKeys", "author_rotateKeysWithOwner", unsafe=True)
    def rotate_keys(_params: Params) -> Any:
        no_keystore()


def register_rest(methods: Methods, node: Node) -> None:
    @methods.add("author_removeExtrinsic", unsafe=True)
    def remove_extrinsic(params: Params) -> Any:
        """The hashes of those that were in the pool; none of them comes back soon."""
        asked = params.needed(0, lambda value, _: value)
        if not isinstance(asked, list) or len(asked) > REMOVED_MAX:
            raise bad(0, f"a list of at most {REMOVED_MAX}", asked)
        out = []
        for found in [removed(each, 0) for each in asked]:
            if found in node.pool:
                out.append(to_hex(found))
                node.pool.ban(found, node.chain.head.number)
                node.tell_changes(node.pool.remove(found, Status.INVALID))
        return out

    @methods.add("system_addReservedPeer", "system_removeReservedPeer", unsafe=True)
    def reserved_peer(params: Params) -> Any:
        peer = params.needed(0, text)
        raise RpcError(PEER_ARGUMENT, f"{peer[:60]!r}: this node has no peers and needs none")

    @methods.add("system_reservedPeers")
    def reserved_peers(_params: Params) -> Any:
        return []

    @methods.add("offchain_localStorageGet", "offchain_localStorageSet",
                 "offchain_localStorageClear", unsafe=True)  # fmt: skip
    def local_storage(params: Params) -> Any:
        params.needed(0, text)
        params.needed(1, hex_bytes)
        raise RpcError(NO_LOCAL_STORAGE, "This storage kind is not available yet.",
                       "no worker of this runtime runs off the chain")  # fmt: skip

    changed: dict[str, int] = {}

    @methods.add("system_addLogFilter", unsafe=True)
    def add_log_filter(params: Params) -> None:
        """`phala.node.rpc=debug`, some of them with commas between."""
        found = [DIRECTIVE.fullmatch(each) for each in params.needed(0, text).split(",")]
        if len(found) > DIRECTIVES_MAX or None in found:
            raise bad(0, "logger=level, some with commas between", params.needed(0, text))
        for each in found:
            assert each is not None
            logger = logging.getLogger(each[1])
            changed.setdefault(each[1], logger.level)
            logger.setLevel(each[2].upper())

    @methods.add("system_resetLogFilter", unsafe=True)
    def reset_log_filter(_params: Params) -> None:
        for name, level in changed.items():
            logging.getLogger(name).setLevel(level)
        changed.clear()
