"""Text that people have written into files: names of pictures, and prompts."""

from __future__ import annotations

import codecs
import os
import re
import sys
from pathlib import Path

from ..errors import SettingsError

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def decoded(data: bytes) -> str:
    """UTF-8, or UTF-16 as some editors and shells write it. Raises UnicodeDecodeError."""
    return data.decode(_encoding(data) or "utf-8")


def names_in(name: str) -> list[Path]:
    """The files that a list names, one in a line or separated by NUL; "-" is the standard input.

    In UTF-8 (bytes that are not are names still) or UTF-16. Raises SettingsError for what is no list of files."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except (OSError, ValueError) as error:
        raise SettingsError(f"The list {name} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    try:
        entries = _entries(data)
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"The list {name} is not text. Expected names in UTF-8 or UTF-16, one in a line."
        ) from error
    for number, entry in enumerate(entries, start=1):
        if entry and (os.path.isdir(entry) or not Path(entry).name):  # noqa: PTH112  # a name that is too long is none
            found = f"The list {name}, line {number}: {entry} is a folder, and a list names files"
            raise SettingsError(f"{found}. Name folders as INPUTs of their own.")
    return [Path(entry) for entry in entries if entry]


def _entries(data: bytes) -> list[str]:
    if _encoding(data):
        return [line if line.strip() else "" for line in re.split(r"\r\n|\r|\n", decoded(data))]
    if re.search(rb"[\x01-\x08\x0e-\x1f]", data):  # some other file, unless it is text all the same
        data.decode()
    parts = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(part) if part.strip() else "" for part in parts]


def _encoding(data: bytes) -> str | None:
    """Where it is not simply UTF-8."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # unmarked, and mostly of Latin letters
        if 2 * data[first::2].count(0) > len(data) // 2 and not data[1 - first :: 2].count(0):
            return encoding
    return None
