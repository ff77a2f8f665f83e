"""Looking for patients where none may be: rows of numbers, in every form they could take."""

import base64
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

WINDOW = 4  # consecutive numbers: enough to be no accident, few enough to survive cutting
CHUNK_BYTES = 1 << 20
ZEROS = bytes(CHUNK_BYTES)


def needles(rows: Iterable[Sequence[float]]) -> dict[bytes, str]:
    """What to look for -> in which form it gives a row away."""
    found: dict[bytes, str] = {}
    for row in rows:
        for start in range(0, len(row) - WINDOW + 1, WINDOW):
            part = list(row[start : start + WINDOW])
            # The text is compact JSON too.
            texts = {",".join(map(repr, part)): "text", json.dumps(part)[1:-1]: "json"}
            binary = struct.pack(f"<{WINDOW}d", *part)
            for text, form in texts.items():
                found.setdefault(text.encode(), form)
            found[binary] = "float64"
            found[struct.pack(f">{WINDOW}d", *part)] = "float64"
            for data in [binary, *(text.encode() for text in texts)]:
                found[data.hex().encode()] = "hex"  # as JSON-RPC carries bytes
                for shape in base64_shapes(data):
                    found.setdefault(shape, "base64")
    return found


def base64_shapes(data: bytes) -> Iterator[bytes]:
    """How `data` looks inside a longer base64 text, for each of the three alignments."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data)
        first = (0, 2, 3)[before]  # the characters that the bytes before have a part in
        whole = (before + len(data)) * 8 // 6
        yield encoded[first:whole]


def hits(data: bytes, wanted: dict[bytes, str]) -> set[str]:
    """The forms in which something wanted lies in the data."""
    return {form for needle, form in wanted.items() if needle in data}


def in_files(folder: Path, wanted: dict[bytes, str]) -> dict[str, set[str]]:
    """Relative path -> forms found, for each file that holds something."""
    out = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_socket():
            found = hits(path.read_bytes(), wanted)
            if found:
                out[str(path.relative_to(folder))] = found
    return out


def in_memory(pid: int, wanted: dict[bytes, str]) -> set[str]:
    """Forms found in what a process holds in memory that it can write. Needs root."""
    overlap = max(map(len, wanted))
    found: set[str] = set()
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            if "w" not in rights or "r" not in rights:
                continue
            at, end = (int(part, 16) for part in span.split("-"))
            while at < end:
                try:
                    memory.seek(at)
                    chunk = memory.read(min(CHUNK_BYTES, end - at))
                except OSError:
                    break  # the mapping went away meanwhile
                if not chunk:
                    break
                if chunk != ZEROS[: len(chunk)]:  # most of what was reserved, never used
                    found |= hits(chunk, wanted)
                at += max(len(chunk) - overlap, overlap) if at + len(chunk) < end else len(chunk)
    return found
