"""Landlock: the files that a process may still open, and no TCP at all.

Source: Linux, Documentation/userspace-api/landlock. What an older kernel does not know is left
out, so the layer is as strong as the kernel's version of it (`abi`).
"""

import ctypes
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from phala.confine.kernel import ABSENT, KernelRefused, syscall

# The same numbers on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION: Final = 1 << 0
RULE_PATH_BENEATH: Final = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = (1 << bit for bit in range(4))
TRUNCATE, IOCTL = 1 << 14, 1 << 15
OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL
READING: Final = EXECUTE | READ_FILE | READ_DIR
# Rights over files by version: 1 had thirteen, 2 brought REFER, 3 TRUNCATE, 5 IOCTL_DEV.
RIGHTS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
BIND_AND_CONNECT_TCP: Final = 0b11  # since 4
ABSTRACT_SOCKETS_AND_SIGNALS: Final = 0b11  # since 6: none to processes outside


@dataclass(frozen=True, slots=True)
class Files:
    """What stays open. Paths that do not exist are passed over: there is nothing to close."""

    read: tuple[Path, ...] = ()  # and execute, with all beneath
    write: tuple[Path, ...] = ()  # and read, make, remove, with all beneath


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def restrict_files(files: Files) -> int:
    """Close all else, for this thread and whatever it starts. The kernel's version of Landlock.

    0 where the kernel has none. Call it before there are threads. It needs `no_new_privs`.

    Raises:
        KernelRefused: the kernel has it, and refuses.
    """
    abi = _abi()
    if abi == 0:
        return 0
    rights = RIGHTS[max(version for version in RIGHTS if version <= abi)]
    wanted = _Ruleset(
        rights,
        BIND_AND_CONNECT_TCP if abi >= 4 else 0,
        ABSTRACT_SOCKETS_AND_SIGNALS if abi >= 6 else 0,
    )
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = syscall(
        "landlock_create_ruleset",
        CREATE_RULESET,
        ctypes.byref(wanted),
        ctypes.c_size_t(size),
        ctypes.c_uint32(0),
    )
    try:
        _allow(ruleset, files.read, READING & rights)
        _allow(ruleset, files.write, rights & ~EXECUTE)
        syscall("landlock_restrict_self", RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return abi


def _abi() -> int:
    try:
        return syscall(
            "landlock", CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(ASK_VERSION)
        )
    except KernelRefused as error:
        if error.number in ABSENT:
            return 0
        raise


def _allow(ruleset: int, paths: Iterable[Path], rights: int) -> None:
    for path in paths:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise KernelRefused(f"{path} does not open", error.errno or 0) from None
        try:
            is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            beneath = _PathBeneath(rights if is_folder else rights & OF_FILES, handle)
            syscall(
                f"landlock_add_rule for {path}",
                ADD_RULE,
                ctypes.c_int(ruleset),
                ctypes.c_int(RULE_PATH_BENEATH),
                ctypes.byref(beneath),
                ctypes.c_uint32(0),
            )
        finally:
            os.close(handle)
