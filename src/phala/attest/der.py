"""Reads DER, and nothing else: the strict part of ASN.1 in which certificates are signed.

A library that reads certificates decides by its version which of them it refuses: AMD's have the
serial number 0, which the next one will not read. What judges evidence is consensus, so this is
ours, and small.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from phala.attest.errors import EvidenceMalformed
from phala.primitives.types import Moment

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

PARTS_MAX: Final = 64  # of a sequence that is read at once: a certificate has ten, and extensions
_LENGTH_BYTES_MAX: Final = 3  # 16 MiB; nothing here comes near
_DAYS_TO_1970: Final = 719_468  # since 0000-03-01, proleptic Gregorian
_SPAN_HIGH: Final = {0: 23, 1: 59, 2: 59}  # hours, minutes, seconds


@dataclass(frozen=True, slots=True)
class Value:
    """One value: its tag, what it holds, and all its bytes."""

    tag: int
    body: bytes
    whole: bytes


def read(data: bytes) -> Value:
    """The one value that `data` is, to the last byte."""
    value, end = _read(data, 0)
    if end != len(data):
        raise _malformed(f"{len(data) - end} bytes follow the value")
    return value


def parts(data: bytes) -> Iterator[Value]:
    """The values that `data` is a row of."""
    at = 0
    while at < len(data):
        value, at = _read(data, at)
        yield value


def sequence(value: Value) -> list[Value]:
    """What a SEQUENCE holds, of at most `PARTS_MAX`: a longer row is read by `parts`."""
    found = list(islice(parts(tagged(value, SEQUENCE).body), PARTS_MAX + 1))
    if len(found) > PARTS_MAX:
        raise _malformed(f"a sequence of more than {PARTS_MAX} parts")
    return found


def tagged(value: Value, tag: int) -> Value:
    """The value, when its tag is that one."""
    if value.tag != tag:
        raise _malformed(f"tag 0x{value.tag:02x} where 0x{tag:02x} belongs")
    return value


def integer(value: Value) -> int:
    """An INTEGER in its one shortest form."""
    body = tagged(value, INTEGER).body
    if not body or (len(body) > 1 and (body[0], body[1] >> 7) in ((0, 0), (0xFF, 1))):
        raise _malformed(f"the integer {body.hex()}")
    return int.from_bytes(body, "big", signed=True)


def boolean(value: Value) -> bool:
    """A BOOLEAN: of DER's two."""
    body = tagged(value, BOOLEAN).body
    if body not in (b"\0", b"\xff"):
        raise _malformed(f"the boolean {body.hex()}")
    return body == b"\xff"


def bits(value: Value) -> bytes:
    """A BIT STRING of whole bytes."""
    body = tagged(value, BIT_STRING).body
    if body[:1] != b"\0":
        raise _malformed("a bit string with bits left over")
    return body[1:]


def oid(value: Value) -> str:
    """An OBJECT IDENTIFIER with dots."""
    body = tagged(value, OID).body
    if not body or body[-1] & 0x80 or len(body) > 32:
        raise _malformed(f"the identifier {body.hex()}")
    numbers, number = [], 0
    for byte in body:
        if number == 0 and byte == 0x80:
            raise _malformed(f"the identifier {body.hex()}")
        number = number << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(str(each) for each in (first, numbers[0] - 40 * first, *numbers[1:]))


def moment(value: Value) -> Moment:
    """A time of a certificate, in UTC and whole seconds, as RFC 5280 section 4.1.2.5 has it."""
    text = value.body
    digits = 12 if value.tag == UTC_TIME else 14
    if value.tag not in (UTC_TIME, GENERALIZED_TIME) or len(text) != digits + 1:
        raise _malformed(f"the time {text!r}")
    if text[-1:] != b"Z" or not text[:-1].isdigit():
        raise _malformed(f"the time {text!r}")
    year, rest = int(text[: digits - 10]), text[digits - 10 : -1]
    if value.tag == UTC_TIME:
        year += 1900 if year >= 50 else 2000
    month, day, *clock = (int(rest[at : at + 2]) for at in range(0, 10, 2))
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    lengths = (31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    if not (1 <= month <= 12 and 1 <= day <= lengths[month - 1]):
        raise _malformed(f"the time {text!r}")
    if any(each > _SPAN_HIGH[index] for index, each in enumerate(clock)) or year < 1970:
        raise _malformed(f"the time {text!r}")
    hours, minutes, seconds = clock
    return Moment(1000 * (86_400 * _days(year, month, day) + 3600 * hours + 60 * minutes + seconds))


def _days(year: int, month: int, day: int) -> int:
    """Since 1970-01-01. Years begin in March, so that a leap day ends its year."""
    months = (month + 9) % 12
    years = year - (month <= 2)
    return (
        365 * years
        + years // 4
        - years // 100
        + years // 400
        + (153 * months + 2) // 5
        + day
        - 1
        - _DAYS_TO_1970
    )


def _read(data: bytes, at: int) -> tuple[Value, int]:
    header = data[at : at + 2]
    if len(header) < 2 or header[0] & 0x1F == 0x1F:
        raise _malformed(f"no tag and length at byte {at}")
    size, start = header[1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size = int.from_bytes(data[start : start + count], "big")
        start += count
        if not 0 < count <= _LENGTH_BYTES_MAX or size < (0x80, 0x80, 0x100, 0x10000)[count]:
            raise _malformed(f"the length at byte {at + 1} is not the shortest")
    end = start + size
    if end > len(data):
        raise _malformed(f"the value at byte {at} ends outside")
    return Value(header[0], data[start:end], data[at:end]), end


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(
        f"no DER: {what}", check=4, mend="give the bytes as the vendor published them"
    )
