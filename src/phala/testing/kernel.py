"""Kernels that are not there: configfs-tsm, Gramine's files and AWS's security module as they
behave, for `tee`.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from phala.attest.cbor import decode as read_cbor
from phala.tee.configfs import REPORTS
from phala.tee.gramine import ATTESTATION, TYPE
from phala.tee.nitro import DEVICE
from phala.tee.tdx import REGISTERS
from phala.testing.p384_pki import encode_cbor

_INBLOB_BYTES_MAX: Final = 64
_STRANGERS: Final = b"\xee" * 64  # what another process asks for
_PIECE_BYTES: Final = 700  # no divisor of any quote's size: the last piece is shorter


@dataclass
class _Request:
    generation: int = 0
    inblob: bytes = b""
    level: int = 0


@dataclass
class FakeKernel:
    """A kernel with configfs-tsm, as Linux 6.7 has it, and with other files where given.

    Attributes appear with their directory and go with it. Each write counts. Nothing is read
    before there is an `inblob`. What is asked for is made of the request's `inblob` when it is
    read, so another's write in between shows in it.
    """

    provider: str | None = "tdx_guest"  # none: no driver has registered
    report: Callable[[bytes], bytes] = bytes  # the evidence that says these 64 bytes
    auxiliary: bytes | None = None  # none: the provider has no auxblob
    level_floor: int | None = None  # none: the provider knows no levels
    files: dict[Path, bytes] = field(default_factory=dict)  # what else is there
    mounted: bool = True
    size_max: int | None = None  # of an outblob; above it the kernel says EFBIG
    busy: int = 0  # of the next calls, how many the kernel is too busy for
    races: int = 0  # before how many of the next outblobs another process writes its inblob
    failures: dict[str, int] = field(default_factory=dict)  # of names: what number they fail with
    registers: dict[str, bytes] | None = None  # none: Linux before 6.16
    requests: dict[Path, _Request] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # calls, in order

    def mkdir(self, path: Path) -> None:
        self._called("mkdir", path)
        if not self.mounted or path.parent != REPORTS:
            raise _error(errno.ENOENT, path)
        if self.provider is None:
            raise _error(errno.ENXIO, path)
        if path in self.requests:
            raise _error(errno.EEXIST, path)
        self.requests[path] = _Request()

    def rmdir(self, path: Path) -> None:
        self._called("rmdir", path)
        if path not in self.requests:
            raise _error(errno.ENOENT, path)
        del self.requests[path]

    def read(self, path: Path) -> Iterator[bytes]:
        self._called("read", path)
        data = self._value(path)
        for at in range(0, len(data), _PIECE_BYTES):
            yield data[at : at + _PIECE_BYTES]

    def write(self, path: Path, data: bytes) -> None:
        self._called("write", path)
        if path.parent == REGISTERS:
            self._extend(path, data)
            return
        request = self._request(path)
        if path.name == "inblob":
            if not 0 < len(data) <= _INBLOB_BYTES_MAX:
                raise _error(errno.EINVAL, path)
            request.inblob = data
        elif path.name == "privlevel" and self.level_floor is not None:
            if not self.level_floor <= int(data) <= 3:
                raise _error(errno.EINVAL, path)
            request.level = int(data)
        else:
            raise _error(errno.EACCES, path)
        request.generation += 1

    def _extend(self, path: Path, digest: bytes) -> None:
        if self.registers is None or path.name not in self.registers:
            raise _error(errno.ENOENT, path)
        if len(digest) != 48:
            raise _error(errno.EINVAL, path)
        self.registers[path.name] = hashlib.sha384(self.registers[path.name] + digest).digest()

    def exchange(self, path: Path, request: bytes, *, size_max: int) -> bytes:
        del request, size_max
        raise _error(errno.ENOENT, path)

    def isdir(self, path: Path) -> bool:
        return path in self.requests or (self.mounted and path == REPORTS)

    def exists(self, path: Path) -> bool:
        if path in self.files or self.isdir(path):
            return True
        return path.parent in self.requests and path.name in self._attributes()

    def _called(self, name: str, path: Path) -> None:
        word = name if path.parent == REPORTS else path.name
        self.asked.append(word)
        if self.busy > 0:
            self.busy -= 1
            raise _error((errno.EBUSY, errno.EWOULDBLOCK)[self.busy % 2], path)
        if word in self.failures:
            raise _error(self.failures[word], path)

    def _attributes(self) -> set[str]:
        names = {"inblob", "outblob", "provider", "generation"}
        if self.auxiliary is not None:
            names.add("auxblob")
        return names if self.level_floor is None else names | {"privlevel", "privlevel_floor"}

    def _request(self, path: Path) -> _Request:
        request = self.requests.get(path.parent)
        if request is None or path.name not in self._attributes():
            raise _error(errno.ENOENT, path)
        return request

    def _value(self, path: Path) -> bytes:
        if path in self.files:
            return self.files[path]
        request = self._request(path)
        match path.name:
            case "provider":
                return f"{self.provider}\n".encode()
            case "generation":
                return f"{request.generation}\n".encode()
            case "privlevel_floor":
                return f"{self.level_floor}\n".encode()
            case "outblob" | "auxblob":
                return self._made(path, request)
            case _:
                raise _error(errno.EACCES, path)

    def _made(self, path: Path, request: _Request) -> bytes:
        if not request.inblob:
            raise _error(errno.EINVAL, path)
        if path.name == "auxblob":
            return self.auxiliary or b""
        if self.level_floor is not None and request.level < self.level_floor:
            raise _error(errno.EIO, path)
        if self.races > 0:
            self.races -= 1
            request.inblob = _STRANGERS
            request.generation += 1
        made = self.report(request.inblob)
        if self.size_max is not None and len(made) > self.size_max:
            raise _error(errno.EFBIG, path)
        return made


@dataclass
class FakeGramine:
    """A process under Gramine: `quote` is made when it is read, of the report data written last."""

    report: Callable[[bytes], bytes]
    word: str = "dcap"
    key: bytes = b"\x5a" * 16
    races: int = 0  # before how many of the next quotes another thread writes its report data
    said: bytes = bytes(64)

    def mkdir(self, path: Path) -> None:
        raise _error(errno.EACCES, path)

    def rmdir(self, path: Path) -> None:
        raise _error(errno.EACCES, path)

    def read(self, path: Path) -> Iterator[bytes]:
        match path.relative_to(ATTESTATION).as_posix():
            case "attestation_type":
                yield self.word.encode()
            case "quote" if self.word != "none":
                if self.races > 0:
                    self.races -= 1
                    self.said = _STRANGERS
                made = self.report(self.said)
                yield made[:100]
                yield made[100:]
            case "keys/_sgx_mrenclave":
                yield self.key
            case _:
                raise _error(errno.ENOENT, path)

    def write(self, path: Path, data: bytes) -> None:
        if path != ATTESTATION / "user_report_data":
            raise _error(errno.EACCES, path)
        self.said = data.ljust(64, b"\0")

    def exchange(self, path: Path, request: bytes, *, size_max: int) -> bytes:
        del request, size_max
        raise _error(errno.ENOENT, path)

    def isdir(self, path: Path) -> bool:
        return path == ATTESTATION

    def exists(self, path: Path) -> bool:
        return path == ATTESTATION / TYPE


@dataclass
class FakeNitro:
    """An enclave of AWS's: a security module that answers one message at a time."""

    document: Callable[[bytes], bytes]  # that says this user data
    refusal: str | None = None  # of the module's error codes
    failure: int | None = None  # of the kernel's numbers
    answer: bytes | None = None  # instead of what the module would say

    def mkdir(self, path: Path) -> None:
        raise _error(errno.EACCES, path)

    def rmdir(self, path: Path) -> None:
        raise _error(errno.EACCES, path)

    def read(self, path: Path) -> Iterator[bytes]:
        raise _error(errno.ENOENT, path)

    def write(self, path: Path, data: bytes) -> None:
        del data
        raise _error(errno.ENOENT, path)

    def exchange(self, path: Path, request: bytes, *, size_max: int) -> bytes:
        if path != DEVICE:
            raise _error(errno.ENOENT, path)
        if self.failure is not None:
            raise _error(self.failure, path)
        if self.answer is not None:
            return self.answer[:size_max]
        if self.refusal is not None:
            return encode_cbor({"Error": self.refusal})
        asked: Any = read_cbor(request)
        said = asked["Attestation"]["user_data"]
        made = encode_cbor({"Attestation": {"document": self.document(said)}})
        if len(made) > size_max:
            raise _error(errno.EMSGSIZE, path)
        return made

    def isdir(self, path: Path) -> bool:
        return path.parent == path

    def exists(self, path: Path) -> bool:
        return path == DEVICE


def _error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))
