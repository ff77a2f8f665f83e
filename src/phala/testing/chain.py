"""A chain in memory, for whatever needs one: the real runtime, no node, no disk."""

from collections.abc import Sequence

from phala.crypto.signatures import Keypair, sr25519_sign
from phala.primitives.address import MultiAddress, MultiSignature
from phala.primitives.extrinsic import IMMORTAL, Era, Extrinsic, Signature, signing_payload
from phala.primitives.header import Header
from phala.primitives.types import AccountId, Balance, Hash, Moment
from phala.runtime import Applied, BlockBuilder, Changes, GenesisConfig, Runtime, Sealed, Validator
from phala.trie import DictBase, Layout, State, Trie

BLOCK_MS = 1_000
START = Moment(1_800_000_000_000)  # 2027-01-15, as good as any


class MemoryChain:
    """Blocks one after the other, each kept whole."""

    def __init__(self, config: GenesisConfig, runtime: Runtime | None = None) -> None:
        self.runtime = runtime or Runtime()
        self.pairs = self.runtime.genesis(config)
        self.trie = Trie.build(sorted(self.pairs.items()), Layout.V1)
        self.header = self.runtime.genesis_header(self.trie.root)
        self.genesis = self.header.hash()
        self.blocks: list[Sealed] = []
        self.messages: dict[bytes, list[bytes]] = {}  # bodies of each topic, in order
        self.now = START

    def state(self) -> State:
        """A fresh overlay over the latest block's state."""
        return State(DictBase(self.pairs))

    def open(self) -> BlockBuilder:
        """The next block, its time set."""
        builder = self.runtime.open_block(self.state(), self.header)
        self.now = Moment(self.now + BLOCK_MS)
        for extrinsic in builder.inherents(self.now):
            builder.apply(extrinsic)
        return builder

    def close(self, builder: BlockBuilder) -> Sealed:
        made: list[Trie] = []

        def root_of(changes: Changes) -> Hash:
            made.append(self.trie.update(changes, DictBase(self.pairs)))
            return made[0].root

        sealed = builder.seal(root_of)
        (self.trie,) = made
        for key, value in sealed.changes:
            if value is None:
                del self.pairs[key]
            else:
                self.pairs[key] = value
        for message in sealed.messages:
            bodies = self.messages.setdefault(message.topic, [])
            assert len(bodies) == message.count, "messages of a topic are numbered without a gap"
            bodies.append(message.envelope)
        self.header = sealed.header
        self.blocks.append(sealed)
        return sealed

    def block(self, *extrinsics: bytes) -> list[Applied]:
        """One more block of these extrinsics. Raises `InvalidTransaction`; then there is none."""
        builder = self.open()
        applied = [builder.apply(extrinsic) for extrinsic in extrinsics]
        self.close(builder)
        return applied

    def prove(self, keys: Sequence[bytes]) -> tuple[bytes, ...]:
        """Nodes that show what the latest state holds under `keys`."""
        return self.trie.prove(keys, DictBase(self.pairs))

    def validator(self) -> Validator:
        return self.runtime.validator(self.state(), self.header)

    def signed(
        self,
        pair: Keypair,
        call: bytes,
        nonce: int,
        *,
        tip: int = 0,
        era: Era = IMMORTAL,
        birth: Header | None = None,
    ) -> bytes:
        """An extrinsic of an sr25519 account."""
        version = self.runtime.version
        unsigned = Signature(
            MultiAddress.of(AccountId(pair.public)),
            MultiSignature(1, bytes(64)),
            era,
            nonce,
            Balance(tip),
        )
        payload = signing_payload(
            call,
            unsigned.extra(),
            spec_version=version.spec_version,
            transaction_version=version.transaction_version,
            genesis=self.genesis,
            birth_hash=self.genesis if birth is None else birth.hash(),
        )
        by = Signature(
            unsigned.signer,
            MultiSignature(1, sr25519_sign(pair, payload)),
            era,
            nonce,
            Balance(tip),
        )
        return Extrinsic(by, call).encode()
