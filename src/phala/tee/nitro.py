"""AWS Nitro Enclaves: documents of the security module behind /dev/nsm.

Source: AWS, Nitro Secure Module API; Linux, drivers/misc/nsm.c. A message is one item of CBOR, a
map of the request's name to its fields; so is the answer.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from phala.attest import cbor
from phala.attest.errors import EvidenceMalformed
from phala.tee.evidence import EvidenceUnknown, check_ours, check_report_data, seals_nothing
from phala.tee.ops import InterfaceFailed, Ops, explained
from phala.tee.platform import ReportData

DEVICE: Final = Path("/dev/nsm")
ANSWER_BYTES_MAX: Final = 0x3000  # NSM_RESPONSE_MAX_SIZE
_CODE_PCRS: Final = ("pcr0", "pcr1", "pcr2")


class NitroPlatform:
    """An enclave of AWS's. It has no key of its own to seal with: each boot is a new identity."""

    word = "nitro"
    seals = False

    def __init__(self, ops: Ops, *, device: Path = DEVICE) -> None:
        self._ops = ops
        self._device = device
        self._measurements: Mapping[str, bytes] | None = None

    def quote(self, report_data: ReportData) -> bytes:
        """The signed document, with the report data as its `user_data`."""
        check_report_data(report_data)
        document = self._asked(report_data)
        fields = _payload(document)
        check_ours(fields["user_data"], report_data, self.word)
        self._measurements = MappingProxyType(
            {f"pcr{index}": fields["pcrs"][index] for index in sorted(fields["pcrs"])}
        )
        return document

    @property
    def measurements(self) -> Mapping[str, bytes]:
        """PCR 0 to 2 are the image, its kernel and its application; others are of the parent."""
        if self._measurements is None:
            self.quote(ReportData(bytes(64)))
        assert self._measurements is not None
        return MappingProxyType(
            {name: value for name, value in self._measurements.items() if name in _CODE_PCRS}
        )

    def seal(self, plaintext: bytes, *, label: bytes) -> bytes:  # noqa: ARG002 - the Protocol's
        seals_nothing(self.word)

    def unseal(self, sealed: bytes, *, label: bytes) -> bytes:  # noqa: ARG002 - the Protocol's
        seals_nothing(self.word)

    def _asked(self, report_data: ReportData) -> bytes:
        request = attestation_request(report_data)
        try:
            answer = self._ops.exchange(self._device, request, size_max=ANSWER_BYTES_MAX)
        except OSError as error:
            raise explained(error, self._device) from error
        item = _read(answer)
        if isinstance(item, dict) and isinstance(item.get("Error"), str):
            raise InterfaceFailed(
                f"{self._device} answers {item['Error']}", mend="ask again in some seconds"
            )
        document = item.get("Attestation") if isinstance(item, dict) else None
        document = document.get("document") if isinstance(document, dict) else None
        if not isinstance(document, bytes):
            raise EvidenceUnknown(
                f"{self._device} answers {len(answer)} bytes that hold no document",
                mend="update the enclave's image: its module speaks another version",
            )
        return document


def attestation_request(user_data: bytes) -> bytes:
    """`{"Attestation": {"user_data": ..., "nonce": null, "public_key": null}}`."""
    fields = (
        _text("user_data") + cbor.encode_bytes(user_data),
        _text("nonce") + b"\xf6",
        _text("public_key") + b"\xf6",
    )
    return b"\xa1" + _text("Attestation") + b"\xa3" + b"".join(fields)


def _text(word: str) -> bytes:
    assert len(word) < 24
    return bytes([0x60 | len(word)]) + word.encode()


def _payload(document: bytes) -> dict[str, Any]:
    """What the document says; whether that is true is a verifier's to judge."""
    message = _read(document)
    payload = _read(message[2]) if isinstance(message, list) and len(message) == 4 else None
    if not isinstance(payload, dict) or not isinstance(payload.get("pcrs"), dict):
        raise EvidenceUnknown(
            f"{len(document)} bytes are no attestation document",
            mend="update the enclave's image: its module speaks another version",
        )
    return {**payload, "user_data": payload.get("user_data") or b""}


def _read(data: Any) -> Any:
    try:
        return cbor.decode(data, tag=cbor.COSE_SIGN1) if isinstance(data, bytes) else None
    except EvidenceMalformed:
        return None
