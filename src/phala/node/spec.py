"""A chain's spec on disk, and the files by which others start to follow the chain."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from phala.errors import Invalid
from phala.finality import AUTHORITIES_KEY
from phala.primitives.header import HEADER, Header
from phala.primitives.types import Hash
from phala.runtime import GenesisConfig, Runtime
from phala.trie import DictBase, Layout, Trie

SPEC_BYTES_MAX: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Genesis:
    """Block 0 of a spec."""

    config: GenesisConfig
    header: Header
    state: dict[bytes, bytes]  # sorted by key
    authorities_proof: tuple[bytes, ...]

    @property
    def hash(self) -> Hash:
        return self.header.hash()


def make_genesis(config: GenesisConfig, runtime: Runtime) -> Genesis:
    state = runtime.genesis(config)
    trie = Trie.build(list(state.items()), Layout.V1)
    proof = trie.prove([AUTHORITIES_KEY], DictBase(state))
    return Genesis(config, runtime.genesis_header(trie.root), state, proof)


def load_spec(path: Path) -> GenesisConfig:
    """Raises `Invalid` for what is no spec."""
    try:
        if path.stat().st_size > SPEC_BYTES_MAX:
            raise Invalid(f"{path} is larger than {SPEC_BYTES_MAX} bytes", mend="give a chain spec")
        return GenesisConfig.from_json(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} is not readable: {error}", mend="give a chain spec") from None


def write_spec(path: Path, config: GenesisConfig) -> None:
    _write(path, config.to_json() + "\n")


def write_light(path: Path, genesis: Genesis) -> None:
    """Where a light client starts: the genesis header, and a proof of the first authorities."""
    document = {
        "genesis": "0x" + genesis.hash.hex(),
        "header": "0x" + HEADER.encode(genesis.header).hex(),
        "proof": ["0x" + node.hex() for node in genesis.authorities_proof],
    }
    _write(path, json.dumps(document, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    partial.write_text(text)
    partial.replace(path)
