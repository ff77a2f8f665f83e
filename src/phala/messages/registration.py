"""How a worker asks to be registered: evidence that binds its key, and its first encryption key."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import U8, U16, U32, Bytes, Descriptor, Option, Text, Vector
from phala.crypto.hashes import blake2_256
from phala.messages.types import Epoch, SealKey, Signature64, WorkerId, scale
from phala.primitives.types import ACCOUNT_ID, HASH, AccountId, BlockNumber, Hash

REGISTRATION_VERSION: Final = 1
EVIDENCE_BYTES_MAX: Final = 16 * 1024  # attest.verify has the same, and judges no more
MEASUREMENT_BYTES_MAX: Final = 64
DEVICES_MAX: Final = 8  # GPUs of one worker
DEVICE_CHAIN_BYTES_MAX: Final = 16 * 1024
MANIFESTS_MAX: Final = 2  # a driver's and a VBIOS's

PURPOSE_REGISTER: Final = b"register"  # others: key-release, ra-tls, user (reference/tee.md §5.1)

# Numeric codes, for state holds no library's words. 1 sgx, 2 tdx, 3 sev-snp, 4 nitro.
PLATFORM_SIMULATED: Final = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the worker says of itself; its hash is bound into the evidence."""

    version: Annotated[int, U8]
    worker: WorkerId
    operator: Annotated[AccountId | None, Option(ACCOUNT_ID)]
    genesis: Hash
    software: Annotated[int, U32]  # major << 16 | minor << 8 | patch
    runtime_id: Hash  # of the module that runs `py-source`
    cores: Annotated[int, U16]
    endpoints: Annotated[tuple[str, ...], Vector(Text(bytes_max=256), items_max=4)]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A vendor's evidence, not yet judged (`attest.verify` does)."""

    platform: Annotated[int, U8]
    blob: Annotated[bytes, Bytes(bytes_max=EVIDENCE_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Device:
    """Evidence of a GPU or switch that serves the worker: its report, made for `device_nonce`."""

    report: Annotated[bytes, Bytes(bytes_max=EVIDENCE_BYTES_MAX)]
    chain: Annotated[bytes, Bytes(bytes_max=DEVICE_CHAIN_BYTES_MAX)]  # its certificates, PEM
    # SHA-256 of the vendor's manifests that it is held against, of those that the chain keeps.
    manifests: Annotated[tuple[Hash, ...], Vector(HASH, items_max=MANIFESTS_MAX)]


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A short-lived key of a worker, signed under `Purpose.ENCRYPTION_KEY`; queries and partials
    are encrypted to it."""

    version: Annotated[int, U8]
    worker: WorkerId
    epoch: Epoch
    public: SealKey


@dataclass(frozen=True, slots=True)
class Registration:
    """The argument of `PhalaRegistry.register_enclave`, signed whole under `REGISTRATION`."""

    version: Annotated[int, U8]
    manifest: Manifest
    height: BlockNumber  # a finalized block that the evidence binds: not older than the window
    block_hash: Hash
    evidence: Evidence
    encryption_key: EncryptionKey
    key_signature: Signature64
    # Their digest is bound into the evidence: nobody's GPU can be put beside somebody's CPU.
    devices: Annotated[tuple[Device, ...], Vector(scale(Device), items_max=DEVICES_MAX)] = ()


@dataclass(frozen=True, slots=True)
class SignedRegistration:
    body: Registration
    signature: Signature64


MANIFEST: Final[Descriptor[Manifest]] = scale(Manifest)
EVIDENCE: Final[Descriptor[Evidence]] = scale(Evidence)
ENCRYPTION_KEY: Final[Descriptor[EncryptionKey]] = scale(EncryptionKey)
REGISTRATION: Final[Descriptor[Registration]] = scale(Registration)
SIGNED_REGISTRATION: Final[Descriptor[SignedRegistration]] = scale(SignedRegistration)


def manifest_hash(manifest: Manifest) -> Hash:
    return Hash(blake2_256(MANIFEST.encode(manifest)))


DEVICES: Final = Vector(scale(Device), items_max=DEVICES_MAX)


def devices_digest(devices: tuple[Device, ...]) -> bytes:
    """What report data binds of devices' evidence: SHA-256 of it, or nothing where there is none.

    Source: reference/tee.md §3.4, §5.1.
    """
    return hashlib.sha256(DEVICES.encode(devices)).digest() if devices else b""


def device_nonce(worker: WorkerId, block_hash: Hash) -> bytes:
    """What a device's report must have been asked with, for a worker and the block it binds."""
    return hashlib.sha256(b"phala/device-nonce/v1" + worker + block_hash).digest()


def report_data(
    purpose: bytes, manifest: Manifest, block_hash: Hash, height: BlockNumber, gpu: bytes = b""
) -> bytes:
    """The 64 bytes that evidence must carry.

    SHA-512 over length-prefixed (u32, little-endian) parts, then the height as u64.
    Source: DESIGN §4, reference/tee.md §5.1.
    """
    parts = (
        b"phala/tee-report/v1",
        purpose,
        manifest.genesis,
        manifest.worker,
        manifest.operator or b"",
        manifest_hash(manifest),
        gpu,
        block_hash,
    )
    prefixed = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return hashlib.sha512(prefixed + height.to_bytes(8, "little")).digest()
