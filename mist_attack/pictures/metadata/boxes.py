"""JPEG XL, as far as its decoder does not tell: the size before it decodes, and XMP."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator


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


_CODESTREAM = b"\xff\x0a"
_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_WIDTHS = (9, 13, 18, 30)
"""Of a number that is written with two bits before it."""


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a JPEG XL; None of other files."""
    code = data
    if data.startswith(_CONTAINER):
        code = next((content[4 * (kind == b"jxlp") :] for kind, content in boxes(data) if kind[:3] == b"jxl"), b"")
    if not code.startswith(_CODESTREAM):
        return None
    take = _taker(int.from_bytes(code[2:16], "little"))
    in_eighths = take(1)
    height = _side(take, in_eighths)
    across, down = _RATIOS.get(take(3), (0, 1))
    return height * across // down if across else _side(take, in_eighths), height


def _side(take: Callable[[int], int], in_eighths: int) -> int:
    return 8 * (take(5) + 1) if in_eighths else take(_WIDTHS[take(2)]) + 1


def _taker(bits: int) -> Callable[[int], int]:
    """Takes the next bits of a number, the lowest first."""
    position = 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        return bits >> position - count & (1 << count) - 1

    return take


def xmp_in_boxes(data: bytes) -> bytes:
    """XMP of a JPEG XL; empty where there is none."""
    return next((content for kind, content in boxes(data) if kind == b"xml "), b"")
