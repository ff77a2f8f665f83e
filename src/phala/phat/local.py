"""A host in memory: to test a contract natively, and to measure it against the guest."""

import hashlib


class LocalHost:
    """`phala.phat.host.Host` over a dict. What a failed call wrote stays: take a copy before."""

    def __init__(self, caller: bytes | None = None) -> None:
        self.values: dict[bytes, bytes] = {}
        self.logs: list[str] = []
        self.events: list[tuple[str, bytes]] = []
        self.account = caller
        self.number = 1

    def get(self, key: bytes, /) -> bytes | None:
        return self.values.get(key)

    def set(self, key: bytes, value: bytes | None, /) -> None:
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value

    def scan(self, prefix: bytes, start: bytes, limit: int, /) -> list[tuple[bytes, bytes]]:
        keys = sorted(key for key in self.values if key.startswith(prefix) and key >= start)
        return [(key, self.values[key]) for key in keys[:limit]]

    def log(self, level: int, text: str, /) -> None:  # noqa: ARG002 - one log for all levels
        self.logs.append(text)

    def emit(self, name: str, data: bytes, /) -> None:
        self.events.append((name, data))

    def block(self) -> tuple[int, int, bytes]:
        return self.number, self.number * 1_000, bytes(32)

    def caller(self) -> bytes | None:
        return self.account

    def blake2_256(self, data: bytes, /) -> bytes:
        return hashlib.blake2b(data, digest_size=32).digest()

    def sha2_256(self, data: bytes, /) -> bytes:
        return hashlib.sha256(data).digest()
