"""What the process itself does against being read. No substitute for hardware."""

import ctypes
import os
import resource
from typing import Final

from phala.errors import Unavailable

PR_SET_DUMPABLE: Final = 4  # <linux/prctl.h>


def harden() -> None:
    """No core dumps, and no other process of this user may read the memory.

    Raises:
        Unavailable: the kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise Unavailable(
            f"prctl failed: {os.strerror(ctypes.get_errno())}", mend="run on a Linux kernel"
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
