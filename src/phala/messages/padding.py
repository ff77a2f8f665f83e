"""Sizes tell secrets: whatever is encrypted is first filled up to one of a few sizes."""

from typing import Final

from phala.errors import Invalid

CLASSES_BYTES: Final = (1024, 4096, 16_384, 65_536)
FRAME_BYTES: Final = 4  # the length in front


def pad(plaintext: bytes) -> bytes:
    """Length (u32, little-endian), the bytes, zeros up to the smallest class that holds them.

    Raises:
        Invalid: larger than the largest class.
    """
    need = len(plaintext) + FRAME_BYTES
    for size in CLASSES_BYTES:
        if need <= size:
            return len(plaintext).to_bytes(FRAME_BYTES, "little") + plaintext.ljust(
                size - FRAME_BYTES, b"\0"
            )
    raise Invalid(
        f"{len(plaintext)} bytes are more than a call may carry",
        mend=f"send at most {CLASSES_BYTES[-1] - FRAME_BYTES} bytes in one call",
    )


def unpad(padded: bytes) -> bytes:
    """Raises `Invalid` for anything that `pad` does not make."""
    size = int.from_bytes(padded[:FRAME_BYTES], "little")
    body, filler = padded[FRAME_BYTES : FRAME_BYTES + size], padded[FRAME_BYTES + size :]
    if len(padded) not in CLASSES_BYTES or len(body) != size or filler.strip(b"\0"):
        raise Invalid(f"{len(padded)} bytes are not padded", mend="pad before encrypting")
    return body
