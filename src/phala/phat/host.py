"""What a contract can ask of the world outside: the host functions of the `phala:phat` world."""

from typing import Protocol


class Host(Protocol):
    """One call's view of the world. A set is kept only if the call succeeds."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def set(self, key: bytes, value: bytes | None, /) -> None:
        """Put a value, or delete the key. A query ends here."""
        ...

    def scan(self, prefix: bytes, start: bytes, limit: int, /) -> list[tuple[bytes, bytes]]:
        """At most `limit` items under `prefix`, from the key `start` on, in the keys' order."""
        ...

    def log(self, level: int, text: str, /) -> None: ...

    def emit(self, name: str, data: bytes, /) -> None: ...

    def block(self) -> tuple[int, int, bytes]:
        """Number, time in milliseconds since 1970, hash."""
        ...

    def caller(self) -> bytes | None:
        """The account that sent the call, or None for anybody."""
        ...

    def blake2_256(self, data: bytes, /) -> bytes: ...

    def sha2_256(self, data: bytes, /) -> bytes: ...


VALUE_BYTES_MAX = 1 << 20  # the engine's own limit, met here with the field's name


class TooLarge(Exception):
    """A value does not fit under one key."""

    def __init__(self, where: str, size_bytes: int) -> None:
        super().__init__(
            f"{where} has {size_bytes} bytes, at most {VALUE_BYTES_MAX} fit under one key: "
            "keep a large collection in a Map"
        )


class Slot:
    """Where the host of the running call stands. A guest runs one call at a time."""

    def __init__(self) -> None:
        self.host: Host | None = None
        self.writable = False

    def get(self) -> Host:
        if self.host is None:
            raise RuntimeError("no call is running: the world outside is there in methods only")
        return self.host

    def put(self, key: bytes, value: bytes, where: str) -> None:
        if len(value) > VALUE_BYTES_MAX:
            raise TooLarge(where, len(value))
        self.get().set(key, value)


CURRENT = Slot()
