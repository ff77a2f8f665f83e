"""Accounts' records, as every transfer reads and writes them: nothing is declared here, so that it
can be compiled."""

import struct
from typing import Final

from phala.frame.account import ACCOUNT_INFO, NEW_LOGIC, AccountData, AccountInfo
from phala.frame.bound import BoundMap
from phala.primitives.types import AccountId, Balance

Book = BoundMap[AccountId, AccountInfo, AccountInfo]

_COUNTS: Final = struct.Struct("<4I")
_WHOLE: Final = struct.Struct("<4I8Q")
_FLAGS_HIGH: Final = NEW_LOGIC >> 64
_REST: Final = bytes(32) + NEW_LOGIC.to_bytes(16, "little")  # nothing reserved, nothing frozen
_NONCES: Final = 1 << 32
_BALANCES: Final = 1 << 128


def decode_account(data: bytes) -> AccountInfo:
    """As `ACCOUNT_INFO` does. Raises `Malformed`."""
    if len(data) != 80:
        return ACCOUNT_INFO.decode(data)  # which raises it
    found = _WHOLE.unpack(data)
    free = found[4]
    if found[5]:
        free |= found[5] << 64
    if found[11] == _FLAGS_HIGH and not (found[6] or found[7] or found[8] or found[9] or found[10]):
        rest = AccountData(free, Balance(0), Balance(0), NEW_LOGIC)
    else:
        rest = AccountData(
            free,
            Balance(found[6] | found[7] << 64),
            Balance(found[8] | found[9] << 64),
            found[10] | found[11] << 64,
        )
    return AccountInfo(found[0], found[1], found[2], found[3], rest)


def encode_account(info: AccountInfo) -> bytes:
    """As `ACCOUNT_INFO` does, of numbers that fit."""
    data = info.data
    counts = _COUNTS.pack(info.nonce, info.consumers, info.providers, info.sufficients)
    free = data.free.to_bytes(16, "little")
    if data.reserved or data.frozen or data.flags != NEW_LOGIC:
        return b"".join(
            (
                counts,
                free,
                data.reserved.to_bytes(16, "little"),
                data.frozen.to_bytes(16, "little"),
                data.flags.to_bytes(16, "little"),
            )
        )
    return counts + free + _REST


def account_of(book: Book, who: AccountId) -> AccountInfo:
    return book.get_by(who, decode_account)


def with_free(info: AccountInfo, free: Balance, extrinsics: int = 0) -> AccountInfo:
    """An account with another free balance, which has sent some more extrinsics."""
    data = info.data
    return AccountInfo(
        info.nonce + extrinsics,
        info.consumers,
        info.providers,
        info.sufficients,
        AccountData(free, data.reserved, data.frozen, data.flags),
    )


def keep(book: Book, who: AccountId, info: AccountInfo) -> None:
    """Store what `with_free` made of a stored account. Its bytes are made at the end of the block:
    all but nonce and free balance are known to fit."""
    if info.nonce < _NONCES and 0 <= info.data.free < _BALANCES:
        book.put_later(who, info, encode_account)
    else:
        book.put(who, info)  # raises what does not fit
