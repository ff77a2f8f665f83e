"""Intel SGX under Gramine: quotes and keys through the files in /dev/attestation.

Source: Gramine, Attestation and Secret Provisioning. The files are the process's: report data that
one thread writes is in the quote that another one reads. So one lock is held over both, and the
quote is read for what it says.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from phala.errors import Refused
from phala.tee.evidence import EvidenceUnknown, NotOurs, check_ours, check_report_data
from phala.tee.ops import Ops, explained, read_whole
from phala.tee.platform import ReportData
from phala.tee.sealing import Sealer

ATTESTATION: Final = Path("/dev/attestation")
TYPE: Final = "attestation_type"

_QUOTE_BYTES_MAX: Final = 32 * 1024
_WORD_BYTES_MAX: Final = 4096
_KEY_BYTES: Final = 16
_ATTEMPTS_MAX: Final = 3
# Intel SGX ECDSA Quote Library API, appendix A.4: a header of 48 bytes, then the enclave's report.
_VERSION: Final = 3
_MRENCLAVE, _MRSIGNER, _REPORT_DATA, _REPORT_END = 48 + 64, 48 + 128, 48 + 320, 48 + 384
_LOCK: Final = threading.Lock()  # the files are the process's, however many platforms it makes

T = TypeVar("T")


class GraminePlatform:
    """An SGX enclave.

    It seals for its exact code (MRENCLAVE) at the machine's present microcode: after an update of
    either nothing opens, and nothing tells an old sealed file from the newest.
    """

    word = "sgx"
    seals = True

    def __init__(self, ops: Ops, *, root: Path = ATTESTATION) -> None:
        self._ops = ops
        self._root = root
        self._measurements: Mapping[str, bytes] | None = None

    def quote(self, report_data: ReportData) -> bytes:
        check_report_data(report_data)
        attempt = 1
        while True:
            quote = self._asked(report_data)
            try:
                check_ours(quote[_REPORT_DATA:_REPORT_END], report_data, self.word)
            except NotOurs:
                if attempt == _ATTEMPTS_MAX:
                    raise
                attempt += 1
                continue
            self._measurements = MappingProxyType(
                {
                    "mrenclave": quote[_MRENCLAVE : _MRENCLAVE + 32],
                    "mrsigner": quote[_MRSIGNER : _MRSIGNER + 32],
                }
            )
            return quote

    @property
    def measurements(self) -> Mapping[str, bytes]:
        if self._measurements is None:
            self.quote(ReportData(bytes(64)))
        assert self._measurements is not None
        return self._measurements

    def seal(self, plaintext: bytes, *, label: bytes) -> bytes:
        return self._sealer().seal(plaintext, label=label)

    def unseal(self, sealed: bytes, *, label: bytes) -> bytes:
        return self._sealer().unseal(sealed, label=label)

    def _asked(self, report_data: ReportData) -> bytes:
        word = self._read(TYPE, _WORD_BYTES_MAX).decode("ascii", "replace").strip()
        if word != "dcap":
            raise AttestationOff(word)
        target = self._root / "user_report_data"
        with _LOCK:
            _told(target, lambda: self._ops.write(target, report_data))
            quote = self._read("quote", _QUOTE_BYTES_MAX)
        if int.from_bytes(quote[:2], "little") != _VERSION or len(quote) < _REPORT_END:
            raise EvidenceUnknown(
                f"{len(quote)} bytes that begin with {quote[:8].hex()} are no SGX quote of"
                f" version {_VERSION}",
                mend="have the host run Intel's AESM service with its DCAP quote provider",
            )
        return quote

    def _sealer(self) -> Sealer:
        """The key is not the enclave's own as it is: Gramine encrypts files with that one."""
        key = self._read("keys/_sgx_mrenclave", _WORD_BYTES_MAX)
        if len(key) != _KEY_BYTES:
            raise SealingKeyAbsent(len(key))
        return Sealer(hashlib.sha256(b"phala sealing, of mrenclave" + key).digest())

    def _read(self, name: str, size_max: int) -> bytes:
        path = self._root / name
        return _told(path, lambda: read_whole(self._ops, path, size_max=size_max))


def _told(path: Path, act: Callable[[], T]) -> T:
    try:
        return act()
    except OSError as error:
        raise explained(error, path) from error


class AttestationOff(Refused):
    """Gramine runs without remote attestation."""

    def __init__(self, word: str) -> None:
        super().__init__(
            f"Gramine's attestation type is {word!r}, not 'dcap'",
            mend='set sgx.remote_attestation = "dcap" in the manifest, sign it, run gramine-sgx',
        )


class SealingKeyAbsent(Refused):
    """Gramine gives no sealing key."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"Gramine's key _sgx_mrenclave has {size} bytes, not {_KEY_BYTES}",
            mend="run the enclave with gramine-sgx: gramine-direct has no such key",
        )
