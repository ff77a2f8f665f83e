"""Where the files of a network on this machine lie: see the table in ARCHITECTURE.md."""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from phala.errors import Invalid, Refused, Unavailable

SERVICES: Final = ("node", "worker", "pherry")
LOG_BYTES_MAX: Final = 16 * 1024 * 1024  # a longer log is put aside when its service starts
DOCUMENT_BYTES_MAX: Final = 64 * 1024 * 1024  # a spec holds the genesis state


class AlreadyRunning(Refused):
    """Another `phala up` keeps this folder's network running."""


class NotRunning(Unavailable):
    """No `phala up` keeps this folder's network running."""


def home() -> Path:
    """`$PHALA_HOME`, or `~/.phala`: accounts, trust, and the default network."""
    return Path(os.environ.get("PHALA_HOME") or "~/.phala").expanduser().absolute()


def default_folder() -> Path:
    return home() / "dev"


@dataclass(frozen=True, slots=True)
class NetworkFiles:
    """The files of one network's folder."""

    folder: Path

    @property
    def spec(self) -> Path:
        return self.folder / "spec.json"

    @property
    def light(self) -> Path:
        return self.folder / "light.json"

    @property
    def trust(self) -> Path:
        return self.folder / "trust.json"

    @property
    def running(self) -> Path:
        return self.folder / "network.json"

    @property
    def simulated_key(self) -> Path:
        return self.folder / "simulated.key"

    @property
    def contracts(self) -> Path:
        """Names that `phala deploy` gave to contracts of this network."""
        return self.folder / "contracts.json"

    def service(self, name: str) -> Path:
        return self.folder / name

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the network while it runs. The lock ends with the process, however it ends.

        Raises:
            AlreadyRunning: another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(
                    f"the network in {self.folder} is running already",
                    mend="use it, stop it with Ctrl-C where it runs, or give another --dir",
                ) from None
            yield

    def is_running(self) -> bool:
        """Whether some `phala up` holds the lock now."""
        try:
            with (self.folder / "lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def load_running(self) -> dict[str, Any]:
        """Addresses and process ids of the running network.

        Raises:
            NotRunning: there is none.
        """
        if not self.is_running():
            raise NotRunning(f"no network runs in {self.folder}", mend="start one with: phala up")
        if not self.running.exists():
            raise NotRunning(
                f"the network in {self.folder} is starting or stopping",
                mend="ask again in some seconds",
            )
        return load_document(self.running)

    def reset(self) -> None:
        """Remove what a network wrote here, and nothing else. Call it with the lock held."""
        for path in (self.spec, self.light, self.trust, self.running, self.simulated_key):
            path.unlink(missing_ok=True)
        self.contracts.unlink(missing_ok=True)
        for name in (*SERVICES, "logs"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def open_log(self, name: str) -> int:
        """A descriptor to append a service's log by; the caller closes it."""
        path = self.log(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def save_document(path: Path, document: dict[str, Any]) -> None:
    """Replace a JSON file whole: a reader sees the old one or the new one."""
    save_bytes(path, json.dumps(document, indent=1).encode() + b"\n")


def save_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_document(path: Path) -> dict[str, Any]:
    """A JSON object that this program wrote earlier."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(DOCUMENT_BYTES_MAX))
    except FileNotFoundError:
        raise Invalid(f"{path} is missing", mend="name a network's folder with --dir") from None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Invalid(f"{path} is not a JSON object", mend="start anew with: phala up --reset")
    return document
