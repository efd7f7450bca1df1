"""What counts as text: readable, of bounded length, and no picture in an encoding of letters."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from ...errors import MistError

_LONGEST_CODE = 256
"""Characters in one run of an encoding; a thumbnail needs more, a checksum less."""

# Runs, and the entropy per character that makes one a code. Rows of one letter have less than 3 bits, hex digits 3.5
# and more; language and JSON at most 5.2, Base64 and ASCII85 of a picture 5.7 and more.
_CODES = (
    (re.compile(r"(?:[A-Za-z0-9+/_=-]{24,}(?:\\[rn]|[\s,;|.])*)+"), 3.0),
    (re.compile(r"(?:(?:0x|\\x|%|&#x)?[0-9A-Fa-f]{2}[\s,:;-]{0,2})+"), 3.0),
    (re.compile(r"(?:\d{1,3}[\s,;]+)+"), 3.0),
    (re.compile(r"(?:[!-~]{40,}\s*)+"), 5.6),
)


class NotKeptError(MistError):
    """It is not on the list of what travels to the result."""


class Allowance:
    """How many characters of text a piece of metadata may still hold."""

    def __init__(self, characters: int) -> None:
        self.left = characters

    def spend(self, size: int) -> None:
        if size > self.left:
            raise NotKeptError("there is too much of it")
        self.left -= size

    def take(self, text: str) -> str:
        """The text without control characters. Raises NotKeptError where it is none, or too much."""
        text = plain(text, self.left)
        self.spend(len(text.encode()))
        return text

    def take_bytes(self, data: bytes, encodings: Iterable[str]) -> str:
        """As `take`, in the first of the encodings that gives text; in none of them may it be data."""
        readings = [reading for name in encodings if (reading := _decoded(data, name)) is not None]
        if any(map(_is_code, [*readings, data.decode("latin-1")])):
            raise NotKeptError("it holds encoded data")
        for reading in readings:
            with suppress(NotKeptError):
                text = plain(reading, self.left)
                self.spend(len(data))
                return text
        raise NotKeptError("it is not text")


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeError:
        return None


def plain(text: str, limit: int) -> str:
    """The text without control characters. Raises NotKeptError where it is longer than `limit` bytes, or data."""
    text = text.strip("\0")
    if len(text) > limit or len(text.encode("utf-8", "surrogatepass")) > limit:
        raise NotKeptError("it is too long")
    if not text.isascii() or not text.isprintable():
        text = _readable(text)
    if _is_code(text):
        raise NotKeptError("it holds encoded data")
    return text


def _readable(text: str) -> str:
    kinds = [unicodedata.category(character) for character in text]
    unreadable = sum(kind in {"Cc", "Cs", "Cn", "Co"} for kind in kinds) + text.count("\ufffd")
    if unreadable - sum(map(text.count, "\t\r\n")) > max(4, len(text) // 50):
        raise NotKeptError("it is not text")
    return "".join(
        character if kind not in {"Cc", "Cs"} or character in "\t\r\n" else " "
        for character, kind in zip(text, kinds, strict=True)
    )


def _is_code(text: str) -> bool:
    if len(text) < _LONGEST_CODE:
        return False
    return any(
        len(found.group()) >= _LONGEST_CODE and _bits(found.group()) > bits
        for pattern, bits in _CODES
        for found in pattern.finditer(text)
    )


def _bits(text: str) -> float:
    """Entropy per character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def told(dropped: list[str]) -> str:
    """One line about what was not kept."""
    names = list(dict.fromkeys(dropped))
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"not kept, since only text, numbers, dates and rights are: {', '.join(names[:12])}{more}"
