"""Privileges given up, and memory closed to other processes of the same user."""

import contextlib
import ctypes
import resource
import signal
from typing import Final

from phala.confine.kernel import LIBC, KernelRefused, prctl

# <linux/prctl.h>, <linux/capability.h>
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
CAPABILITY_VERSION_3: Final = 0x20080522
CAPABILITIES_MAX: Final = 64


def harden() -> None:
    """No core dumps, and no other process of this user may read the memory.

    Raises:
        KernelRefused: the kernel refuses.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl("PR_SET_DUMPABLE", PR_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends."""
    prctl("PR_SET_PDEATHSIG", PR_SET_PDEATHSIG, signal.SIGKILL)


def drop_privileges() -> None:
    """No capability is left, and no program started from here gets one back.

    The user stays who it was. Raises `KernelRefused`.
    """
    for capability in range(CAPABILITIES_MAX):
        with contextlib.suppress(KernelRefused):  # not ours to drop, or none of this kernel's
            prctl("PR_CAPBSET_DROP", PR_CAPBSET_DROP, capability)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if LIBC.capset(header, nothing):
        raise KernelRefused("capset", ctypes.get_errno())
    prctl("PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS, 1)
