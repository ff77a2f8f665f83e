"""Record every byte of every loopback TCP connection; run as root, until a signal.

    python capture.py FILE

Prints a line when it listens, and at the end how many packets the kernel dropped. FILE gets, for
each packet with payload, a header of `RECORD` and the payload. `streams(FILE)` puts them together
again, each direction of each connection one run of bytes; `unmasked` opens what WebSocket clients
send.
"""

import signal
import socket
import struct
import sys
import time
from collections import defaultdict
from pathlib import Path

RECORD = struct.Struct("<HHII")  # source port, destination port, sequence number, payload bytes
ETHERNET_BYTES = 14
ETHERTYPE_IPV4 = 0x0800
PROTOCOL_TCP = 6
PACKET_OUTGOING = 4  # linux/if_packet.h; what arrives on loopback was outgoing before
RECEIVE_BUFFER_BYTES = 256 << 20
PACKET_BYTES_MAX = 1 << 17
SOL_PACKET, PACKET_STATISTICS = 263, 6  # linux/if_packet.h
SEQUENCES = 1 << 32
DRAIN_S_MAX = 10.0  # others may go on talking

UPGRADED = b"Sec-WebSocket-Key:"
HEAD_END = b"\r\n\r\n"


def record(path: Path) -> None:
    with (
        path.open("wb") as out,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE_IPV4)) as tap,
    ):
        tap.setsockopt(socket.SOL_SOCKET, 33, RECEIVE_BUFFER_BYTES)  # 33: SO_RCVBUFFORCE
        tap.bind(("lo", 0))

        deadline = float("inf")

        def stop(*_: object) -> None:
            nonlocal deadline
            deadline = time.monotonic() + DRAIN_S_MAX
            tap.settimeout(0)  # what the kernel still holds is read, then the loop ends

        signal.signal(signal.SIGTERM, stop)
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while time.monotonic() < deadline:
            try:
                packet, address = tap.recvfrom(PACKET_BYTES_MAX)
            except BlockingIOError:
                break
            if address[2] != PACKET_OUTGOING:
                out.write(tcp(packet))
        _, dropped = struct.unpack("II", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        sys.stdout.write(f"{dropped}\n")
        sys.stdout.flush()


def tcp(packet: bytes) -> bytes:
    """A packet as a record; empty when it is no TCP or carries nothing."""
    ip = packet[ETHERNET_BYTES:]
    if len(ip) < 40 or ip[9] != PROTOCOL_TCP:
        return b""
    start = (ip[0] & 15) * 4
    segment = ip[start : int.from_bytes(ip[2:4], "big") or len(ip)]
    source, destination, sequence = struct.unpack_from(">HHI", segment)
    payload = segment[(segment[12] >> 4) * 4 :]
    if not payload:
        return b""
    return RECORD.pack(source, destination, sequence, len(payload)) + payload


def streams(path: Path) -> dict[tuple[int, int], bytes]:
    """(source port, destination port) to the bytes that went that way, in order."""
    data = path.read_bytes()
    parts: dict[tuple[int, int], dict[int, bytes]] = defaultdict(dict)
    first: dict[tuple[int, int], int] = {}
    offset = 0
    while offset + RECORD.size <= len(data):
        source, destination, sequence, size = RECORD.unpack_from(data, offset)
        offset += RECORD.size
        way = source, destination
        # Numbers go round: a distance from the first one, which may have come late.
        since = (sequence - first.setdefault(way, sequence)) % SEQUENCES
        since -= SEQUENCES if since > SEQUENCES // 2 else 0
        piece = data[offset : offset + size]
        parts[way][since] = max(parts[way].get(since, b""), piece, key=len)
        offset += size
    return {ports: joined(by) for ports, by in parts.items()}


def joined(pieces: dict[int, bytes]) -> bytes:
    """Pieces by their distance from the first one; what was sent again may overlap."""
    out, end = bytearray(), min(pieces)
    for at in sorted(pieces):
        out += pieces[at][max(0, end - at) :]
        end = max(end, at + len(pieces[at]))
    return bytes(out)


def unmasked(stream: bytes) -> bytes:
    """What a client's WebSocket frames carry, put together; empty for any other stream.

    Source: RFC 6455 §5.2, §5.3.
    """
    if UPGRADED not in stream[:4096]:
        return b""
    at = stream.index(HEAD_END) + len(HEAD_END)
    out = bytearray()
    while at + 2 <= len(stream):
        first, size = stream[at], stream[at + 1] & 0x7F
        masked = stream[at + 1] & 0x80
        assert masked, f"an unmasked frame at byte {at} of a client's stream"
        assert not first & 0x40, f"a compressed frame at byte {at}: nothing could be sought in it"
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(stream[at : at + width], "big")
            at += width
        key, body = stream[at : at + 4], stream[at + 4 : at + 4 + size]
        at += 4 + size
        stretched = (key * (len(body) // 4 + 1))[: len(body)]
        number = int.from_bytes(body, "big") ^ int.from_bytes(stretched, "big")
        out += number.to_bytes(len(body), "big")
    return bytes(out)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
