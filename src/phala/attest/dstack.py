"""Takes dstack's versioned attestations apart, each into evidence and what came with it.

Version 0 is SCALE, version 1 is MessagePack: dstack's sources, dstack-attest, attestation.rs and
v1.rs. What they tell of the machine beside its evidence proves nothing, and is left.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from phala.attest import intel, msgpack, snp
from phala.attest.certs import decode_certificate, decode_pem, encode_pem
from phala.attest.errors import EvidenceMalformed
from phala.attest.eventlog import EVENTS_MAX, RUNTIME_EVENT, RUNTIME_REGISTER
from phala.attest.quote import platform_of
from phala.attest.verdict import PlatformCode
from phala.attest.verify import Evidence

CERTIFICATES_MAX: Final = 8
STRING_BYTES_MAX: Final = 1024 * 1024
_KEYS: Final = ("SEV-VCEK", "SEV-VLEK")
_NAMES_BYTES: Final = 16  # within which a map of version 1 names its first field
_BOOT_REGISTERS: Final = (0, 1, 2)
_EVENT: Final = ("imr", "event_type", "digest", "event", "event_payload", "version")


def is_map(data: bytes) -> bool:
    """Whether the bytes are of version 1, good or bad."""
    return data[:1] >= b"\x80" and b"\xa7version" in data[:_NAMES_BYTES]


def read_dstack(data: bytes) -> tuple[Evidence, dict[str, bytes]]:
    """The evidence in an attestation, and its log or certificates; nothing is judged.

    Raises:
        EvidenceMalformed: the bytes are no attestation of dstack's.
    """
    return _of_map(msgpack.decode(data)) if is_map(data) else _of_scale(data)


def _of_map(whole: msgpack.Value) -> tuple[Evidence, dict[str, bytes]]:
    """Version 1: `{version, platform: {kind, data}, stack}`."""
    fields = _object(whole)
    platform = _object(fields.get("platform"))
    kind, given = platform.get("kind"), _object(platform.get("data"))
    if fields.get("version") != 1:
        raise _malformed(f"the version {fields.get('version')!r}")
    match kind:
        case "tdx" | "gcp-tdx":
            log = given.get("event_log")
            if not isinstance(log, list) or len(log) > EVENTS_MAX:
                raise _malformed("no log, or a long one")
            return _tdx(_octets(given.get("quote")), [_told(_object(each)) for each in log])
        case "nitro-enclave":
            return Evidence(PlatformCode.NITRO, _octets(given.get("nsm_quote"))), {}
        case "sev-snp":
            chain = given.get("cert_chain")
            if not isinstance(chain, list) or len(chain) > CERTIFICATES_MAX:
                raise _malformed("no certificates, or many")
            return _snp(_octets(given.get("report")), map(_octets, chain))
        case _:
            raise _malformed(f"the platform {kind!r}")


def _told(event: Mapping[str, msgpack.Value]) -> dict[str, Any]:
    """An event as it stands in JSON, whatever it tells."""
    told: dict[str, Any] = {}
    for name in _EVENT:
        value = event.get(name)
        if isinstance(value, bytes | list):
            told[name] = _octets(value).hex()
        elif isinstance(value, int | str):
            told[name] = value
        elif value is not None:
            raise _malformed(f"an event whose {name} is a map")
    return told


def _of_scale(data: bytes) -> tuple[Evidence, dict[str, bytes]]:
    """Version 0, then the platform's number.

    TDX, 0: quote, then events. Nitro, 2: document. SEV-SNP, 3: report, then certificates.
    """
    reader = _Scale(data, 2)
    match data[:2]:
        case b"\0\0":
            quote = reader.string()
            return _tdx(quote, [_event(reader) for _ in range(reader.count(EVENTS_MAX))])
        case b"\0\2":
            return Evidence(PlatformCode.NITRO, reader.string()), {}
        case b"\0\3":
            report = reader.string()
            return _snp(report, [reader.string() for _ in range(reader.count(CERTIFICATES_MAX))])
        case _:
            raise _malformed(f"the form {data[:2].hex()}")


def _event(reader: "_Scale") -> dict[str, Any]:
    return {
        "imr": reader.number(),
        "event_type": reader.number(),
        "digest": reader.string().hex(),
        "event": reader.string().decode("utf-8", "replace"),
        "event_payload": reader.string().hex(),
    }


def _tdx(quote: bytes, events: list[dict[str, Any]]) -> tuple[Evidence, dict[str, bytes]]:
    if not quote:
        raise _malformed("of nothing")
    log = json.dumps(_measured(events)).encode()
    return Evidence(platform_of(quote), quote), {intel.EVENT_LOG: log}


def _measured(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without boot events that were picked: of those registers the log tells but a part. Picked
    ones are called by name, or there are none of some register, which a boot leaves out never."""
    boot = [each for each in events if each.get("event_type") != RUNTIME_EVENT]
    named = any(each.get("event") for each in boot)
    registers = [each.get("imr") for each in boot]
    picked = named or not all(register in registers for register in _BOOT_REGISTERS)
    if not picked:
        return events
    # What is none of the boot's stays, to be refused: register 3 has runtime events alone.
    return [
        each
        for each in events
        if each.get("event_type") == RUNTIME_EVENT or each.get("imr") == RUNTIME_REGISTER
    ]


def _snp(report: bytes, chains: Iterable[bytes]) -> tuple[Evidence, dict[str, bytes]]:
    """Certificates are in PEM or DER, in any order."""
    found = {}
    for chain in chains:
        pem = chain.lstrip()[:10] == b"-----BEGIN"
        for each in decode_pem(chain) if pem else (decode_certificate(chain),):
            found[each.common_name] = each
    keys = [name for name in _KEYS if name in found]
    items = {snp.KEY: found[keys[-1]].der} if keys else {}
    above = [name for name in found if name[:4] in ("SEV-", "ARK-") and name not in _KEYS]
    above.sort(key=lambda name: name.startswith("ARK-"))
    if above:
        items[snp.CHAIN] = encode_pem([found[name] for name in above])
    return Evidence(PlatformCode.SEV_SNP, report), items


class _Scale:
    """As much of SCALE as version 0 needs, on bytes of a stranger's."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def number(self) -> int:
        return int.from_bytes(self._take(4), "little")

    def count(self, most: int) -> int:
        first = self.data[self.at : self.at + 1]
        size = {0: 1, 1: 2, 2: 4}.get(first[0] & 3, 0) if first else 0
        if size == 0:
            raise _malformed(f"the length at byte {self.at}")
        number = int.from_bytes(self._take(size), "little") >> 2
        if number > most:
            raise _malformed(f"{number} items at byte {self.at}")
        return number

    def string(self) -> bytes:
        return self._take(self.count(STRING_BYTES_MAX))

    def _take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        if len(taken) != size:
            raise _malformed(f"it ends before byte {self.at + size}")
        self.at += size
        return taken


def _object(value: msgpack.Value) -> Mapping[str, msgpack.Value]:
    if not isinstance(value, dict):
        raise _malformed("a part that is no map")
    return value


def _octets(value: msgpack.Value) -> bytes:
    """Bytes, or a list of them."""
    if isinstance(value, list):
        numbers = [each for each in value if type(each) is int and 0 <= each <= 255]
        if len(numbers) == len(value):
            return bytes(numbers)
    if not isinstance(value, bytes):
        raise _malformed("a part that is not of bytes")
    return value


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(
        f"no dstack attestation: {what}",
        check=4,
        mend="give the attestation as dstack's guest agent wrote it",
    )
