"""Who is the node's owner: only that one may use unsafe methods, and see the metrics."""

import ipaddress
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

# Whoever sends one of these speaks for another, who may be anywhere.
FORWARDED: Final = (b"forwarded", b"via", b"x-real-ip")
FORWARDED_FRONT: Final = b"x-forwarded-"


def is_loopback(peer: Any) -> bool:
    """Whether a peer, as the socket names it, is on this machine."""
    try:
        return bool(peer) and ipaddress.ip_address(peer[0]).is_loopback
    except ValueError:
        return False


def is_own(peer: Any, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the node's owner asks, who alone may use unsafe methods.

    1 the peer is on this machine; 2 it does not speak for another; 3 it is no page that a browser
    has from elsewhere.
    """
    if not is_loopback(peer):  # 1
        return False
    for name, value in headers:
        if name in FORWARDED or name.startswith(FORWARDED_FRONT):  # 2
            return False
        if name == b"origin" and not _is_own_origin(value):  # 3
            return False
    return True


def _is_own_origin(origin: bytes) -> bool:
    try:
        host = urlsplit(origin.decode("latin-1")).hostname
    except ValueError:
        return False
    return host == "localhost" or is_loopback((host or "",))
