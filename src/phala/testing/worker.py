"""What the chain sees of a worker, without its enclave: registrations and signed messages."""

from dataclasses import dataclass, replace

from phala.crypto.signatures import Keypair, sr25519_from_seed, sr25519_sign
from phala.messages.payloads.enclave import (
    EGRESS_BODY,
    EGRESS_VERSION,
    SIGNED_MESSAGE,
    EgressBody,
    EnclaveMessage,
    SignedMessage,
)
from phala.messages.registration import (
    ENCRYPTION_KEY,
    PURPOSE_REGISTER,
    REGISTRATION,
    REGISTRATION_VERSION,
    SIGNED_REGISTRATION,
    EncryptionKey,
    Evidence,
    Manifest,
    Registration,
    SignedRegistration,
    report_data,
)
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.types import Epoch, SealKey, Signature64, WorkerId
from phala.primitives.extrinsic import Extrinsic
from phala.primitives.header import Header
from phala.primitives.types import BlockNumber, Hash
from phala.tee.platform import Platform, ReportData

REGISTER_CALL = bytes([85, 20])
MESSAGE_CALL = bytes([84, 20])


@dataclass(slots=True)
class WorkerKeys:
    """A worker's identity on one chain. `seed` is 32 bytes."""

    seed: bytes
    genesis: Hash
    platform: Platform
    platform_code: int
    runtime_id: Hash
    epoch: int = 1
    sequence: int = 0

    @property
    def pair(self) -> Keypair:
        return sr25519_from_seed(self.seed)

    @property
    def worker(self) -> WorkerId:
        return WorkerId(self.pair.public)

    def manifest(self) -> Manifest:
        return Manifest(
            version=REGISTRATION_VERSION,
            worker=self.worker,
            operator=None,
            genesis=self.genesis,
            software=1,
            runtime_id=self.runtime_id,
            cores=2,
            endpoints=("http://127.0.0.1:8000",),
        )

    def registration(self, bound: Header) -> Registration:
        """A good one, bound to a block."""
        return self.registration_at(bound.number, bound.hash())

    def registration_at(self, height: BlockNumber, block_hash: Hash) -> Registration:
        """The same, of a block that is known by number and hash."""
        manifest = self.manifest()
        data = report_data(PURPOSE_REGISTER, manifest, block_hash, height)
        key = EncryptionKey(
            REGISTRATION_VERSION, self.worker, Epoch(self.epoch), SealKey(bytes([self.epoch]) * 32)
        )
        return Registration(
            version=REGISTRATION_VERSION,
            manifest=manifest,
            height=height,
            block_hash=block_hash,
            evidence=Evidence(self.platform_code, self.platform.quote(ReportData(data))),
            encryption_key=key,
            key_signature=self.sign(Purpose.ENCRYPTION_KEY, ENCRYPTION_KEY.encode(key)),
        )

    def sign(self, purpose: Purpose, body: bytes) -> Signature64:
        return Signature64(sr25519_sign(self.pair, signed_bytes(purpose, self.genesis, body)))

    def signed(self, body: Registration) -> SignedRegistration:
        return SignedRegistration(body, self.sign(Purpose.REGISTRATION, REGISTRATION.encode(body)))

    def register(self, bound: Header) -> bytes:
        """The bare extrinsic of a good registration."""
        return register_extrinsic(self.signed(self.registration(bound)))

    def message(self, message: EnclaveMessage, *, ahead: int = 0) -> SignedMessage:
        """The next message, or the one that follows after `ahead` others."""
        body = EgressBody(EGRESS_VERSION, self.genesis, self.worker, self.sequence + ahead, message)
        return SignedMessage(body, self.sign(Purpose.EGRESS, EGRESS_BODY.encode(body)))

    def say(self, message: EnclaveMessage) -> bytes:
        """The bare extrinsic of the next message, which is counted."""
        signed = self.message(message)
        self.sequence += 1
        return message_extrinsic(signed)

    def as_other_genesis(self, genesis: Hash) -> "WorkerKeys":
        return replace(self, genesis=genesis)


def register_extrinsic(registration: SignedRegistration) -> bytes:
    return Extrinsic(None, REGISTER_CALL + SIGNED_REGISTRATION.encode(registration)).encode()


def message_extrinsic(message: SignedMessage) -> bytes:
    return Extrinsic(None, MESSAGE_CALL + SIGNED_MESSAGE.encode(message)).encode()
