"""Storage items over one block's state: what `phala.frame.storage` declares, at work.

What was decoded once in a block is not decoded again, nor is a key hashed again.
"""

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

from phala.codec.descriptor import Descriptor
from phala.crypto.hashes import blake2_128, twox_64
from phala.frame.block import Block
from phala.trie.state import State

K = TypeVar("K")
K2 = TypeVar("K2")
V = TypeVar("V")
D = TypeVar("D")

Hash = Callable[[bytes], bytes]


def blake2_128_concat(key: bytes) -> bytes:
    return blake2_128(key) + key


def twox_64_concat(key: bytes) -> bytes:
    return twox_64(key) + key


def identity(key: bytes) -> bytes:
    return key


HASHES: Final[dict[str, Hash]] = {
    "Blake2_128Concat": blake2_128_concat,
    "Twox64Concat": twox_64_concat,
    "Identity": identity,
}


class BoundItem:
    """An item of one pallet over one block's state."""

    __slots__ = ("_decode", "_encode", "_state")

    def __init__(self, value: Descriptor[Any], block: Block) -> None:
        made = value.made
        self._encode = made.encode
        self._decode = made.decode
        self._state: State = block.state

    def _read(self, key: bytes) -> Any:
        """The value, or None."""
        return self._state.read(key, self._decode)

    def _write(self, key: bytes, value: object) -> None:
        self._state.write(key, self._encode(value), value)


class BoundValue(BoundItem, Generic[V]):
    __slots__ = ("_default", "_key")

    def __init__(self, key: bytes, value: Descriptor[Any], block: Block, default: V) -> None:
        super().__init__(value, block)
        self._key = key
        self._default = default

    def get(self) -> V:
        value = self._read(self._key)
        return self._default if value is None else cast("V", value)

    def put(self, value: V) -> None:
        self._write(self._key, value)

    def delete(self) -> None:
        self._state.delete(self._key)


class BoundMap(BoundItem, Generic[K, V, D]):
    """A storage map of one pallet over one state; `D` is what an absent key gives."""

    __slots__ = ("_default", "_encode_key", "_hash", "_keys", "_prefix")

    def __init__(
        self,
        prefix: bytes,
        hasher: str,
        key: Descriptor[Any],
        value: Descriptor[Any],
        block: Block,
        default: D,
    ) -> None:
        super().__init__(value, block)
        self._prefix = prefix
        self._hash = HASHES[hasher]
        self._encode_key = key.made.encode
        self._keys: dict[K, bytes] = {}
        self._default = default

    def storage_key(self, key: K) -> bytes:
        found = self._keys.get(key)
        if found is None:
            found = self._prefix + self._hash(self._encode_key(key))
            self._keys[key] = found
        return found

    def __contains__(self, key: K) -> bool:
        return self._state.get(self.storage_key(key)) is not None

    def get(self, key: K) -> V | D:
        value = self._read(self.storage_key(key))
        return self._default if value is None else cast("V", value)

    def put(self, key: K, value: V) -> None:
        self._write(self.storage_key(key), value)

    def get_by(self, key: K, decode: Callable[[bytes], V]) -> V | D:
        """As `get`, by a decoder that does what the declared one does."""
        value = self._state.read(self.storage_key(key), decode)
        return self._default if value is None else cast("V", value)

    def put_later(self, key: K, value: V, encode: Callable[[V], bytes]) -> None:
        """As `put`, of a value that is known to fit: its bytes are made once, at the end."""
        self._state.write_later(self.storage_key(key), value, encode)

    def delete(self, key: K) -> None:
        self._state.delete(self.storage_key(key))

    def take(self, key: K) -> V | D:
        """The value, removed."""
        value = self.get(key)
        self.delete(key)
        return value


class BoundDoubleMap(BoundItem, Generic[K, K2, V]):
    __slots__ = ("_encode_keys", "_hashes", "_prefix")

    def __init__(
        self,
        prefix: bytes,
        hashers: tuple[str, str],
        keys: tuple[Descriptor[Any], Descriptor[Any]],
        value: Descriptor[Any],
        block: Block,
    ) -> None:
        super().__init__(value, block)
        self._prefix = prefix
        self._hashes = (HASHES[hashers[0]], HASHES[hashers[1]])
        self._encode_keys = (keys[0].made.encode, keys[1].made.encode)

    def storage_key(self, first: K, second: K2) -> bytes:
        hash_first, hash_second = self._hashes
        encode_first, encode_second = self._encode_keys
        return self._prefix + hash_first(encode_first(first)) + hash_second(encode_second(second))

    def get(self, first: K, second: K2) -> V | None:
        return cast("V | None", self._read(self.storage_key(first, second)))

    def put(self, first: K, second: K2, value: V) -> None:
        self._write(self.storage_key(first, second), value)

    def delete(self, first: K, second: K2) -> None:
        self._state.delete(self.storage_key(first, second))
