"""The host functions, for one running call: what it may read, and what it leaves behind."""

import hashlib
from bisect import bisect_left, insort
from typing import NoReturn

from phala.wasm.job import (
    KEY_BYTES_MAX,
    SCAN_ITEMS_MAX,
    TEXT_BYTES_MAX,
    VALUE_BYTES_MAX,
    BlockInfo,
    ErrorKind,
    Limits,
)

OUT_OF_FUEL = "the call used up its fuel: do less in one call, or send it with more"

# What a host call costs, so that work outside the guest is no free work: about its time in fuel.
CALL_FUEL = 50_000
BYTE_FUEL = 200
SKIP_FUEL = 10_000  # of each deleted key that a scan passes


class Ended(Exception):
    """A limit or a rule ends the call."""

    def __init__(self, kind: ErrorKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class State:
    """One contract's committed keys and values, in order."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []

    def apply(self, changes: dict[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            known = key in self.values
            if value is not None:
                self.values[key] = value
                if not known:
                    insort(self.keys, key)
            elif known:
                del self.values[key]
                del self.keys[bisect_left(self.keys, key)]


class Call:
    """One call's view of the world. Writes stay in `changes` until somebody commits them."""

    def __init__(
        self,
        state: State,
        limits: Limits,
        *,
        writable: bool,
        caller: bytes | None,
        block: BlockInfo,
        seed: bytes,
    ) -> None:
        self.state = state
        self.limits = limits
        self.writable = writable
        self.account = caller
        self.info = block
        self.dice = seed
        self.changes: dict[bytes, bytes | None] = {}
        self._changed: list[bytes] = []  # the keys of `changes`, in order
        self.events: list[tuple[str, bytes]] = []
        self.logs: list[str] = []
        self.ended: Ended | None = None  # set once; whatever the guest does then, it is over
        self.short: MemoryError | OSError | None = None  # what this machine lacked, not the guest
        self._write_bytes = 0
        self._event_bytes = 0
        self._log_bytes = 0
        self.host_calls = 0
        self.host_fuel = 0

    def end(self, kind: ErrorKind, text: str) -> NoReturn:
        self.ended = self.ended or Ended(kind, text)
        raise self.ended

    def count(self) -> None:
        """One more host call. Every host function starts with this."""
        self.host_calls += 1
        if self.host_calls > self.limits.host_calls_max:
            text = f"more than {self.limits.host_calls_max} host calls; touch less state in a call"
            self.end(ErrorKind.HOST_CALLS, text)
        self.charge(0)

    def charge(self, size_bytes: int) -> None:
        self._burn(CALL_FUEL + size_bytes * BYTE_FUEL)

    def _burn(self, fuel: int) -> None:
        self.host_fuel += fuel
        if self.host_fuel > self.limits.fuel:
            self.end(ErrorKind.FUEL, OUT_OF_FUEL)

    def check_write(self, key_bytes: int, value_bytes: int) -> None:
        """Before anything of that size is copied."""
        if not self.writable:
            self.end(ErrorKind.READ_ONLY, "a query cannot change state: make it a command")
        if key_bytes > KEY_BYTES_MAX:
            self.end(ErrorKind.STATE, f"a key of {key_bytes} bytes; at most {KEY_BYTES_MAX}")
        if value_bytes > VALUE_BYTES_MAX:
            text = f"a value of {value_bytes} bytes; at most {VALUE_BYTES_MAX}: use a Map"
            self.end(ErrorKind.STATE, text)
        self._write_bytes += key_bytes + value_bytes
        if self._write_bytes > self.limits.state_write_bytes_max:
            text = f"more than {self.limits.state_write_bytes_max} bytes written in a call"
            self.end(ErrorKind.STATE, text)

    def get(self, key: bytes) -> bytes | None:
        if key in self.changes:
            return self.changes[key]
        return self.state.values.get(key)

    def set(self, key: bytes, value: bytes | None) -> None:
        if key not in self.changes:
            insort(self._changed, key)
        self.changes[key] = value

    def scan(self, prefix: bytes, start: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Costs what it finds and passes, however much the call has written."""
        limit = min(limit, SCAN_ITEMS_MAX)
        start = max(prefix, start)
        keys, own_keys = self.state.keys, self._changed
        at, own_at, size_bytes = bisect_left(keys, start), bisect_left(own_keys, start), 0
        found: list[tuple[bytes, bytes]] = []
        while len(found) < limit:
            committed = _under(prefix, keys, at)
            own = _under(prefix, own_keys, own_at)
            key = min((each for each in (committed, own) if each is not None), default=None)
            if key is None:
                break
            at += key == committed
            own_at += key == own
            value = self.get(key)
            if value is None:
                self._burn(SKIP_FUEL)
                continue
            size_bytes += len(key) + len(value)
            if size_bytes > VALUE_BYTES_MAX and found:
                break
            found.append((key, value))
        return found

    def log(self, size_bytes: int, text: str) -> None:
        if self._log_bytes + size_bytes <= self.limits.log_bytes_max:
            self._log_bytes += size_bytes
            self.logs.append(text)

    def check_event(self, name_bytes: int, data_bytes: int) -> None:
        self._event_bytes += name_bytes + data_bytes
        if self._event_bytes > self.limits.output_bytes_max:
            text = f"events of more than {self.limits.output_bytes_max} bytes"
            self.end(ErrorKind.OUTPUT, text)

    def blake2_256(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=32).digest()

    def sha2_256(self, data: bytes) -> bytes:
        return hashlib.sha256(data).digest()


def _under(prefix: bytes, keys: list[bytes], at: int) -> bytes | None:
    """The key at this place, where it starts with the prefix."""
    return keys[at] if at < len(keys) and keys[at].startswith(prefix) else None


def cut(text: str) -> str:
    """As UTF-8 within the limit; a lone surrogate, which has none, becomes a question mark."""
    data = text.encode(errors="replace")
    if len(data) <= TEXT_BYTES_MAX:
        return data.decode()
    return data[:TEXT_BYTES_MAX].decode(errors="ignore") + "…"
