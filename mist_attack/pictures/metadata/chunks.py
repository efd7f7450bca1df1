"""A PNG's chunks: whole, or refused; texts that Pillow would refuse the picture for, left out."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_SIZES = {"cICP": 4, "sRGB": 1, "gAMA": 4, "cHRM": 32}
"""What tells colours without a profile, in bytes. The first that is there counts; gAMA and cHRM do together."""
_TOLD = {b"tEXt": "text", b"zTXt": "text", b"iTXt": "text", b"iCCP": "colour profile"}
_MOST_INFLATED, _MOST_IN_ALL = 2**20, 2**25
"""Bytes; of one, as Pillow has it, and of all."""


class DamagedError(ValueError):
    """A PNG that is not what was saved."""


def readable(data: bytes, notices: list[str]) -> bytes:
    """A PNG that Pillow reads whole; other files as they are. Raises DamagedError where a checksum is wrong.

    Texts and profiles that are too long, and damaged chunks that the pixels do not need, are left out and told."""
    if not data.startswith(SIGNATURE):
        return data
    kept, left = [SIGNATURE], _MOST_IN_ALL
    for kind, content, whole, is_sound in _chunks(data):
        size = _size(kind, content)
        if not is_sound and kind[0] < ord("a"):
            raise DamagedError(f"the checksum of its {kind.decode('latin-1')} chunk is wrong")
        if not is_sound:
            notices.append(f"a damaged chunk ({kind.decode('latin-1')!r}) was left out")
        elif size > min(_MOST_INFLATED, left):
            notices.append(f"a {_TOLD[kind]} of more than {_MOST_INFLATED} bytes was not kept: {_keyword(content)!r}")
        else:
            left -= size
            kept.append(whole)
    return b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes, bool]]:
    """Kind, content, all of it, and whether the checksum is right; to the end, or where the file is cut off."""
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        whole = data[position : position + size + 12]
        is_sound = len(whole) < size + 12 or struct.unpack(">I", whole[-4:])[0] == zlib.crc32(whole[4:-4])
        yield kind, whole[8:-4], whole, is_sound
        position += size + 12
        if kind == b"IEND":
            return
    yield b"", b"", data[position:], True


def _size(kind: bytes, content: bytes) -> int:
    """Of a text or profile, inflated, and counted to just above the limit; 0 of other chunks."""
    rest = content.partition(b"\0")[2]
    if kind == b"tEXt":
        return len(rest)
    if kind == b"iTXt":
        is_compressed, text = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
        return _inflated(text) if is_compressed else len(text)
    return _inflated(rest[1:]) if kind in _TOLD else 0


def _inflated(data: bytes) -> int:
    try:
        return len(zlib.decompressobj().decompress(data, _MOST_INFLATED + 1))
    except zlib.error:
        return 0


def _keyword(content: bytes) -> str:
    return content.partition(b"\0")[0][:79].decode("latin-1")


def colours(data: bytes) -> dict[str, bytes]:
    """The chunks of a PNG that tell its colours without a profile, by name."""
    if not data.startswith(SIGNATURE):
        return {}
    found = {kind.decode("latin-1"): content for kind, content, _, _ in _chunks(data)}
    return {name: found[name] for name, size in COLOUR_SIZES.items() if len(found.get(name, b"")) == size}


def with_colours(data: bytes, colour: dict[str, bytes]) -> bytes:
    """A PNG with such chunks; Pillow does not write all of them."""
    end = len(SIGNATURE) + 25  # of the header
    return data[:end] + b"".join(_chunk(name.encode(), content) for name, content in colour.items()) + data[end:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_profile(text: str) -> bytes:
    """What ImageMagick wrote as text: a name, a size, and hex digits. Empty where it is none."""
    try:
        return bytes.fromhex(text.split(maxsplit=2)[2])
    except (IndexError, ValueError):
        return b""
