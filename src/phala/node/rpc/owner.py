"""What only the node's owner asks: keys, peers, the pool, logs. All of it is unsafe.

Keys come and are made, and none goes out: answers hold public parts alone.
"""

import logging
import os
import re
from typing import Any, Final

from phala.crypto.hashes import blake2_256
from phala.crypto.signatures import Keypair, ed25519_from_seed, ed25519_sign
from phala.errors import Invalid
from phala.node.core.pool import Status
from phala.node.keys import GRANDPA, SEED_BYTES, load_grandpa_keys, save_in_keystore
from phala.node.rpc.errors import (
    INVALID_PARAMS,
    NO_KEYSTORE,
    NO_LOCAL_STORAGE,
    PEER_ARGUMENT,
    RpcError,
)
from phala.node.rpc.params import Params, bad, block_hash, hex_bytes, text, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Node
from phala.node.suri import ed25519_seed
from phala.pallets.session import OWNERSHIP
from phala.primitives.types import Hash
from phala.runtime.apis import ENCODED_KEYS, KEYS_BY_TYPE, OPTIONAL_SEED

REMOVED_MAX: Final = 1_000  # at once
KEY_TYPE: Final = re.compile("[a-z0-9_]{4}", re.ASCII)
ACCOUNT_BYTES: Final = 32
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
    folder = node.chain.store.folder.parent

    def own_keys() -> list[tuple[bytes, bytes]]:
        return [(GRANDPA, pair.public) for pair in load_grandpa_keys(folder)]

    def asked(method: str, data: bytes) -> bytes:
        return node.runtime.call(node.state(), node.chain.head.hash(), method, data)

    def rotate() -> tuple[bytes, Keypair]:
        """New session keys, as the runtime encodes them: the node makes their seed and keeps it."""
        seed = os.urandom(SEED_BYTES)
        keys = asked("SessionKeys_generate_session_keys", OPTIONAL_SEED.encode(seed))
        pair = save_in_keystore(folder, seed)
        node.keys_changed()
        return ENCODED_KEYS.decode(keys), pair

    @methods.add("author_hasKey", unsafe=True)
    def has_key(params: Params) -> Any:
        key, kind = params.needed(0, hex_bytes), params.needed(1, key_type)
        return (kind.encode(), key) in own_keys()

    @methods.add("author_hasSessionKeys", unsafe=True)
    def has_session_keys(params: Params) -> Any:
        """Whether the node has each key of what `author_rotateKeys` answers."""
        encoded = ENCODED_KEYS.encode(params.needed(0, hex_bytes))
        found = KEYS_BY_TYPE.decode(asked("SessionKeys_decode_session_keys", encoded))
        if found is None:
            raise RpcError(NO_KEYSTORE, "Session keys are not encoded correctly")
        own = own_keys()
        return all((bytes(kind), bytes(key)) in own for key, kind in found)

    @methods.add("author_insertKey", unsafe=True)
    def insert_key(params: Params) -> None:
        """By a secret URI: a phrase or a seed in hex, and a path of hard junctions."""
        kind, public = params.needed(0, key_type), params.needed(2, hex_bytes)
        seed = params.needed(1, secret)
        if kind.encode() != GRANDPA:
            raise RpcError(NO_KEYSTORE, f"Unsupported key type: {kind}", "this node uses gran")
        if ed25519_from_seed(seed).public != public:
            raise RpcError(NO_KEYSTORE, "Invalid key: it is not this seed's", "give its public key")
        save_in_keystore(folder, seed)
        node.keys_changed()

    @methods.add("author_rotateKeys", unsafe=True)
    def rotate_keys(_params: Params) -> Any:
        return to_hex(rotate()[0])

    @methods.add("author_rotateKeysWithOwner", unsafe=True)
    def rotate_keys_with_owner(params: Params) -> Any:
        """Also the proof that `Session.set_keys` takes of that account."""
        owner = params.needed(0, hex_bytes)
        if len(owner) != ACCOUNT_BYTES:
            raise bad(0, "an account id of 32 bytes", params.needed(0, text))
        keys, pair = rotate()
        return {"keys": to_hex(keys), "proof": to_hex(ed25519_sign(pair, OWNERSHIP + owner))}


def secret(value: Any, index: int) -> bytes:
    """The seed that a secret URI names. What it is stands in no answer."""
    try:
        return ed25519_seed(text(value, index))
    except Invalid:
        raise RpcError(
            INVALID_PARAMS, "Invalid params", f"parameter {index} is no phrase, seed or path"
        ) from None


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
