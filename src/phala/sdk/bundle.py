"""A receipt with everything that proves it, as one file of JSON with parts in hex.

Whoever has the file, the genesis hash and the vendors' roots checks it offline (`sdk.verify`). It
holds the call's plaintext: give it only to whom you would tell the call itself.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from phala.attest.verify import COLLATERAL_BYTES_MAX, COLLATERAL_ITEMS_MAX, EVIDENCE_BYTES_MAX
from phala.codec import Descriptor, Malformed
from phala.errors import Invalid
from phala.messages.calls import SEALED_QUERY_BYTES_MAX
from phala.messages.host import (
    FEED_HEADERS_MAX,
    HEADER_BYTES_MAX,
    JUSTIFICATION_BYTES_MAX,
    PROOF_NODE_BYTES_MAX,
    FinalizedHeader,
)
from phala.messages.receipts import RECEIPT, SignedReceipt
from phala.messages.registration import (
    ENCRYPTION_KEY,
    MANIFEST,
    REGISTRATION_VERSION,
    Evidence,
    Registration,
    SignedRegistration,
)
from phala.messages.types import Signature64
from phala.primitives.types import BlockNumber, Hash

T = TypeVar("T")

FORMAT: Final = "phala-receipt/1"
BUNDLE_BYTES_MAX: Final = 16 * 1024 * 1024
_SMALL_BYTES_MAX: Final = 4096  # manifest, key, receipt: each under 2 KB
PROOF_NODES_MAX: Final = 256  # seven keys, a path of at most some twenty nodes each
_NAME_CHARACTERS_MAX: Final = 64


class BundleMalformed(Invalid):
    """The bytes are no receipt bundle; `part` is where."""

    def __init__(self, part: str, what: str) -> None:
        super().__init__(
            f"the bundle's {part}: {what}", mend="give the file as `--receipt` wrote it"
        )
        self.part = part


@dataclass(frozen=True, slots=True)
class Bundle:
    """One call: what was asked and answered, the receipt, and why to believe it."""

    receipt: SignedReceipt
    request: bytes  # plaintext: SCALE SignedQuery or CommandRequest, a deployment's arguments
    response: bytes  # plaintext: SCALE Outcome
    blinder: bytes  # hides both in the receipt; came in the encrypted reply
    registration: SignedRegistration
    genesis_header: bytes  # SCALE
    genesis_proof: tuple[bytes, ...]  # of `Grandpa.Authorities` in the genesis state
    headers: tuple[FinalizedHeader, ...]  # changes of authorities, then the block of `proof`
    proof: tuple[bytes, ...]  # of `sdk.verify.proven_keys` in the last header's state
    collateral: Mapping[str, bytes] = field(default_factory=dict)

    def encode(self) -> bytes:
        body = self.registration.body
        document = {
            "format": FORMAT,
            "receipt": {
                "body": RECEIPT.encode(self.receipt.body).hex(),
                "signature": self.receipt.signature.hex(),
            },
            "call": {
                "request": self.request.hex(),
                "response": self.response.hex(),
                "blinder": self.blinder.hex(),
            },
            "registration": {
                "manifest": MANIFEST.encode(body.manifest).hex(),
                "height": body.height,
                "blockHash": body.block_hash.hex(),
                "platform": body.evidence.platform,
                "evidence": body.evidence.blob.hex(),
                "encryptionKey": ENCRYPTION_KEY.encode(body.encryption_key).hex(),
                "keySignature": body.key_signature.hex(),
                "signature": self.registration.signature.hex(),
            },
            "collateral": {name: item.hex() for name, item in sorted(self.collateral.items())},
            "genesis": {
                "header": self.genesis_header.hex(),
                "proof": [node.hex() for node in self.genesis_proof],
            },
            "headers": [
                {"header": each.header.hex(), "justification": each.justification.hex()}
                for each in self.headers
            ],
            "proof": [node.hex() for node in self.proof],
        }
        return json.dumps(document, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> "Bundle":
        """The bundle that these bytes are, its parts parsed and none of them believed.

        Raises:
            BundleMalformed: naming the part that is not of its form.
        """
        if len(data) > BUNDLE_BYTES_MAX:
            raise BundleMalformed("file", f"more than {BUNDLE_BYTES_MAX} bytes")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            raise BundleMalformed("file", "it is not JSON") from None
        top = _Part("", document)
        if top.take("format") != FORMAT:
            raise BundleMalformed("format", f"it is not {FORMAT!r}")
        receipt, call, genesis = top.part("receipt"), top.part("call"), top.part("genesis")
        bundle = cls(
            receipt=SignedReceipt(
                receipt.scale("body", RECEIPT), Signature64(receipt.hex("signature", 64, 64))
            ),
            request=call.hex("request", SEALED_QUERY_BYTES_MAX),
            response=call.hex("response", SEALED_QUERY_BYTES_MAX),
            blinder=call.hex("blinder", 32, 32),
            registration=_registration(top.part("registration")),
            genesis_header=genesis.hex("header", HEADER_BYTES_MAX),
            genesis_proof=genesis.proof("proof"),
            headers=_headers(top),
            proof=top.proof("proof"),
            collateral=_collateral(top.part("collateral")),
        )
        for part in (top, receipt, call, genesis):
            part.finish()
        return bundle


def load_bundle(path: Path) -> Bundle:
    """The bundle of a file, or `BundleMalformed`."""
    try:
        with path.open("rb") as file:
            data = file.read(BUNDLE_BYTES_MAX + 1)
    except OSError as error:
        raise BundleMalformed("file", f"{path}: {error.strerror}") from None
    return Bundle.decode(data)


def _registration(part: "_Part") -> SignedRegistration:
    signed = SignedRegistration(
        Registration(
            version=REGISTRATION_VERSION,
            manifest=part.scale("manifest", MANIFEST),
            height=BlockNumber(part.number("height", 2**32 - 1)),
            block_hash=Hash(part.hex("blockHash", 32, 32)),
            evidence=Evidence(
                part.number("platform", 255), part.hex("evidence", EVIDENCE_BYTES_MAX)
            ),
            encryption_key=part.scale("encryptionKey", ENCRYPTION_KEY),
            key_signature=Signature64(part.hex("keySignature", 64, 64)),
        ),
        Signature64(part.hex("signature", 64, 64)),
    )
    part.finish()
    return signed


def _headers(top: "_Part") -> tuple[FinalizedHeader, ...]:
    headers = []
    for index, item in enumerate(top.items("headers", FEED_HEADERS_MAX)):
        part = _Part(f"headers[{index}]", item)
        headers.append(
            FinalizedHeader(
                part.hex("header", HEADER_BYTES_MAX),
                part.hex("justification", JUSTIFICATION_BYTES_MAX),
            )
        )
        part.finish()
    return tuple(headers)


def _collateral(part: "_Part") -> dict[str, bytes]:
    names = sorted(part.fields)
    if len(names) > COLLATERAL_ITEMS_MAX or any(len(name) > _NAME_CHARACTERS_MAX for name in names):
        raise BundleMalformed(
            "collateral", f"more than {COLLATERAL_ITEMS_MAX} items, or long names"
        )
    return {name: part.hex(name, COLLATERAL_BYTES_MAX) for name in names}


class _Part:
    """An object of the document; each field is taken once, and none is left."""

    def __init__(self, name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise BundleMalformed(name or "file", "it is no object")
        self.name = name
        self.fields: dict[str, Any] = dict(value)

    def path(self, field: str) -> str:
        return f"{self.name}.{field}" if self.name else field

    def take(self, field: str) -> Any:
        if field not in self.fields:
            raise BundleMalformed(self.path(field), "it is missing")
        return self.fields.pop(field)

    def finish(self) -> None:
        if self.fields:
            raise BundleMalformed(self.path(min(self.fields)), "no such field is known")

    def part(self, field: str) -> "_Part":
        return _Part(self.path(field), self.take(field))

    def number(self, field: str, number_max: int) -> int:
        value = self.take(field)
        if type(value) is not int or not 0 <= value <= number_max:
            raise BundleMalformed(self.path(field), f"it is no whole number up to {number_max}")
        return value

    def hex(self, field: str, bytes_max: int, bytes_min: int = 0) -> bytes:
        return _bytes(self.path(field), self.take(field), bytes_max, bytes_min)

    def items(self, field: str, items_max: int) -> list[Any]:
        value = self.take(field)
        if not isinstance(value, list) or len(value) > items_max:
            raise BundleMalformed(self.path(field), f"it is no list of at most {items_max} items")
        return value

    def proof(self, field: str) -> tuple[bytes, ...]:
        return tuple(
            _bytes(f"{self.path(field)}[{index}]", item, PROOF_NODE_BYTES_MAX)
            for index, item in enumerate(self.items(field, PROOF_NODES_MAX))
        )

    def scale(self, field: str, descriptor: Descriptor[T]) -> T:
        data = self.hex(field, _SMALL_BYTES_MAX)
        try:
            return descriptor.decode(data)
        except Malformed as error:
            raise BundleMalformed(self.path(field), error.what) from None


def _bytes(path: str, value: Any, bytes_max: int, bytes_min: int = 0) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * bytes_max:
        raise BundleMalformed(path, f"it is no hex of at most {bytes_max} bytes")
    try:
        data = bytes.fromhex(value)
    except ValueError:
        raise BundleMalformed(path, "it is not hex") from None
    if 2 * len(data) != len(value):  # blanks between digits
        raise BundleMalformed(path, "it is not hex alone")
    if len(data) < bytes_min:
        raise BundleMalformed(path, f"it has {len(data)} bytes, not {bytes_min}")
    return data
