"""A node's folder with a chain in it: real blocks, transfers and messages, justified in order."""

from dataclasses import dataclass, field
from pathlib import Path

from phala.codec import Compact
from phala.crypto.signatures import Keypair, ed25519_from_seed, ed25519_sign
from phala.finality import JUSTIFICATION, Justification, Precommit, SetId, signed_precommit
from phala.node.chain import Chain
from phala.node.runtimes.table import Runtimes
from phala.node.spec import ChainSpec, ensure_begun, read_chain_spec
from phala.node.store import Store
from phala.node.writer import Writer
from phala.primitives.address import MULTI_ADDRESS, MultiAddress
from phala.primitives.extrinsic import SIGNED_EXTENSIONS
from phala.primitives.types import BALANCE, PHA, AccountId, Balance, BlockNumber, Hash, Moment
from phala.runtime import GenesisConfig, Runtime
from phala.sdk.extrinsic import Terms, sign_extrinsic
from phala.sdk.keyring import dev_pair
from phala.tee.simulated_key import SimulatedKey

AUTHORITY = ed25519_from_seed(b"a" * 32)
CONFIG = GenesisConfig.dev(
    authority=AUTHORITY.public,
    simulated_root=SimulatedKey(b"\1" * 32, b"\2" * 32).public_root,
    measurement=b"m" * 48,
    runtime_id=Hash(b"r" * 32),
)
SPEC = read_chain_spec(CONFIG.to_json())
RUNTIME = Runtime()
START = 1_800_000_000_000
SET_ID = SetId(0)


def signed(
    genesis: Hash, who: str, nonce: int, call: bytes, *, spec_version: int | None = None
) -> bytes:
    version = RUNTIME.version
    terms = Terms(
        nonce=nonce,
        tip=0,
        mortality=None,
        genesis=genesis,
        spec_version=version.spec_version if spec_version is None else spec_version,
        transaction_version=version.transaction_version,
    )
    return sign_extrinsic(call, dev_pair(who), SIGNED_EXTENSIONS, terms)


def transfer(dest: bytes, amount: int) -> bytes:
    to = MULTI_ADDRESS.encode(MultiAddress.of(AccountId(dest)))
    return bytes([5, 3]) + to + Compact(BALANCE).encode(Balance(amount))


def justify(
    header_hash: Hash, number: int, key: Keypair = AUTHORITY, set_id: SetId = SET_ID
) -> bytes:
    round_ = number + 1
    message = signed_precommit(BlockNumber(number), header_hash, round_, set_id)
    vote = Precommit(header_hash, BlockNumber(number), ed25519_sign(key, message), key.public)
    return JUSTIFICATION.encode(Justification(round_, header_hash, BlockNumber(number), (vote,)))


@dataclass
class Grower:
    """Writes blocks on a store's head; each is finalized when the next one stands."""

    chain: Chain
    runtimes: Runtimes = field(default_factory=lambda: Runtimes(RUNTIME))
    nonce: int = 0
    spec_version: int = 1
    key: Keypair = AUTHORITY

    def block(self, *extrinsics: bytes) -> None:
        chain, writer = self.chain, Writer(self.chain, self.runtimes)
        before = chain.head
        writer.open(Moment(START + 1_000 * before.number))
        for each in extrinsics:
            writer.apply(each)
        writer.seal(self.key)
        if before.number > chain.finalized:
            writer.finalize(before.number, self.key)

    def signed(self, call: bytes) -> bytes:
        found = signed(
            self.chain.genesis, "Alice", self.nonce, call, spec_version=self.spec_version
        )
        self.nonce += 1
        return found

    def transfers(self, count: int) -> list[bytes]:
        dest = bytes([self.nonce % 251]) * 32
        return [self.signed(transfer(dest, PHA + self.nonce)) for _ in range(count)]


def grow(
    folder: Path,
    blocks: int,
    *,
    spec: ChainSpec = SPEC,
    key: Keypair = AUTHORITY,
    archive: bool = False,
    each: int = 2,
) -> Store:
    """A store of so many blocks; the head alone is not finalized."""
    store = Store(folder / "db")
    try:
        ensure_begun(store, spec, RUNTIME)
        grower = Grower(Chain(store, archive=archive), key=key)
        for _ in range(blocks):
            grower.block(*grower.transfers(each))
    except BaseException:
        store.close()
        raise
    return store
