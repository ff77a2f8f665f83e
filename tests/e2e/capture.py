"""Record every byte of every loopback TCP connection; run as root, until a signal.

    python capture.py FILE

Prints a line when it listens. FILE gets, for each packet with payload, a header of `RECORD` and the
payload. `streams(FILE)` puts them together again, each direction of each connection one run of
bytes.
"""

import signal
import socket
import struct
import sys
from collections import defaultdict
from pathlib import Path

RECORD = struct.Struct("<HHII")  # source port, destination port, sequence number, payload bytes
ETHERNET_BYTES = 14
ETHERTYPE_IPV4 = 0x0800
PROTOCOL_TCP = 6
PACKET_OUTGOING = 4  # linux/if_packet.h; loopback shows each packet twice, once so
RECEIVE_BUFFER_BYTES = 256 << 20
PACKET_BYTES_MAX = 1 << 17


def record(path: Path) -> None:
    with (
        path.open("wb") as out,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE_IPV4)) as tap,
    ):
        tap.setsockopt(socket.SOL_SOCKET, 33, RECEIVE_BUFFER_BYTES)  # 33: SO_RCVBUFFORCE
        tap.bind(("lo", 0))
        signal.signal(signal.SIGTERM, lambda *_: tap.close())
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while True:
            try:
                packet, address = tap.recvfrom(PACKET_BYTES_MAX)
            except OSError:
                return  # closed by the signal
            if address[2] == PACKET_OUTGOING:
                out.write(tcp(packet))


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
    offset = 0
    while offset + RECORD.size <= len(data):
        source, destination, sequence, size = RECORD.unpack_from(data, offset)
        offset += RECORD.size
        parts[source, destination][sequence] = data[offset : offset + size]
        offset += size
    return {ports: b"".join(by[at] for at in sorted(by)) for ports, by in parts.items()}


if __name__ == "__main__":
    record(Path(sys.argv[1]))
