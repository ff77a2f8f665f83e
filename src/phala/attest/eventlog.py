"""Holds an event log of a TDX guest against the registers that its quote signs.

A register is the hash of its last value and the digest of the next event, so a log that ends in
the signed value is the log. But a digest that stands in a log says nothing of the words beside it:
those are read only where the digest is computed from them.

Sources: TCG PC Client Platform Firmware Profile 1.05, section 10 (boot log, CCEL); dstack's runtime
events. Checks, each of them part of 7 in `verify`:

7a. The log is in bounds, and each event is of one of the four registers; their digests have 48
    bytes.
7b. A runtime event's digest is computed from its name and payload; register 3 has no others. A name
    has no character that could shift the border between name and payload.
7c. Each register of which the log has events ends in the value that the quote signs.
7d. Identity is read from what was logged before the system was ready, and each name of it once:
    what comes later is said by applications.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from phala.attest.errors import EvidenceMalformed, MeasurementRefused

EVENTS_MAX: Final = 1024
LOG_BYTES_MAX: Final = 256 * 1024
REGISTERS: Final = 4
RUNTIME_EVENT: Final = 0x08000001
RUNTIME_REGISTER: Final = 3
READY: Final = "system-ready"
IDENTITY: Final = ("app-id", "compose-hash", "instance-id", "key-provider", "os-image-hash")

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})*")
_DIGEST_BYTES: Final = 48
_NO_ACTION: Final = 3
_SHA384: Final = 0x000C  # TPM_ALG_SHA384
_SPEC_ID: Final = b"Spec ID Event03\0"


@dataclass(frozen=True, slots=True)
class Event:
    """One extension of a register. Name and payload count where `computed`."""

    register: int
    digest: bytes
    name: str
    payload: bytes
    computed: bool  # the digest is of this name and payload


def decode_dstack(data: bytes) -> tuple[Event, ...]:
    """7a, 7b. The log that dstack's guest agent gives, in JSON."""
    if len(data) > LOG_BYTES_MAX:
        raise _malformed(f"{len(data)} bytes")
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError):
        raise _malformed("it is not JSON") from None
    if not isinstance(entries, list) or len(entries) > EVENTS_MAX:
        raise _malformed(f"it is no list of up to {EVENTS_MAX} events")
    return tuple(_dstack_event(entry) for entry in entries)


def decode_ccel(data: bytes) -> tuple[Event, ...]:
    """7a. The firmware's log, as ACPI's table CCEL points to it."""
    if len(data) > LOG_BYTES_MAX:
        raise _malformed(f"{len(data)} bytes")
    return tuple(_ccel_events(data))


def replay(events: Sequence[Event]) -> tuple[bytes, ...]:
    """The four registers after these events."""
    registers = [bytes(_DIGEST_BYTES)] * REGISTERS
    for event in events:
        registers[event.register] = hashlib.sha384(
            registers[event.register] + event.digest
        ).digest()
    return tuple(registers)


def check_log(events: Sequence[Event], registers: Sequence[bytes]) -> None:
    """7c."""
    named = sorted({event.register for event in events})
    for index, value in enumerate(replay(events)):
        if index in named and value != registers[index]:
            raise MeasurementRefused(
                f"the log ends RTMR{index} in {value.hex()}, the quote signs"
                f" {registers[index].hex()}",
                check=7,
                mend="give the log as it stood when the quote was made",
            )


def identity(events: Sequence[Event]) -> Mapping[str, bytes]:
    """7d. Names and payloads, of those that were computed; none where no system became ready."""
    found: dict[str, bytes] = {}
    for event in events:
        if not event.computed:
            continue
        if event.name == READY:
            return {name: found[name] for name in IDENTITY if name in found}
        if event.name in IDENTITY and event.name in found:
            raise MeasurementRefused(
                f"the log tells {event.name} twice",
                check=7,
                mend="start the system from an image that tells who it is once",
            )
        found[event.name] = event.payload
    return {}


