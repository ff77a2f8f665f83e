"""What a vendor and a chip would keep secret, in a file: it protects nothing, and says so."""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from phala.attest.ecdsa import ORDER
from phala.errors import Invalid

WARNING: Final = "simulated vendor root and machine key: no hardware protection"
_FILE_BYTES_MAX: Final = 4096
_FIELDS: Final = {"warning", "root", "machine"}


@dataclass(frozen=True, slots=True, repr=False)
class SimulatedKey:
    """Whoever has it forges evidence of its network and opens what was sealed on its machine."""

    root: bytes  # 32 bytes: the P-256 scalar that certifies attestation keys
    machine: bytes  # 32 bytes: seals

    def __post_init__(self) -> None:
        scalar = int.from_bytes(self.root, "big")
        if len(self.root) != 32 or not 0 < scalar < ORDER or len(self.machine) != 32:
            raise Invalid(
                "a simulated key is not two values of 32 bytes, the first a P-256 scalar",
                mend="make one with SimulatedKey.generate",
            )

    def __repr__(self) -> str:
        return f"SimulatedKey(root of {self.public_root.hex()}, …)"

    @classmethod
    def generate(cls) -> "SimulatedKey":
        return cls((secrets.randbelow(ORDER - 1) + 1).to_bytes(32, "big"), secrets.token_bytes(32))

    @property
    def private_root(self) -> ec.EllipticCurvePrivateKey:
        return ec.derive_private_key(int.from_bytes(self.root, "big"), ec.SECP256R1())

    @property
    def public_root(self) -> bytes:
        """33 bytes, SEC 1 compressed: `phala.simulatedRoot` of a chain spec."""
        return self.private_root.public_key().public_bytes(
            Encoding.X962, PublicFormat.CompressedPoint
        )


def create_simulated_key(path: Path) -> SimulatedKey:
    """Make a key and write it for its owner alone.

    Raises:
        Invalid: the file exists.
    """
    key = SimulatedKey.generate()
    text = json.dumps(
        {"warning": WARNING, "root": key.root.hex(), "machine": key.machine.hex()}, indent=2
    )
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Invalid(f"{path} exists", mend="load it, or name another file") from None
    with os.fdopen(handle, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def load_simulated_key(path: Path) -> SimulatedKey:
    """The key that `create_simulated_key` wrote, or `Invalid`."""
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise Invalid(f"{path} does not exist", mend="name a simulated key's file") from None
    broken = Invalid(
        f"{path} is no simulated key", mend="restore the file, or start the network anew"
    )
    try:
        fields = json.loads(data[:_FILE_BYTES_MAX])
    except (ValueError, RecursionError):
        raise broken from None
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise broken
    try:
        return SimulatedKey(bytes.fromhex(fields["root"]), bytes.fromhex(fields["machine"]))
    except (ValueError, TypeError):
        raise broken from None
