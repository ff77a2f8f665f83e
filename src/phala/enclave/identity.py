"""Who the enclave is: an sr25519 key bound to one chain, and its short-lived encryption keys.

The attested key signs; X25519 keys serve for an epoch each, so that recorded traffic stays closed
when a worker breaks later (DESIGN §4).
"""

from dataclasses import dataclass, replace
from typing import Annotated, Final, Self

from phala.codec import U8
from phala.crypto import hpke
from phala.crypto.secret import Secret
from phala.crypto.signatures import Keypair, sr25519_from_seed, sr25519_sign
from phala.enclave.ports import Entropy
from phala.enclave.records import SECRET32, EpochKey, EpochKeys
from phala.errors import Refused
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.types import Epoch, SealKey, Signature64, WorkerId, scale
from phala.primitives.types import BlockNumber, Hash

IDENTITY_VERSION: Final = 1
IDENTITY_LABEL: Final = b"phala/identity/v1"  # under which a platform seals it
PREVIOUS_BLOCKS: Final = 200  # an old encryption key opens what was sent to it for so long


class OtherChain(Refused):
    """The files of this enclave belong to another chain."""

    def __init__(self, own: Hash, given: Hash) -> None:
        super().__init__(
            f"this identity is bound to the genesis 0x{own.hex()}, not to 0x{given.hex()}",
            mend="start it with the light client of its own chain, or with an empty folder",
        )


@dataclass(frozen=True, slots=True)
class SealedIdentity:
    """What survives a restart where the platform seals."""

    version: Annotated[int, U8]
    genesis: Hash
    seed: Annotated[Secret, SECRET32]
    checkpoint_key: Annotated[Secret, SECRET32]


SEALED_IDENTITY: Final = scale(SealedIdentity)


@dataclass(frozen=True, slots=True)
class Identity:
    """The attested key. `worker` is its public half."""

    genesis: Hash
    pair: Keypair
    checkpoint_key: Secret

    @property
    def worker(self) -> WorkerId:
        return WorkerId(self.pair.public)

    def sign(self, purpose: Purpose, body: bytes) -> Signature64:
        return Signature64(sr25519_sign(self.pair, signed_bytes(purpose, self.genesis, body)))

    @classmethod
    def generate(cls, genesis: Hash, entropy: Entropy) -> tuple[Self, bytes]:
        """A new identity, and the plaintext that the platform is to seal."""
        sealed = SealedIdentity(
            IDENTITY_VERSION,
            genesis,
            Secret(entropy.random_bytes(32)),
            Secret(entropy.random_bytes(32)),
        )
        return cls._of(sealed), SEALED_IDENTITY.encode(sealed)

    @classmethod
    def restore(cls, plaintext: bytes, genesis: Hash) -> Self:
        """The identity that was sealed.

        Raises:
            Invalid: these are no identity's bytes.
            OtherChain: it was made for another chain.
        """
        sealed = SEALED_IDENTITY.decode(plaintext)
        if sealed.genesis != genesis:
            raise OtherChain(sealed.genesis, genesis)
        return cls._of(sealed)

    @classmethod
    def _of(cls, sealed: SealedIdentity) -> Self:
        return cls(sealed.genesis, sr25519_from_seed(sealed.seed.reveal()), sealed.checkpoint_key)


def new_key(epoch: Epoch, entropy: Entropy) -> EpochKey:
    secret = Secret(entropy.random_bytes(hpke.KEY_BYTES))
    return EpochKey(epoch, SealKey(hpke.public_of(secret)), secret)


def offered(keys: EpochKeys, chain_epoch: Epoch, entropy: Entropy) -> EpochKeys:
    """With a `pending` key for the next registration; one that waits already is offered again."""
    if keys.pending is not None and keys.pending.epoch > chain_epoch:
        return keys
    own = keys.current.epoch if keys.current else 0
    return replace(keys, pending=new_key(Epoch(max(own, chain_epoch) + 1), entropy))


def accepted(keys: EpochKeys, public: SealKey, height: BlockNumber) -> EpochKeys:
    """After the chain lists `public` as this worker's key; old keys are forgotten in time."""
    if keys.pending is not None and keys.pending.public == public:
        return EpochKeys(
            current=keys.pending,
            previous=keys.current,
            previous_until=BlockNumber(height + PREVIOUS_BLOCKS),
            pending=None,
        )
    if keys.previous is not None and height > keys.previous_until:
        return replace(keys, previous=None)
    return keys


def key_of(keys: EpochKeys, epoch: Epoch) -> EpochKey | None:
    for key in (keys.current, keys.previous, keys.pending):
        if key is not None and key.epoch == epoch:
            return key
    return None
