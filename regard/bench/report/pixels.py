"""Pixels as a PNG file, with nothing but the standard library."""

import struct
import zlib

import numpy as np


def png(pixels: np.ndarray) -> bytes:
    """Pixels [Y, X, 4] of uint8 (red, green, blue, alpha) as a PNG file."""
    height, width, _ = pixels.shape
    # Each line starts with the number of its filter: 0 is none.
    lines = b"".join(b"\0" + line.tobytes() for line in np.ascontiguousarray(pixels))
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    body = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines, 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
