"""The boxes of ISO's container (JPEG XL): XMP that the decoder does not tell."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each top box, as far as the file goes."""
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if size == 1 and position + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, position + 8)
            header = 16
        end = position + size if size else len(data)
        if size and size < header:
            return
        yield kind, data[position + header : end]
        position = end


def xmp_in_boxes(data: bytes) -> bytes:
    return next((content for kind, content in boxes(data) if kind == b"xml "), b"")