def runtime_digest(name: str, payload: bytes, *, version: int = 1) -> bytes:
    """What register 3 is extended by for a runtime event."""
    if version == 2:
        text = {"name": name, "payload": payload.hex(), "type": RUNTIME_EVENT}
        return hashlib.sha384(json.dumps(text, separators=(",", ":")).encode()).digest()
    head = RUNTIME_EVENT.to_bytes(4, "little")
    return hashlib.sha384(head + b":" + name.encode() + b":" + payload).digest()


def _dstack_event(entry: Any) -> Event:
    if not isinstance(entry, dict):
        raise _malformed("an event that is no object")
    register, kind = entry.get("imr"), entry.get("event_type")
    name, version = entry.get("event", ""), entry.get("version", 1)
    if type(register) is not int or not 0 <= register < REGISTERS or type(kind) is not int:
        raise _malformed(f"an event of the register {register!r} and the type {kind!r}")
    if not isinstance(name, str):
        raise _malformed("an event whose name is no text")
    digest, payload = _hex(entry, "digest"), _hex(entry, "event_payload")
    if kind != RUNTIME_EVENT:
        if register == RUNTIME_REGISTER or len(digest) != _DIGEST_BYTES:
            raise _malformed(f"an event of RTMR{register} whose digest cannot be computed")
        return Event(register, digest, name, payload, computed=False)
    if register != RUNTIME_REGISTER or not _NAME.fullmatch(name):
        raise _malformed(f"the runtime event {name!r} of RTMR{register}")
    if version not in (1, 2, "v1", "v2") or isinstance(version, bool):
        raise _malformed(f"a runtime event of the version {version!r}")
    computed = runtime_digest(name, payload, version=2 if version in (2, "v2") else 1)
    if digest not in (b"", computed):
        raise MeasurementRefused(
            f"the digest of the event {name} is not of its payload",
            check=7,
            mend="give the log as it stood when the quote was made",
        )
    return Event(register, computed, name, payload, computed=True)


def _ccel_events(data: bytes) -> Iterator[Event]:
    at = _ccel_header(data)
    for _ in range(EVENTS_MAX):
        register, kind = _u32(data, at), _u32(data, at + 4)
        if register == 0xFFFFFFFF or not any(data[at : at + 64]):
            if data[at:].strip(b"\xff") and data[at:].strip(b"\0"):
                raise _malformed("something follows the last event")
            return
        if _u32(data, at + 8) != 1 or _u16(data, at + 12) != _SHA384:
            raise _malformed(f"the event at byte {at} has other digests than one of SHA-384")
        digest, size = data[at + 14 : at + 62], _u32(data, at + 62)
        payload = data[at + 66 : at + 66 + size]
        if len(digest) != _DIGEST_BYTES or len(payload) != size:
            raise _malformed(f"the event at byte {at} ends outside")
        at += 66 + size
        if kind != _NO_ACTION:
            if not 1 <= register <= REGISTERS:  # here register 0 is MRTD
                raise _malformed(f"an event of the register {register}")
            computed = hashlib.sha384(payload).digest() == digest
            yield Event(register - 1, digest, f"0x{kind:08x}", payload, computed=computed)
        if at == len(data):
            return
    raise _malformed(f"more than {EVENTS_MAX} events")


def _ccel_header(data: bytes) -> int:
    """Where events begin: behind one in the old form, which says which digests there are."""
    size = _u32(data, 28)
    body = data[32 : 32 + size]
    if _u32(data, 4) != _NO_ACTION or len(body) != size or body[:16] != _SPEC_ID:
        raise _malformed("it does not begin with its specification's id")
    if _u32(body, 24) != 1 or _u16(body, 28) != _SHA384 or _u16(body, 30) != _DIGEST_BYTES:
        raise _malformed("it has other digests than SHA-384")
    return 32 + size


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(_taken(data, at, 4), "little")


def _u16(data: bytes, at: int) -> int:
    return int.from_bytes(_taken(data, at, 2), "little")


def _taken(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise _malformed(f"it ends before byte {at + size}")
    return data[at : at + size]


def _hex(entry: Mapping[str, Any], name: str) -> bytes:
    text = entry.get(name, "")
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise _malformed(f"{name} is not hex")
    return bytes.fromhex(text)


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(
        f"no event log: {what}", check=7, mend="give the log as the guest wrote it"
    )
