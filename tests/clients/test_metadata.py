"""Our runtime's metadata says the same to every decoder; ours reads that of the great chains."""

import re
from pathlib import Path
from typing import Any

import pytest
from tests.clients import metadata_forms as forms
from tests.clients import tools

from phala.codec import Descriptor
from phala.runtime import Runtime
from phala.sdk import metadata as ours

PLAIN = 5  # bytes of 'meta' and the version, in front of the body

DECODERS = {
    "@polkadot/types 16.5.6": "@polkadot/types",
    "@polkadot/types 10.9.1": "@polkadot/types",
    "@polkadot-api/substrate-bindings 0.20.3": "substrate-bindings",
    "scalecodec 1.2.12": "scalecodec",
    "cyscale 0.8.0": "scalecodec",
}
OLD = {"@polkadot/types 10.9.1", "scalecodec 1.2.12"}  # read no V15
# Of `@polkadot/types-support` 16.5.6: metadata as real nodes gave it.
GREAT_CHAINS = [
    ("v15", "polkadot"),
    ("v15", "kusama"),
    ("v15", "asset-hub-polkadot"),
    ("v15", "asset-hub-kusama"),
    ("v15", "substrate"),
    ("v14", "polkadot"),
    ("v14", "kusama"),
    ("v14", "substrate"),
]


def command_of(decoder: str, file: Path) -> tuple[str, ...]:
    """What prints how a decoder reads a file."""
    match decoder.split():
        case ["@polkadot/types", version]:
            folder = "." if version == "16.5.6" else "polkadot-js-10"
            return tools.node_js(), "metadata.mjs", "@polkadot/types", str(file), folder
        case ["@polkadot-api/substrate-bindings", _]:
            return tools.node_js(), "metadata.mjs", "substrate-bindings", str(file)
        case ["scalecodec", _]:
            return tools.python_of("substrate-interface"), "python/metadata.py", str(file)
        case _:
            return tools.python_of("async-substrate-interface"), "python/metadata.py", str(file)


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Ours, by its version."""
    folder = tmp_path_factory.mktemp("metadata")
    files = {version: folder / f"v{version}.scale" for version in (14, 15)}
    for version, file in files.items():
        file.write_bytes(Runtime().metadata(version))
    return files


def decoded(data: bytes) -> ours.BodyV14 | ours.BodyV15:
    body = ours.BODY_V14 if data[4] == 14 else ours.BODY_V15
    return body.decode(data[PLAIN:])


@pytest.mark.parametrize(
    ("version", "decoder"),
    [(14, each) for each in DECODERS] + [(15, each) for each in DECODERS if each not in OLD],
)
def test_our_metadata_says_the_same_to_every_decoder(
    version: int, decoder: str, metadata: dict[int, Path]
) -> None:
    file = metadata[version]
    with tools.running(*command_of(decoder, file)) as script:
        said = forms.FORMS[DECODERS[decoder]](tools.told(script))
    ensure_same(said, forms.from_ours(decoded(file.read_bytes())))


def ensure_same(said: Any, expected: Any) -> None:
    assert set(said) == set(expected)
    for part, value in expected.items():
        assert said[part] == value, part


@pytest.mark.parametrize("version", [14, 15])
def test_what_is_compared_is_our_whole_runtime(version: int, metadata: dict[int, Path]) -> None:
    form = forms.from_ours(decoded(metadata[version].read_bytes()))
    names = [each["name"] for each in form["pallets"]]
    assert {"System", "Balances", "Utility", "PhalaRegistry"} <= set(names)
    assert len(form["types"]) > 250
    assert len(form["extensions"]) == 8
    assert len(form["apis"]) >= (5 if version == 15 else 0)


def test_the_digest_of_the_metadata_is_made(metadata: dict[int, Path]) -> None:
    spec_version = str(Runtime().version.spec_version)
    with tools.running(tools.node_js(), "merkleize.mjs", str(metadata[15]), spec_version) as script:
        assert len(bytes.fromhex(tools.told(script)["digest"])) == 32


# ---- metadata of real chains


def published(folder: str, chain: str) -> bytes:
    """Metadata of a chain, whose whole text is hex in a module of JavaScript."""
    tools.node_js()
    place = "node_modules/@polkadot/types-support/metadata"
    module = tools.HERE / place / folder / f"{chain}-hex.js"
    found = re.search(r"0x([0-9a-f]+)", module.read_text())
    assert found is not None
    data = bytes.fromhex(found[1])
    return data[data.index(b"meta") :]  # V15 as its API gives it: an option of opaque bytes


@pytest.mark.parametrize(("folder", "chain"), GREAT_CHAINS)
def test_metadata_of_great_chains_is_read_and_written_to_the_byte(folder: str, chain: str) -> None:
    data = published(folder, chain)
    body: Descriptor[Any] = ours.BODY_V14 if data[4] == 14 else ours.BODY_V15
    read = body.decode(data[PLAIN:])
    assert len(read.types) > 500
    assert body.encode(read) == data[PLAIN:]


@pytest.mark.parametrize("chain", ["polkadot", "asset-hub-polkadot"])
def test_metadata_of_great_chains_says_the_same_to_us_as_to_polkadot_js(
    chain: str, tmp_path: Path
) -> None:
    file = tmp_path / "metadata.scale"
    file.write_bytes(published("v15", chain))
    with tools.running(*command_of("@polkadot/types 16.5.6", file)) as script:
        said = forms.from_polkadot_types(tools.told(script))
    ensure_same(said, forms.from_ours(decoded(file.read_bytes())))
