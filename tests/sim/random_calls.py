"""Random calls of all pallets, by the types of their parameters."""

from random import Random
from typing import Any, Final

from phala.codec import (
    Array,
    Bytes,
    Compact,
    Descriptor,
    Enum,
    FixedBytes,
    Malformed,
    Newtype,
    Option,
    Reader,
    Text,
    Tuple,
    UInt,
    Vector,
    encode_compact,
)
from phala.codec.scale import Struct
from phala.frame import RUNTIME_CALL, Choice, Described
from phala.frame.caller import ORIGIN_CALLER
from phala.frame.dispatch import parameters
from phala.pallets.identity.records import USERNAME
from phala.pallets.identity.usernames import ASKED
from phala.primitives.address import MULTI_ADDRESS
from phala.primitives.types import ACCOUNT_ID, BALANCE, PHA, AccountId
from phala.runtime.world import PALLETS

DEPTH_MAX: Final = 3
TRIES: Final = 20

# Calls that are there to set the sum of all plancks, or any key, by hand.
BY_HAND: Final = {
    ("System", "set_storage"),
    ("System", "kill_storage"),
    ("System", "kill_prefix"),
    ("System", "set_code"),
    ("System", "set_code_without_checks"),
    ("System", "apply_authorized_upgrade"),
    ("Balances", "force_adjust_total_issuance"),
    ("Balances", "force_unreserve"),
    # What a pure account reserves may be another's: deposits are not counted by account then.
    ("Proxy", "create_pure"),
    # A username's deposit is its suffix's authority's, whoever that is by then.
    ("Identity", "add_username_authority"),
    ("Identity", "remove_username_authority"),
}
USERNAMES: Final = (b"a.s", b"b.s", b"c.s", b"a.t", b"b.t", b"late.s", b"gone.s")
CALLS: Final = [
    (number, index, tuple(member.descriptor for member in parameters(pallet, method)))
    for number, pallet in PALLETS.items()
    for index, method in pallet.calls.items()
    if (pallet.name, method.__name__) not in BY_HAND
]


class Calls:
    """Calls that a seed makes, about these accounts in the blocks around `height`."""

    def __init__(self, random: Random, accounts: list[AccountId]) -> None:
        self.random = random
        self.accounts = accounts
        self.height = 1
        self.hashes: list[bytes] = [bytes(32)]

    def call(self, depth: int = 0) -> bytes:
        number, index, kinds = self.random.choice(CALLS)
        out = bytearray([number, index])
        for kind in kinds:
            out += self.encoded(kind, depth)
        return bytes(out)

    def account(self) -> AccountId:
        return self.random.choice(self.accounts)

    def number(self, bits: int) -> int:
        if self.random.random() < 0.6:
            return self.random.choice((0, 0, 1, 2))
        near = (0, 1, 2, 3, 5, self.height, self.height + 1, self.height + 2, (1 << bits) - 1)
        return min(self.random.choice(near), (1 << bits) - 1)

    def amount(self) -> int:
        choice = self.random.randrange(8)
        if choice == 0:
            return self.random.choice((0, 1, 2**128 - 1))
        return self.random.randrange(int(PHA) * 10 ** self.random.randrange(1, 6))

    def encoded(self, kind: Descriptor[Any], depth: int) -> bytes:
        """Bytes of that type. Meant to be right mostly, not always."""
        random = self.random
        if kind == RUNTIME_CALL:
            return self.call(depth + 1) if depth < DEPTH_MAX else bytes([0, 0, 0])
        if kind == MULTI_ADDRESS:
            return b"\0" + self.account() if random.random() < 0.95 else b"\x02\x0cabc"
        if kind == ACCOUNT_ID:
            return self.account()
        if kind == ORIGIN_CALLER:
            return random.choice((b"\0\0", b"\0\x01" + self.account(), b"\0\x02"))
        if kind == BALANCE:
            return self.amount().to_bytes(16, "little")
        match kind:
            case Compact(inner):
                bits = inner.bits
                return encode_compact(self.amount() if bits == 128 else self.number(bits))
            case UInt(bits):
                return self.number(bits).to_bytes(bits // 8, "little")
            case FixedBytes(size):
                if size == 32:
                    return random.choice((random.choice(self.hashes), self.account()))
                return random.randbytes(size)
            case Bytes() if kind in (USERNAME, ASKED) and random.random() < 0.9:
                name = random.choice(USERNAMES)
                return encode_compact(len(name)) + name
            case Bytes() | Text():
                size = random.choice((0, 1, 20, 200))
                return encode_compact(size) + b"s" * size
            case Option(some):
                return b"\0" if random.random() < 0.5 else b"\x01" + self.encoded(some, depth)
            case Vector(item, items_max):
                count = min(random.choice((0, 1, 2, 3)), items_max)
                if item == ACCOUNT_ID:
                    return encode_compact(count) + b"".join(
                        sorted(self.account() for _ in range(count))
                    )
                return encode_compact(count) + b"".join(
                    self.encoded(item, depth) for _ in range(count)
                )
            case Array(item, size):
                return b"".join(self.encoded(item, depth) for _ in range(size))
            case Tuple(items):
                return b"".join(self.encoded(item, depth) for item in items)
            case Newtype(_, inner) | Described(_, inner):
                return self.encoded(inner, depth)
            case Struct(_, members):
                return b"".join(self.encoded(each.descriptor, depth) for each in members)
            case Choice(_, names):
                return bytes([random.randrange(len(names))])
            case Enum(_, variants):
                index, record = random.choice(variants)
                return bytes([index]) + self.encoded(record, depth)
            case _:
                return self.guessed(kind)

    def guessed(self, kind: Descriptor[Any]) -> bytes:
        """Of a type that only its own reader knows."""
        for _ in range(TRIES):
            data = bytes([self.random.randrange(8)]) + self.random.randbytes(300)
            reader = Reader(data)
            try:
                kind.read(reader)
            except Malformed:
                continue
            return data[: reader.offset]
        return b"\0"
