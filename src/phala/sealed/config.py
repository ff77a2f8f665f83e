"""What the worker tells its enclave at the start. Nothing of it is believed that matters."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from phala.errors import Invalid
from phala.messages.registration import MANIFESTS_MAX
from phala.primitives.types import Hash

CONFIG_BYTES_MAX: Final = 64 * 1024
LIGHT_BYTES_MAX: Final = 1024 * 1024
ENGINES_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Config:
    folder: Path
    light: Path  # where the light client starts
    simulated_key: Path | None  # None: the hardware under this process
    runtime: Path | None  # None: the module that set-up built
    engines: int  # children
    gpu_manifests: tuple[Hash, ...] = ()  # SHA-256 of those that GPUs are held against


@dataclass(frozen=True, slots=True)
class LightStart:
    header: bytes  # SCALE, of genesis
    proof: tuple[bytes, ...]  # of its authorities


def load_config(path: Path) -> Config:
    """Raises `Invalid`."""
    document = _load(path, CONFIG_BYTES_MAX)
    try:
        platform = document["platform"]
        kind = platform["kind"]
        if kind not in ("simulated", "hardware"):
            raise Invalid(f"platform {kind!r}", mend="use hardware, or on dev simulated")
        runtime = document["runtime"]
        engines = document["engines"]
        if not isinstance(engines, int) or not 1 <= engines <= ENGINES_MAX:
            raise Invalid(f"{engines!r} engines", mend=f"use 1 to {ENGINES_MAX}")
        return Config(
            folder=Path(document["dir"]),
            light=Path(document["light"]),
            simulated_key=Path(platform["key"]) if kind == "simulated" else None,
            runtime=None if runtime is None else Path(runtime),
            engines=engines,
            gpu_manifests=_hashes(document.get("gpu_manifests", [])),
        )
    except (KeyError, TypeError) as error:
        raise Invalid(f"{path} lacks {error}", mend="let phala.worker write it") from None


def _hashes(found: Any) -> tuple[Hash, ...]:
    try:
        hashes = tuple(Hash(bytes.fromhex(each.removeprefix("0x"))) for each in found)
    except (AttributeError, TypeError, ValueError):
        hashes = (Hash(b""),)
    if len(hashes) > MANIFESTS_MAX or any(len(each) != 32 for each in hashes):
        raise Invalid(
            "gpu_manifests are no hashes", mend=f"name up to {MANIFESTS_MAX} by their SHA-256"
        )
    return hashes


def load_light(path: Path) -> LightStart:
    """A network's `light.json`. Raises `Invalid`."""
    document = _load(path, LIGHT_BYTES_MAX)
    try:
        return LightStart(
            header=bytes.fromhex(document["header"].removeprefix("0x")),
            proof=tuple(bytes.fromhex(node.removeprefix("0x")) for node in document["proof"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Invalid(
            f"{path} is no light start: {type(error).__name__}",
            mend="restore it from its network",
        ) from None


def _load(path: Path, bytes_max: int) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
        document = json.loads(data) if len(data) <= bytes_max else None
    except (OSError, ValueError, RecursionError) as error:
        raise Invalid(f"{path}: {type(error).__name__}", mend="name a JSON file") from None
    if not isinstance(document, dict):
        raise Invalid(f"{path} is no JSON object", mend="name the right file")
    return document
