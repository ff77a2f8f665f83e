"""Keys of a cluster and of its contracts: all from one secret of one generation, by HKDF."""

from typing import Final

from phala.crypto import bls, hpke, kdf
from phala.crypto.secret import Secret
from phala.crypto.signatures import Keypair, sr25519_from_seed
from phala.messages.payloads.cluster import key_message
from phala.messages.types import ClusterId, ContractId, Count, Generation, SealKey
from phala.primitives.types import Hash

# Each derived key has a name of its own; they are wire format, for replicas must agree.
CLUSTER: Final = b"phala/cluster-key/v1"
ROOT: Final = b"phala/cluster/root/v1"
COMMAND: Final = b"phala/contract/command/v1"
SIGNING: Final = b"phala/contract/signing/v1"
RANDOM: Final = b"phala/contract/random/v1"


def cluster_key(
    combined: Secret, genesis: Hash, cluster: ClusterId, generation: Generation
) -> Secret:
    return kdf.derive(combined, CLUSTER, genesis, cluster, generation.to_bytes(4, "little"))


def verify_combined(
    group_public: bytes,
    genesis: Hash,
    cluster: ClusterId,
    generation: Generation,
    combined: Secret,
    index: int = 0,
) -> None:
    """Raises `bls.BadPartial`: the group did not sign this cluster's generation."""
    message = key_message(genesis, group_public, cluster, generation)
    bls.verify_partial(group_public, message, combined.reveal(), index=index)


def command_secret(cluster: Secret, contract: ContractId) -> Secret:
    return kdf.derive(cluster, COMMAND, contract)


def command_public(cluster: Secret, contract: ContractId) -> SealKey:
    return SealKey(hpke.public_of(command_secret(cluster, contract)))


def signing_pair(cluster: Secret, contract: ContractId) -> Keypair:
    return sr25519_from_seed(kdf.derive(cluster, SIGNING, contract).reveal())


def seed(cluster: Secret, contract: ContractId, count: Count, head: Hash) -> bytes:
    """A call's randomness: known to replicas, to nobody before the chain has ordered the call."""
    return kdf.derive(cluster, RANDOM, contract, count.to_bytes(8, "little"), head).reveal()


def root_key(cluster: Secret) -> Secret:
    return kdf.derive(cluster, ROOT)


def root_mac(root: Secret, count: Count, state_root: Hash) -> bytes:
    """A bare root would let anyone test guesses of what is in the state."""
    return kdf.mac(root, count.to_bytes(8, "little") + state_root)
