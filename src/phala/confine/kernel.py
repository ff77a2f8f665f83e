"""Calls to the kernel that Python has no function for."""

import ctypes
import errno
import os
from typing import Final

from phala.errors import Unavailable

LIBC: Final = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
LIBC.prctl.restype = ctypes.c_int
# What a kernel says that was built without the layer, or has it turned off.
ABSENT: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


class KernelRefused(Unavailable):
    """The kernel did not do what it should be able to."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(
            f"{what}: {os.strerror(number)} ({errno.errorcode.get(number, number)})",
            mend="run on a Linux kernel that allows it, or outside what forbids it",
        )
        self.number = number


def syscall(what: str, number: int, *arguments: object) -> int:
    """Raises `KernelRefused`."""
    found: int = LIBC.syscall(number, *arguments)
    if found < 0:
        raise KernelRefused(what, ctypes.get_errno())
    return found


def prctl(what: str, option: int, *arguments: int) -> int:
    """Raises `KernelRefused`."""
    words = [ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    found: int = LIBC.prctl(option, *words)
    if found < 0:
        raise KernelRefused(what, ctypes.get_errno())
    return found
