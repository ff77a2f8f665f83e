"""What the enclave's process gives up before it holds a secret. No substitute for hardware."""

import os
import sys
from pathlib import Path
from typing import Final

from phala.confine import SEALED, Confinement, Files, confine

PACKAGE: Final = Path(__file__).parents[1]
# What Python and its libraries read of a system, and children to be started need.
SYSTEM: Final = tuple(
    Path(each)
    for each in ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/ssl", "/proc")
)
# Evidence is asked for through these, see `tee.detect`.
PLATFORMS: Final = tuple(
    Path(each)
    for each in (
        "/dev/attestation",
        "/dev/nsm",
        "/dev/null",
        "/sys/kernel/config/tsm/report",
        "/sys/devices/virtual/misc/tdx_guest/measurements",
    )
)
GPUS: Final = Path("/dev")  # nvidia0, nvidiactl, nvidia-uvm ...


def give_up(folder: Path, read: tuple[Path, ...]) -> Confinement:
    """All files but the enclave's folder, the program's own and `read`; the network; privileges."""
    python = tuple(sorted({Path(sys.prefix), Path(sys.base_prefix), PACKAGE.parent}))
    gpus = tuple(sorted(GPUS.glob("nvidia*")))
    return confine(
        Files(
            read=(*python, *SYSTEM, *read, Path("/dev/urandom")),
            write=(folder, *PLATFORMS, *gpus),
        ),
        SEALED,
    )


def take_pipe() -> tuple[int, int]:
    """The pipe to the worker, moved away from fd 0 and 1: whatever prints, or is started from
    here, must not reach it."""
    reading, writing = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return reading, writing
