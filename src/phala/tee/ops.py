"""The few things that a platform asks of the kernel's files, so that tests can be the kernel."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from phala.errors import PhalaError, Refused, Unavailable

_PIECE_BYTES: Final = 4096


class Ops(Protocol):
    """Every error is the `OSError` of the system call."""

    def mkdir(self, path: Path) -> None: ...

    def rmdir(self, path: Path) -> None: ...

    def read(self, path: Path) -> Iterator[bytes]:
        """What the file gives, opened once, in pieces of any size; an empty one is no end."""
        ...

    def write(self, path: Path, data: bytes) -> None:
        """All of it in one `write`: an attribute of the kernel's takes no second."""
        ...

    def exchange(self, path: Path, request: bytes, *, size_max: int) -> bytes:
        """What a device answers that takes messages by `ioctl`, as AWS's security module does."""
        ...

    def isdir(self, path: Path) -> bool: ...

    def exists(self, path: Path) -> bool: ...


class _Message(ctypes.Structure):
    """`struct nsm_raw` of Linux, <uapi/linux/nsm.h>: where the request lies, and the answer."""

    _fields_ = (
        ("request", ctypes.c_void_p),
        ("request_size", ctypes.c_size_t),
        ("answer", ctypes.c_void_p),
        ("answer_size", ctypes.c_size_t),
    )


NSM_EXCHANGE: Final = 3 << 30 | ctypes.sizeof(_Message) << 16 | 0x0A << 8  # _IOWR(0x0A, 0, ...)


class KernelOps:
    """The machine's own."""

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def read(self, path: Path) -> Iterator[bytes]:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while piece := os.read(handle, _PIECE_BYTES):
                yield piece
        finally:
            os.close(handle)

    def write(self, path: Path, data: bytes) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            taken = os.write(handle, data)
        finally:
            os.close(handle)
        if taken != len(data):
            raise OSError(errno.EIO, f"{taken} of {len(data)} bytes were taken", str(path))

    def exchange(self, path: Path, request: bytes, *, size_max: int) -> bytes:
        given = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(size_max)
        message = _Message(
            ctypes.addressof(given), len(request), ctypes.addressof(answer), size_max
        )
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(handle, NSM_EXCHANGE, message)
        finally:
            os.close(handle)
        return answer.raw[: message.answer_size]

    def isdir(self, path: Path) -> bool:
        return path.is_dir()

    def exists(self, path: Path) -> bool:
        return path.exists()


def read_whole(ops: Ops, path: Path, *, size_max: int) -> bytes:
    """The file's bytes.

    Raises:
        TooLarge: it has more than `size_max`.
    """
    data = bytearray()
    for piece in ops.read(path):
        data += piece
        if len(data) > size_max:
            raise TooLarge(path, size_max)
    return bytes(data)


def explained(error: OSError, path: Path) -> PhalaError:
    """The same in words, with the mend that goes with its number."""
    what = f"{path}: {error.strerror or error} ({errno.errorcode.get(error.errno or 0, '?')})"
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return InterfaceClosed(
                what, mend="run as root, with the interface writable inside the container"
            )
        case errno.ENOENT | errno.ENOTDIR | errno.ENODEV | errno.ENXIO | errno.ENOTSUP:
            return InterfaceAbsent(
                what,
                mend="load the guest's driver (tdx_guest or sev_guest) on a Linux of 6.7 or later",
            )
        case errno.EFBIG:
            return TooLarge(path, None)
        case _:
            return InterfaceFailed(
                what, mend="ask again; where it stays, look into the kernel's log and the host's"
            )


class InterfaceAbsent(Refused):
    """The kernel has no such interface."""


class InterfaceClosed(Refused):
    """The interface is there, but not for this user."""


class InterfaceFailed(Unavailable):
    """The kernel, the firmware or the host did not answer as they should."""


class TooLarge(Refused):
    """The kernel's answer is larger than we or the kernel allow."""

    def __init__(self, path: Path, size_max: int | None) -> None:
        bound = "the kernel allows (EFBIG)" if size_max is None else f"the {size_max} bytes allowed"
        super().__init__(
            f"{path} holds more than {bound}",
            mend="have the host serve a shorter certificate chain",
        )
