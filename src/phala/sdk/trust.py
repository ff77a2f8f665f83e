"""By which policy a chain's workers are judged: this machine's choice, never the chain's word."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from phala.attest import DEV, PRODUCTION, Policy
from phala.errors import Invalid
from phala.primitives.types import Hash

TRUST_BYTES_MAX: Final = 64 * 1024
NETWORKS_MAX: Final = 64  # folders looked through for one that wrote the genesis
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
_FIELDS: Final = {"genesis", "name", "policy", "simulatedRoot"}


class TrustMalformed(Invalid):
    """A trust file cannot be read as one."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What this machine believes of one chain before it hears a word from it."""

    genesis: Hash
    name: str
    policy: Policy
    origin: str  # who said so, for people
    pinned: bool = True  # False: the genesis was named by what is being judged


def unknown(genesis: Hash) -> Trust:
    """What an unpinned genesis gets: the strictest policy, and no belief in the genesis itself."""
    origin = "nobody: this genesis is pinned nowhere here"
    return Trust(genesis, "unknown", PRODUCTION, origin, pinned=False)


def chosen(genesis: Hash, *, simulated_root: bytes | None = None) -> Trust:
    """What a person named by hand. With a simulated root they chose `dev`, by an explicit flag."""
    policy = PRODUCTION if simulated_root is None else DEV.trusting(simulated_root)
    return Trust(genesis, "named by hand", policy, "the one who named it by hand")


def load_trust(path: Path) -> Trust:
    """The trust that a file of this machine holds.

    Raises:
        TrustMalformed: it is no such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(TRUST_BYTES_MAX + 1)
    except OSError as error:
        raise _malformed(path, error.strerror or "cannot be read") from None
    try:
        fields = json.loads(data[:TRUST_BYTES_MAX])
    except (ValueError, RecursionError):
        raise _malformed(path, "is not JSON") from None
    if not isinstance(fields, dict) or not set(fields) <= _FIELDS:
        raise _malformed(path, f"is no object with the fields {', '.join(sorted(_FIELDS))}")
    return Trust(
        Hash(_hex(path, fields, "genesis", 32)),
        _name(path, fields.get("name")),
        _policy(path, fields),
        f"{path.parent.name}/{path.name} on this machine",
    )


def find_trust(genesis: Hash, home: Path, *, network: Path | None = None) -> Trust:
    """What this machine believes of a genesis.

    Args:
        genesis: of the chain that is to be judged.
        home: `$PHALA_HOME`: its `trust/GENESIS.json` and each network's `trust.json` are read.
        network: a network's folder that lies elsewhere.

    Returns:
        What the first of these files says that names `genesis`; else `unknown`.
    """
    for path in _candidates(genesis, home, network):
        if path.is_file():
            trust = load_trust(path)
            if trust.genesis == genesis:
                return trust
    return unknown(genesis)


def _candidates(genesis: Hash, home: Path, network: Path | None) -> list[Path]:
    own = [] if network is None else [network / "trust.json"]
    return [
        *own,
        home / "trust" / f"{genesis.hex()}.json",
        *sorted(home.glob("*/trust.json"))[:NETWORKS_MAX],
    ]


def _policy(path: Path, fields: dict[str, Any]) -> Policy:
    match fields.get("policy"):
        case "dev":
            return DEV.trusting(_hex(path, fields, "simulatedRoot", 33))
        case "production" if fields.get("simulatedRoot") is None:
            return PRODUCTION
        case other:
            raise _malformed(path, f"names the policy {other!r}, with a simulated root or without")


def _name(path: Path, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _malformed(path, "has no name of 1 to 64 letters, digits, blanks, '.', '_', '-'")
    return value


def _hex(path: Path, fields: dict[str, Any], field: str, size: int) -> bytes:
    value = fields.get(field)
    try:
        data = bytes.fromhex(value.removeprefix("0x")) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != size:
        raise _malformed(path, f"has no {field} of {size} bytes in hex")
    return data


def _malformed(path: Path, what: str) -> TrustMalformed:
    return TrustMalformed(
        f"the trust file {path} {what}",
        mend="restore it, or remove it and judge that chain by the production policy",
    )
