"""A chain's spec on disk, and the files by which others start to follow the chain.

A spec says what block 0 is, in one of two ways: a `GenesisConfig`, of which this release makes a
state; or the state itself, as Substrate's raw specs do (`genesis.raw.top`), which any release reads
alike. Either may name the hash that block 0 must have (`genesisHash`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from phala.codec import Malformed
from phala.crypto.hashes import blake2_256
from phala.errors import Invalid, Refused
from phala.finality import AUTHORITIES, AUTHORITIES_KEY, Authority
from phala.node.store import Store
from phala.primitives.header import HEADER, Header
from phala.primitives.types import Hash
from phala.runtime import GenesisConfig, Runtime
from phala.trie import DictBase, Layout, Trie

SPEC_BYTES_MAX: Final = 1024 * 1024 * 1024  # a raw spec holds a whole state
CONFIG_BYTES_MAX: Final = 16 * 1024 * 1024  # one without a raw state
KEY_BYTES_MAX: Final = 511  # what the store takes


class OtherGenesis(Refused):
    """Block 0 is another than the spec says."""


@dataclass(frozen=True, slots=True)
class Genesis:
    """Block 0 of a spec."""

    header: Header
    state: dict[bytes, bytes]  # sorted by key
    authorities: tuple[Authority, ...]
    authorities_proof: tuple[bytes, ...]

    @property
    def hash(self) -> Hash:
        return self.header.hash()


@dataclass(frozen=True, slots=True)
class ChainSpec:
    """What a spec says, with block 0 in one of its two forms."""

    name: str  # for people
    id: str
    chain_type: str  # "Development", "Local" or "Live"
    document: dict[str, Any]  # as it was read, for what is not ours to judge
    config: GenesisConfig | None
    top: dict[bytes, bytes] | None  # the state of block 0, sorted by key
    genesis_hash: Hash | None

    @property
    def digest(self) -> bytes:
        """32 bytes: tells the same document from another, whatever its spaces are."""
        text = json.dumps(self.document, sort_keys=True, separators=(",", ":"))
        return blake2_256(text.encode())

    def genesis(self, runtime: Runtime) -> Genesis:
        """Block 0.

        Raises:
            OtherGenesis: its hash is not the one that the spec names.
        """
        if self.top is not None:
            made = _genesis(self.top, runtime)
        else:
            assert self.config is not None
            made = make_genesis(self.config, runtime)
        if self.genesis_hash not in (None, made.hash):
            assert self.genesis_hash is not None
            raise OtherGenesis(
                f"this release makes the genesis 0x{made.hash.hex()} of the spec, "
                f"which says 0x{self.genesis_hash.hex()}",
                mend="take the chain's raw spec: phala node spec --raw, by the release that began",
            )
        return made


def make_genesis(config: GenesisConfig, runtime: Runtime) -> Genesis:
    return _genesis(runtime.genesis(config), runtime)


def _genesis(state: dict[bytes, bytes], runtime: Runtime) -> Genesis:
    trie = Trie.build(list(state.items()), Layout.V1)
    proof = trie.prove([AUTHORITIES_KEY], DictBase(state)) if state else ()
    try:
        authorities = AUTHORITIES.decode(state.get(AUTHORITIES_KEY, b"\0"))
    except Malformed as error:
        raise _no_spec(f"its authorities: {error.what}") from None
    return Genesis(runtime.genesis_header(trie.root), state, authorities, proof)


def load_chain_spec(path: Path) -> ChainSpec:
    """Raises `Invalid` for what is no spec."""
    try:
        if path.stat().st_size > SPEC_BYTES_MAX:
            raise Invalid(f"{path} is larger than {SPEC_BYTES_MAX} bytes", mend="give a chain spec")
        return read_chain_spec(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not readable: {error}", mend="give a chain spec") from None


def read_chain_spec(text: str) -> ChainSpec:
    """Raises `Invalid` for what is no spec."""
    try:
        document = json.loads(text)
        raw = document["genesis"].get("raw")
        named = document.get("genesisHash")
        if raw is None and len(text) > CONFIG_BYTES_MAX:
            raise _no_spec(f"it has {len(text)} characters")
        return ChainSpec(
            name=str(document["name"]),
            id=str(document["id"]),
            chain_type=str(document["chainType"]),
            document=document,
            config=GenesisConfig.from_json(text) if raw is None else None,
            top=None if raw is None else _top(raw),
            genesis_hash=None if named is None else _hash(named),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _no_spec(f"{type(error).__name__}: {error}") from None


def _top(raw: dict[str, Any]) -> dict[bytes, bytes]:
    if raw.get("childrenDefault"):
        raise _no_spec("it has child tries, which this chain has none of")
    pairs = [(_bytes(key), _bytes(value)) for key, value in raw["top"].items()]
    top = dict(sorted(pairs))
    if len(top) != len(pairs):
        raise _no_spec("a key of its state stands twice")
    if any(not 0 < len(key) <= KEY_BYTES_MAX for key in top):
        raise _no_spec(f"a key of its state has not 1 to {KEY_BYTES_MAX} bytes")
    return top


def _bytes(text: str) -> bytes:
    if not text.startswith("0x"):
        raise ValueError(f"{text[:20]!r} is not 0x and hex")
    return bytes.fromhex(text[2:])


def _hash(text: str) -> Hash:
    found = _bytes(text)
    if len(found) != len(Hash(bytes(32))):
        raise ValueError(f"{len(found)} bytes instead of a hash")
    return Hash(found)


def _no_spec(what: str) -> Invalid:
    return Invalid(f"no chain spec: {what}", mend="let `phala up` or `phala node spec` write one")


def raw_document(spec: ChainSpec, genesis: Genesis) -> dict[str, Any]:
    """The same chain's spec with the state of block 0 itself."""
    top = {"0x" + key.hex(): "0x" + value.hex() for key, value in genesis.state.items()}
    return {
        **spec.document,
        "genesis": {"raw": {"top": top, "childrenDefault": {}}},
        "genesisHash": "0x" + genesis.hash.hex(),
    }


def ensure_begun(store: Store, spec: ChainSpec, runtime: Runtime) -> None:
    """See that the store holds the spec's chain; write block 0 where it holds none.

    A chain that this very spec began is not made again: another release makes another block 0 of a
    config, and the chain stays the one that it was.

    Raises:
        OtherChain: the store holds another chain.
    """
    present = store.genesis_hash
    known = spec.digest == store.spec_digest or spec.genesis_hash == present
    if present is not None and known:
        return
    made = spec.genesis(runtime)
    store.create(
        made.header,
        made.state.items(),
        authorities_proof=made.authorities_proof,
        spec_digest=spec.digest,
    )


def load_spec(path: Path) -> GenesisConfig:
    """The config of a spec that has one. Raises `Invalid` for any other."""
    found = load_chain_spec(path).config
    if found is None:
        raise Invalid(f"{path} is a raw spec", mend="give the spec that the chain began with")
    return found


def write_spec(path: Path, config: GenesisConfig) -> None:
    write_whole(path, config.to_json() + "\n")


def write_light(path: Path, genesis: Genesis) -> None:
    """Where a light client starts: the genesis header, and a proof of the first authorities."""
    document = {
        "genesis": "0x" + genesis.hash.hex(),
        "header": "0x" + HEADER.encode(genesis.header).hex(),
        "proof": ["0x" + node.hex() for node in genesis.authorities_proof],
    }
    write_whole(path, json.dumps(document, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """The whole file or, after a kill, the one before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    partial.write_text(text)
    partial.replace(path)
