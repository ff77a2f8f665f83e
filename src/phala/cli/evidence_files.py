"""Files of collateral: which of the verifier's items each of them is.

Nothing is trusted for its name here: an item that is called what it is not fails its check.
"""

import binascii
import json
import os
import re
import select
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from phala.attest import AttestationError, PlatformCode, azure, intel, nvidia, snp
from phala.attest.certs import Certificate, decode_certificate, decode_pem, decode_revocation_list
from phala.attest.envelopes import open_table
from phala.attest.verify import COLLATERAL_BYTES_MAX
from phala.errors import Invalid
from phala.sdk.vendors import signed_text

NAMES: Final = tuple(
    sorted(
        (
            *(*intel.COLLATERAL, *intel.LOGS),
            *(*snp.COLLATERAL, *nvidia.COLLATERAL),
            *(*azure.TPM, azure.TD_QUOTE),
        )
    )
)
FILES_MAX: Final = 32
PATIENCE_S: Final = 5.0  # with what is no regular file: a pipe may have no writer, or an idle one
_NVIDIA: Final = (PlatformCode.NVIDIA,)
_PEM_CRL: Final = re.compile(
    rb"\s*-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----\s*"
)
_ESCAPED: Final = b"-----BEGIN%20CERTIFICATE-----"
PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_HEX_LIST: Final = re.compile(rb"\s*30(?:[0-9a-fA-F]{2})+\s*")
_VBIOS_VERSION: Final = re.compile(rb'colloquialVersion="[0-9A-Fa-f]{2}(\.[0-9A-Fa-f]{2}){4}"')
_RIM_HEAD_BYTES: Final = 4096
_CCEL_HEAD: Final = b"Spec ID Event03"
_CCEL_HEAD_BYTES: Final = 64
_BINARY: Final = (snp.KEY, snp.REVOKED)
_NOT_TAKEN: Final = ("pck_certificate_chain",)  # the quote has its own, and no other is believed
_KEYS: Final = ("SEV-VCEK", "SEV-VLEK")


def read_bounded(path: Path, most: int, what: str) -> bytes:
    """The file's bytes, at most one more than `most`: whoever judges them says what is too long.

    Raises:
        Invalid: it is a folder, is absent, cannot be read, or is empty; or it is a pipe or a device
            into which nobody writes.
    """
    try:
        # Who opens a pipe would wait for a writer.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            data = _read(file, most + 1, f"{what} {str(path)!r}")
        finally:
            os.close(file)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = error.strerror if isinstance(error, OSError) else "no name of a file"
        raise Invalid(
            f"{what} {str(path)!r} cannot be read: {reason}", mend="name a file that you can read"
        ) from None
    if not data:
        raise Invalid(f"{what} {str(path)!r} is empty", mend="name a file with something in it")
    return data


def _read(file: int, most: int, what: str) -> bytes:
    """At most that many bytes: all of a regular file, or what comes out of a pipe until it ends."""
    regular = stat.S_ISREG(os.fstat(file).st_mode)
    until = time.monotonic() + PATIENCE_S
    ready = select.poll()
    ready.register(file, select.POLLIN)
    found = bytearray()
    while len(found) < most:
        left_ms = 1000 * (until - time.monotonic())
        if not regular and (left_ms <= 0 or not ready.poll(left_ms)):
            raise Invalid(
                f"{what} did not end within {PATIENCE_S:g} s",
                mend="name a file, or a pipe that ends",
            )
        try:
            part = os.read(file, most - len(found))
        except BlockingIOError:  # another reader was faster
            continue
        if not part:
            break
        found += part
    return bytes(found)


def read_collateral(files: tuple[str, ...], platform: int) -> dict[str, bytes]:
    """All items of the files, each given as FILE or NAME=FILE.

    Raises:
        Invalid: a file cannot be read, is too long, or nobody can tell what it is.
    """
    if len(files) > FILES_MAX:
        raise Invalid(f"{len(files)} files of collateral", mend=f"give at most {FILES_MAX}")
    items: dict[str, bytes] = {}
    for each in _each(files):
        name, equals, rest = each.partition("=")
        named = bool(equals) and re.fullmatch("[a-z_]+", name) is not None
        path = Path(rest if named else each)
        if named and name not in NAMES:
            raise Invalid(f"no collateral is called {name}", mend=f"use one of: {', '.join(NAMES)}")
        data = read_bounded(path, COLLATERAL_BYTES_MAX, "the collateral")
        if len(data) > COLLATERAL_BYTES_MAX:
            raise Invalid(
                f"the collateral {str(path)!r} has more than {COLLATERAL_BYTES_MAX} bytes",
                mend="give the collateral of this evidence alone",
            )
        found = items_of(data, platform)
        if named and name not in found:  # a file that is of another form than the name's own
            found = {name: data}
        if not found:
            raise Invalid(
                f"nobody can tell what collateral {str(path)!r} is",
                mend=f"say it as NAME={path.name}; NAME is one of: {', '.join(NAMES)}",
            )
        items |= _joined(items, found)
    return items


def _each(files: tuple[str, ...]) -> list[str]:
    """The files, those of a folder among them: tools save an AMD chain as a folder."""
    found: list[str] = []
    for each in files:
        path = Path(each)
        if path.is_dir():
            found += _inside(path)
        else:
            found.append(each)
    if len(found) > FILES_MAX:
        raise Invalid(f"{len(found)} files of collateral", mend=f"give at most {FILES_MAX}")
    return found


