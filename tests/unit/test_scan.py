"""The scan finds what it is there to find: otherwise finding nothing would say nothing."""

import base64
import importlib.util
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
from websockets.frames import Frame, Opcode


def load(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "e2e" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"e2e_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scan, capture = load("scan"), load("capture")
ROW = [17.99, 10.38, 122.8, 1001.0, 0.1184, 0.2776, 0.3001, 0.1471]


@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize(
    ("data", "form"),
    [
        (",".join(map(str, ROW)).encode(), "text"),
        (json.dumps({"row": ROW}).encode(), "json"),
        (json.dumps({"row": ROW}, separators=(",", ":")).encode(), "text"),
        (struct.pack("<8d", *ROW), "float64"),
        (struct.pack(">8d", *ROW), "float64"),
        (b"0x00" + json.dumps(ROW).encode().hex().encode(), "hex"),
        (base64.b64encode(b"x" + struct.pack("<8d", *ROW)), "base64"),
        (base64.b64encode(b"xy" + json.dumps(ROW).encode()), "base64"),
    ],
)
def test_a_row_is_found_in_every_form(data: bytes, form: str, before: int) -> None:
    assert form in scan.hits(b"." * before + data + b"...", scan.needles([ROW]))


def test_other_numbers_are_not_found() -> None:
    other = json.dumps([number + 1 for number in ROW]).encode()

    assert not scan.hits(other + os.urandom(4096), scan.needles([ROW]))


def test_what_this_process_holds_is_found_in_its_memory() -> None:
    held = bytearray(json.dumps(ROW).encode())

    if os.geteuid() != 0:
        pytest.skip("reading a process's memory needs root")
    assert "json" in scan.in_memory(os.getpid(), scan.needles([ROW]))
    assert held


def test_packets_become_streams(tmp_path: Path) -> None:
    parts = [(1, 2, 30, b"c"), (1, 2, 10, b"a"), (2, 1, 5, b"x"), (1, 2, 20, b"b")]
    (tmp_path / "tap").write_bytes(
        b"".join(capture.RECORD.pack(*part[:3], len(part[3])) + part[3] for part in parts)
    )

    assert capture.streams(tmp_path / "tap") == {(1, 2): b"abc", (2, 1): b"x"}


def test_the_numbers_of_packets_go_round(tmp_path: Path) -> None:
    parts = [(1, 2, 1, b"b"), (1, 2, 2**32 - 3, b"a"), (1, 2, 2, b"c")]
    (tmp_path / "tap").write_bytes(
        b"".join(capture.RECORD.pack(*part[:3], len(part[3])) + part[3] for part in parts)
    )

    assert capture.streams(tmp_path / "tap") == {(1, 2): b"abc"}


@pytest.mark.parametrize("size", [1, 125, 126, 65_535, 65_536])
def test_what_a_websocket_client_sends_is_unmasked(size: int) -> None:
    said = [os.urandom(size), b"next"]
    stream = b"GET / HTTP/1.1\r\nSec-WebSocket-Key: abc\r\n\r\n"
    for body in said:
        frame = Frame(Opcode.TEXT, body)
        stream += frame.serialize(mask=True)

    assert capture.unmasked(stream) == b"".join(said)
    assert capture.unmasked(b"POST / HTTP/1.1\r\n\r\n") == b""


def test_every_byte_on_loopback_is_recorded(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("recording loopback takes root")
    said, tap = os.urandom(300_000), tmp_path / "tap"
    with subprocess.Popen(
        [sys.executable, str(capture.__file__), tap], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as client:
                sender = threading.Thread(target=client.sendall, args=(said,))
                sender.start()
                server, _ = listening.accept()
                with server, server.makefile("rb") as reading:
                    assert reading.read(len(said)) == said
                sender.join()
                source = client.getsockname()[1]
        process.terminate()
        assert process.stdout.readline() == "0\n"

    assert capture.streams(tap)[source, port] == said
