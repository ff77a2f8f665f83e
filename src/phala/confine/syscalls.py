"""Seccomp: the system calls that a process may still make.

An engine child runs native code made of strangers' contracts: it keeps what computing and
answering takes, and nothing else. The enclave starts children and writes its files: it loses what
reaches other processes, the kernel, or the network. A call that is not allowed fails with EPERM.
Source: Linux, Documentation/userspace-api/seccomp_filter; numbers of <asm/unistd.h>.
"""

import ctypes
import errno
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from phala.confine.kernel import ABSENT, KernelRefused, syscall

Numbers: TypeAlias = tuple[int, int | None]  # of x86-64, of aarch64

# fmt: off
COMPUTING: Final[Mapping[str, Numbers]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "close": (3, 57),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "ioctl": (16, 29),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "getsockopt": (55, 209),
    "setsockopt": (54, 208),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "shutdown": (48, 210),
    "dup": (32, 23),
    "fcntl": (72, 25),
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "tgkill": (234, 131),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "getrandom": (318, 278),
    "prlimit64": (302, 261),
    "getrusage": (98, 165),
    "uname": (63, 160),
    "membarrier": (324, 283),
    "restart_syscall": (219, 128),
    "openat": (257, 56),
    "getdents64": (217, 61),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "getcwd": (79, 17),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "sysinfo": (99, 179),
    "memfd_create": (319, 279),
    "ftruncate": (77, 46),
    "fadvise64": (221, 223),
    "eventfd2": (290, 19),
    "pipe2": (293, 59),
    "stat": (4, None),
    "lstat": (6, None),
    "open": (2, None),
}
REACHING_OUT: Final[Mapping[str, Numbers]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "userfaultfd": (323, 282),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "socket": (41, 198),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "quotactl": (179, 60),
    "personality": (135, 92),
}
# fmt: on
CLONE: Final[Numbers] = (56, 220)
CLONE3: Final[Numbers] = (435, 435)
SECCOMP: Final[Numbers] = (317, 277)
CLONE_THREAD: Final = 0x10000  # <linux/sched.h>

# <linux/audit.h>: what the kernel calls the architecture that a call came by.
ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
X32: Final = 0x40000000  # x86-64 numbers from here on are the x32 interface's: a second door

SET_MODE_FILTER: Final = 1
FOR_ALL_THREADS: Final = 1
# Instructions of classic BPF, <linux/bpf_common.h>, and answers, <linux/seccomp.h>.
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_SET, ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
AT_NUMBER, AT_ARCHITECTURE, AT_FIRST_ARGUMENT = 0, 4, 16  # of struct seccomp_data


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls are named, and whether those alone are allowed or those alone are not."""

    named: Mapping[str, Numbers]
    named_are_allowed: bool
    threads: bool = False  # with `named_are_allowed`: threads may be started, processes not


ENGINE: Final = Filter(COMPUTING, named_are_allowed=True, threads=True)
SEALED: Final = Filter(REACHING_OUT, named_are_allowed=False)


def restrict_syscalls(wanted: Filter) -> bool:
    """Put the filter on for every thread. False where the kernel or machine has none.

    Needs `no_new_privs`. Raises `KernelRefused`: the kernel has it, and refuses.
    """
    known = ARCHITECTURES.get(platform.machine())
    if known is None:
        return False
    column, architecture = known
    code = program(wanted, column, architecture)
    held = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a count, padding, a pointer
    described = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(held))
    number = SECCOMP[column]
    assert number is not None
    try:
        syscall(
            "seccomp",
            number,
            ctypes.c_uint(SET_MODE_FILTER),
            ctypes.c_uint(FOR_ALL_THREADS),
            ctypes.create_string_buffer(described, len(described)),
        )
    except KernelRefused as error:
        if error.number in ABSENT:
            return False
        raise
    return True


def program(wanted: Filter, column: int, architecture: int) -> bytes:
    """The filter as classic BPF."""
    on_named, on_others = (ALLOW, FAIL | errno.EPERM)[:: 1 if wanted.named_are_allowed else -1]
    out = [
        _step(LOAD, AT_ARCHITECTURE),
        _step(JUMP_EQUAL, architecture, 1, 0),
        _step(ANSWER, KILL),
        _step(LOAD, AT_NUMBER),
    ]
    if column == 0:
        out += [_step(JUMP_AT_LEAST, X32, 0, 1), _step(ANSWER, FAIL | errno.EPERM)]
    for numbers in wanted.named.values():
        number = numbers[column]
        if number is not None:
            out += [_step(JUMP_EQUAL, number, 0, 1), _step(ANSWER, on_named)]
    if wanted.threads:
        out += _threads_alone(column)
    out.append(_step(ANSWER, on_others))
    return b"".join(out)


def _threads_alone(column: int) -> list[bytes]:
    """`clone` with CLONE_THREAD; `clone3`, whose flags no filter sees, as if it did not exist:
    the C library then uses `clone`."""
    clone, clone3 = CLONE[column], CLONE3[column]
    assert clone is not None
    assert clone3 is not None
    return [
        _step(JUMP_EQUAL, clone3, 0, 1),
        _step(ANSWER, FAIL | errno.ENOSYS),
        _step(JUMP_EQUAL, clone, 0, 4),
        _step(LOAD, AT_FIRST_ARGUMENT),
        _step(JUMP_SET, CLONE_THREAD, 0, 1),
        _step(ANSWER, ALLOW),
        _step(ANSWER, FAIL | errno.EPERM),
    ]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
