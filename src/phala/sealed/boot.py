"""Puts an enclave together: its platform, identity, kept steps and engine."""

import contextlib
import fcntl
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from phala.crypto.hashes import blake2_256
from phala.enclave import light
from phala.enclave.door import About, Enclave
from phala.enclave.identity import IDENTITY_LABEL, Identity
from phala.errors import Invalid, Refused, Unavailable
from phala.primitives.types import Hash
from phala.sealed.checkpoint import Checkpoint, write_whole
from phala.sealed.config import Config, load_light
from phala.sealed.engines import Engines
from phala.sealed.hardening import give_up
from phala.sealed.log import log
from phala.sealed.platforms import platform_under
from phala.tee.platform import Platform
from phala.wasm.pool import EnginePool
from phala.wasm.runtime_module import load_runtime

SOFTWARE: Final = 0 << 16 | 1 << 8 | 0  # of `pyproject.toml`
LOCK_FILE: Final = "lock"
LOCK_SECONDS: Final = 10
LOCK_POLL_SECONDS: Final = 0.02
IDENTITY_FILE: Final = "identity.sealed"
IDENTITY_BYTES_MAX: Final = 64 * 1024


class OtherCode(Refused):
    """The identity was sealed by other code than this."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} does not open: it was sealed by another release of this code, or on another "
            "machine, or was altered",
            mend="run the release that made it, or start with an empty folder as a new worker",
        )


class FolderHeld(Unavailable):
    """Another enclave's process holds the folder: two would write over each other's steps."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"another enclave holds {folder}", mend="end it, or name another folder for this one"
        )


class SystemEntropy:
    def random_bytes(self, size: int) -> bytes:
        return secrets.token_bytes(size)


@dataclass(frozen=True, slots=True)
class Booted:
    enclave: Enclave
    checkpoint: Checkpoint
    engines: Engines
    pool: EnginePool
    platform: Platform


def boot(config: Config) -> Booted:
    """An enclave as it stood at its last step.

    Raises:
        Invalid, Refused: the files are not this enclave's, chain's or code's.
        Unavailable: the runtime module is missing, or the platform does not answer.
    """
    module = load_runtime(config.runtime)
    runtime_id = Hash(module.runtime_id)
    start = load_light(config.light)
    genesis = Hash(blake2_256(start.header))
    head = light.start(genesis, start.header, start.proof)
    under = platform_under(config.simulated_key, runtime_id, config.gpu_manifests)
    platform = under.platform
    entropy = SystemEntropy()
    config.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    hold(config.folder)
    kept = give_up(config.folder, (module.path.parent,))
    log("confined", landlock=kept.landlock, seccomp=kept.seccomp, missing="; ".join(kept.missing))
    identity = load_identity(config.folder, platform, genesis, entropy)
    checkpoint = Checkpoint(config.folder, identity.checkpoint_key, genesis, entropy)
    store = checkpoint.load()
    pool = EnginePool(module, children=config.engines)
    try:
        engines = Engines(pool)
        enclave = Enclave(
            identity=identity,
            start=head,
            store=store,
            about=About(runtime_id, under.code, SOFTWARE, os.cpu_count() or 1),
            platform=platform,
            engine=engines,
            entropy=entropy,
            journal=checkpoint,
            note=lambda text: log("passed over", what=text),
            devices=under.devices,
        )
    except BaseException:
        pool.close()
        raise
    return Booted(enclave, checkpoint, engines, pool, platform)


def hold(folder: Path) -> None:
    """Hold the folder until this process ends, however it ends.

    After a kill of the worker the enclave before may still be on its way out: it is waited for.

    Raises:
        FolderHeld: it does not go.
    """
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise FolderHeld(folder) from None
            time.sleep(LOCK_POLL_SECONDS)
        else:
            return


def load_identity(
    folder: Path, platform: Platform, genesis: Hash, entropy: SystemEntropy
) -> Identity:
    """The identity in the folder; a new one where there is none, or where the platform does not
    seal: then nothing kept before opens, and it is put out of the way."""
    path = folder / IDENTITY_FILE
    if platform.seals and path.exists():
        with path.open("rb") as file:
            sealed = file.read(IDENTITY_BYTES_MAX)
        try:
            plaintext = platform.unseal(sealed, label=IDENTITY_LABEL)
        except Invalid:
            raise OtherCode(path) from None
        return Identity.restore(plaintext, genesis)
    for old in folder.iterdir():
        if old.name != LOCK_FILE:
            with contextlib.suppress(IsADirectoryError):
                old.unlink()
    identity, plaintext = Identity.generate(genesis, entropy)
    if platform.seals:
        write_whole(path, iter([platform.seal(plaintext, label=IDENTITY_LABEL)]))
    return identity
