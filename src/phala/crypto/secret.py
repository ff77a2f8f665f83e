"""Bytes that must not be shown."""

import hmac
from typing import Self, final


@final
class Secret:
    """Holds bytes and prints as `…`. Python copies bytes as it likes, so this guards against
    accidents (logs, tracebacks, reprs), not against whoever reads the memory."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)

    def reveal(self) -> bytes:
        """The bytes, at the one place that needs them."""
        return self._data

    def __repr__(self) -> str:
        return "…"

    def __str__(self) -> str:
        return "…"

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._data, other._data)

    def __hash__(self) -> int:
        raise TypeError("a secret is no key of a dictionary")

    def __copy__(self) -> Self:
        return self