def _inside(folder: Path) -> list[str]:
    try:
        return sorted(str(each) for each in folder.iterdir() if each.is_file())
    except OSError as error:
        raise Invalid(
            f"the folder {str(folder)!r} cannot be read: {error.strerror}",
            mend="name a folder that you can read",
        ) from None


def _joined(items: Mapping[str, bytes], found: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a file adds: intermediate and root of AMD's may come in two."""
    if snp.CHAIN not in items or snp.CHAIN not in found:
        return dict(found)
    both = {each.der: each for name in (items, found) for each in decode_pem(name[snp.CHAIN])}
    above = sorted(both.values(), key=lambda each: each.common_name.startswith("ARK-"))
    return {**found, snp.CHAIN: b"".join(map(_pem, above))}


def items_of(data: bytes, platform: int) -> dict[str, bytes]:
    """What a file is by its content, for evidence of that platform; nothing where none can tell."""
    if _ESCAPED in data:  # Intel's service has its chains in headers, and there so
        data = unquote_to_bytes(data)
    text = data.lstrip()
    try:
        if text[:1] in (b"{", b"["):
            return _of_json(data)
        if text[:1] == b"<":
            vbios = _VBIOS_VERSION.search(text[:_RIM_HEAD_BYTES]) is not None
            return {nvidia.VBIOS if vbios else nvidia.DRIVER: data}
        if _HEX_LIST.fullmatch(data) is not None:  # as caching services hand lists out
            return _of_revocations(bytes.fromhex(text.decode()))
        if (match := _PEM_CRL.fullmatch(data)) is not None:
            return _of_revocations(binascii.a2b_base64(match[1]))
        if blocks := PEM.findall(data):  # tools write words between them: RFC 7468, section 2
            data = data if text.startswith(b"-----BEGIN") else b"\n".join((*blocks, b""))
            chain = decode_pem(data)
            return {nvidia.CHAIN: data} if platform in _NVIDIA else _of_chain(data, chain)
        if _CCEL_HEAD in data[:_CCEL_HEAD_BYTES]:
            return {intel.BOOT_LOG: data}
        if items := open_table(data):
            return items
        return _of_der(data)
    except (AttestationError, ValueError):
        return {}


def _of_json(data: bytes) -> dict[str, bytes]:
    if items := signed_text(data):
        return items
    try:
        document = json.loads(data)
    except RecursionError:
        return {}
    if isinstance(document, list):
        events = document and all(_is_event(each) for each in document)
        return {intel.EVENT_LOG: data} if events else {}
    if isinstance(document, dict) and isinstance(document.get("rim"), str):  # NVIDIA's service
        rim = binascii.a2b_base64(document["rim"])
        return items_of(rim, PlatformCode.NVIDIA) if rim.lstrip()[:1] == b"<" else {}
    if isinstance(document, dict) and isinstance(document.get("vcekCert"), str):
        return _of_azure(document)
    known: Mapping[str, Any] = {
        name: value for name, value in document.items() if name not in _NOT_TAKEN
    }
    if not known or not all(name in NAMES and isinstance(known[name], str) for name in known):
        return {}
    return {name: _item(name, value) for name, value in known.items()}


def _of_azure(document: Mapping[str, Any]) -> dict[str, bytes]:
    """AMD's certificates as an Azure machine is told them."""
    text = document["vcekCert"] + str(document.get("certificateChain", ""))
    data = text.encode()
    return _of_chain(data, decode_pem(data))


def _item(name: str, value: str) -> bytes:
    """What is DER stands in JSON as hex; lists of Intel's may stand in PEM."""
    if (match := _PEM_CRL.fullmatch(value.encode())) is not None:
        return _of_revocations(binascii.a2b_base64(match[1])).get(name, b"")
    return bytes.fromhex(value) if name in _BINARY else value.encode()


def _is_event(value: Any) -> bool:
    return isinstance(value, dict) and "imr" in value and "digest" in value


def _of_chain(data: bytes, chain: tuple[Certificate, ...]) -> dict[str, bytes]:
    """Intel's issuers, or AMD's key, chain or both."""
    first = chain[0].common_name
    if first == intel.TCB_SIGNER:
        return {"tcb_info_issuer_chain": data, "qe_identity_issuer_chain": data}
    if first.startswith("Intel SGX PCK"):
        return {"pck_crl_issuer_chain": data}
    keys = [each for each in chain if each.common_name in _KEYS]
    above = [each for each in chain if each.common_name not in _KEYS]
    if above and not all(each.common_name.startswith(("SEV-", "ARK-")) for each in above):
        return {}
    items = {snp.KEY: keys[0].der} if keys else {}
    above.sort(key=lambda each: each.common_name.startswith("ARK-"))
    if above:
        items[snp.CHAIN] = data if above == list(chain) else b"".join(map(_pem, above))
    return items


def _of_der(data: bytes) -> dict[str, bytes]:
    try:
        certificate = decode_certificate(data)
    except AttestationError:
        return _of_revocations(data)
    if certificate.common_name in _KEYS:
        return {snp.KEY: data}
    return _of_chain(_pem(certificate), (certificate,))


def _of_revocations(data: bytes) -> dict[str, bytes]:
    decode_revocation_list(data)
    if b"Intel" not in data:
        return {snp.REVOKED: data}
    root = intel.INTEL_ANCHOR.encode() in data
    return {"root_ca_crl" if root else "pck_crl": data.hex().encode()}


def _pem(certificate: Certificate) -> bytes:
    body = binascii.b2a_base64(certificate.der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
