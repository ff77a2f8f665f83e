"""Accounts as people write them (SS58) and as extrinsics carry them.

Source: SS58 address format, docs.polkadot.com; `sp_runtime::{MultiAddress, MultiSignature}`.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from phala.codec import UNIT, Bytes, Descriptor, FixedBytes, Malformed, OutOfRange, Reader, Registry
from phala.codec.generate import Source
from phala.codec.records import record
from phala.codec.registry import Field, Type, TypeDefCompact, TypeDefVariant, Variant
from phala.errors import Invalid
from phala.primitives.types import ACCOUNT_ID, AccountId

T = TypeVar("T")

SS58_PREFIX: Final = 30
SS58_CHARS_MAX: Final = 64

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_CHECKSUM_BYTES: Final = 2


def encode_ss58(account: AccountId, prefix: int = SS58_PREFIX) -> str:
    """An account as text; `prefix` says for which network (0..16383)."""
    if not 0 <= prefix < 1 << 14:
        raise Invalid(f"the network prefix {prefix}", mend="pass one from 0 to 16383")
    if prefix < 64:
        front = bytes([prefix])
    else:
        front = bytes([(prefix & 0xFC) >> 2 | 0x40, prefix >> 8 | (prefix & 3) << 6])
    body = front + account
    return encode_base58(body + _checksum(body))


def decode_ss58(text: str) -> AccountId:
    """The account of an address, whatever network it names.

    Raises:
        Invalid: no SS58 address of a 32-byte account, or a letter is wrong.
    """
    data = _unbase58(text)
    front = 1 if data and data[0] < 64 else 2
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if not data or data[0] > 127 or len(body) != front + 32 or checksum != _checksum(body):
        raise Invalid(
            f"{text[:SS58_CHARS_MAX]!r} is no address",
            mend="copy it whole; one wrong letter is noticed",
        )
    return AccountId(body[front:])


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(b"SS58PRE" + body).digest()[:_CHECKSUM_BYTES]


def encode_base58(data: bytes) -> str:
    """Bitcoin's alphabet."""
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def _unbase58(text: str) -> bytes:
    """Empty for what is no base58."""
    if len(text) > SS58_CHARS_MAX:
        return b""
    number = 0
    for letter in text:
        digit = _ALPHABET.find(letter)
        if digit < 0:
            return b""
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


@record
class MultiAddress:
    """Who is meant. Only `Id` names an account here; the other kinds decode, and are refused."""

    kind: int  # 0 Id, 1 Index, 2 Raw, 3 Address32, 4 Address20
    data: bytes = b""

    @staticmethod
    def of(account: AccountId) -> "MultiAddress":
        return MultiAddress(0, account)

    def account(self) -> AccountId:
        """The account, or `Invalid` for a kind that names none."""
        if self.kind != 0:
            raise Invalid(
                f"an address of kind {self.kind} names no account", mend="give the account's id"
            )
        return AccountId(self.data)


@record
class MultiSignature:
    """A signature by one of the three kinds of keys."""

    kind: int  # 0 Ed25519, 1 Sr25519, 2 Ecdsa
    data: bytes


@dataclass(frozen=True, slots=True)
class CompactUnit(Descriptor[bytes]):
    """`Compact<()>`, the index of an account where no account has an index: no bytes."""

    def write(self, out: bytearray, value: bytes, /) -> None:
        """No bytes."""

    def read(self, _reader: Reader, /) -> bytes:
        return b""

    def type_info(self, registry: Registry, /) -> Type:
        return Type(TypeDefCompact(registry.id_of(UNIT)))


@dataclass(frozen=True, slots=True)
class _Kinds(Descriptor[T]):
    """One of a few kinds of bytes, behind its number; the fields carry no names."""

    of: type[T]
    path: tuple[str, ...]
    kinds: tuple[tuple[str, Descriptor[bytes]], ...]
    params: tuple[tuple[str, Descriptor[Any]], ...] = ()

    def write(self, out: bytearray, value: T, /) -> None:
        kind: int = getattr(value, "kind", len(self.kinds))
        if not 0 <= kind < len(self.kinds):
            raise OutOfRange(repr(value), f"a variant of {self.path[-1]}")
        out.append(kind)
        self.kinds[kind][1].write(out, getattr(value, "data", b""))

    def read(self, reader: Reader, /) -> T:
        (kind,) = reader.take(1)
        if kind >= len(self.kinds):
            raise Malformed(f"{self.path[-1]} has no variant {kind}", offset=reader.offset - 1)
        return self.of(kind, self.kinds[kind][1].read(reader))  # type: ignore[call-arg]

    def emit_write(self, source: Source, value: str, /) -> None:
        table: dict[str, str] = {}
        for kind, (_, each) in enumerate(self.kinds):
            with source.function("out, data") as name:
                source.line(f"out.append({kind})")
                each.emit_write(source, "data")
            table[str(kind)] = name
        item = source.name()
        source.line(f"{item} = {value}")
        source.refuse(f"type({item}) is not {source.constant(self.of)}")
        source.line(f"{source.table(table)}[{item}.kind](out, {item}.data)")

    def emit_read(self, source: Source, /) -> str:
        table: dict[str, str] = {}
        for kind, (_, each) in enumerate(self.kinds):
            with source.function("data, at, end") as name:
                inner = each.emit_read(source)
                source.within()
                source.line(f"return {source.constant(self.of)}({kind}, {inner}), at")
            table[str(kind)] = name
        value = source.name()
        source.line(f"{value}, at = {source.table(table)}[{source.read_byte()}](data, at, end)")
        return value

    def type_info(self, registry: Registry, /) -> Type:
        params = tuple((name, registry.id_of(each)) for name, each in self.params)
        variants = tuple(
            Variant(name, (Field(None, registry.id_of(each), None),), index, ())
            for index, (name, each) in enumerate(self.kinds)
        )
        return Type(TypeDefVariant(variants), self.path, params=params)


RAW_BYTES_MAX: Final = 128
_BYTES_32: Final[FixedBytes[bytes]] = FixedBytes(32)
_BYTES_20: Final[FixedBytes[bytes]] = FixedBytes(20)
_BYTES_64: Final[FixedBytes[bytes]] = FixedBytes(64)
_BYTES_65: Final[FixedBytes[bytes]] = FixedBytes(65)

MULTI_ADDRESS: Final[Descriptor[MultiAddress]] = _Kinds(
    MultiAddress,
    ("sp_runtime", "multiaddress", "MultiAddress"),
    (
        ("Id", cast("Descriptor[bytes]", ACCOUNT_ID)),
        ("Index", CompactUnit()),
        ("Raw", Bytes(bytes_max=RAW_BYTES_MAX)),
        ("Address32", _BYTES_32),
        ("Address20", _BYTES_20),
    ),
    (("AccountId", ACCOUNT_ID), ("AccountIndex", UNIT)),
)
MULTI_SIGNATURE: Final[Descriptor[MultiSignature]] = _Kinds(
    MultiSignature,
    ("sp_runtime", "MultiSignature"),
    (("Ed25519", _BYTES_64), ("Sr25519", _BYTES_64), ("Ecdsa", _BYTES_65)),
)
