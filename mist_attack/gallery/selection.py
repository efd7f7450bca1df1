"""Which pictures are meant: files, folders with all that is in them, globs, and lists in a file."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError
from ..images import PICTURE_SUFFIXES

MASK, PROMPT = ".mask.png", ".prompt.txt"
"""What stands beside a picture: cat.jpg, cat.mask.png, cat.prompt.txt."""

Identities = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Source:
    """A picture that is to be protected."""

    path: Path
    folder: Path = Path()
    """Between the root that was named and the picture: the result keeps it."""
    named: bool = False
    """By the user himself; others were found."""


def select(inputs: Iterable[Path], out: Path | None) -> list[Source]:
    """The pictures that `inputs` mean, each once. Folders are read to any depth, but for `out` inside of them.

    An input is a file, a folder, a glob, or @FILE: a list of files, one in a line or separated by NUL (@- is the
    standard input). Hidden files, masks and what is no picture are passed over. Raises SettingsError where nothing
    is meant.
    """
    chosen: dict[str, Source] = {}
    for given in inputs:
        for source in _meant(given, out):
            chosen.setdefault(os.path.abspath(source.path), source)  # noqa: PTH100  # keeps symbolic links apart
    if not chosen:
        raise SettingsError(f"No pictures in {', '.join(map(str, inputs))}.")
    return list(chosen.values())


def pictures_in(folder: Path) -> list[Path]:
    """The pictures directly inside a folder, by name."""
    return sorted(path for path in folder.iterdir() if _is_picture(path.name))


def _meant(given: Path, out: Path | None) -> Iterator[Source]:
    text = str(given)
    if given.is_dir():
        yield from _inside(given, Path(), out, _above(given))
    elif text.startswith("@") and not os.path.lexists(given):
        yield from _listed(text[1:])
    elif glob.has_magic(text) and not os.path.lexists(given):
        yield from _matching(text, out)
    else:
        yield Source(given, named=True)


def _above(folder: Path) -> Identities:
    return frozenset(map(_identity, folder.resolve().parents))


def _inside(top: Path, folder: Path, out: Path | None, above: Identities) -> list[Source]:
    """Sorted, so that every run sees one order. A link to a folder that it is inside of is not followed."""
    above |= {_identity(top)}
    found = []
    for entry in sorted(_entries(top), key=lambda entry: entry.name):
        path = top / entry.name
        if _is_folder(path):
            if not entry.name.startswith(".") and _identity(path) not in above and not _is_same(path, out):
                found += _inside(path, folder / entry.name, out, above)
        elif _is_picture(entry.name):
            found.append(Source(path, folder))
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise SettingsError(
            f"{folder} cannot be read ({error.strerror}). Make it readable, or leave it out."
        ) from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _is_same(path: Path, other: Path | None) -> bool:
    return other is not None and other.exists() and path.samefile(other)


def _is_picture(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    return suffix in PICTURE_SUFFIXES and not name.startswith(".") and not name.lower().endswith(MASK)


def _matching(pattern: str, out: Path | None) -> Iterator[Source]:
    base = Path(*_before_magic(Path(pattern)))
    found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207  # absolute ones too
    if not found:
        raise SettingsError(f"Nothing matches {pattern}. A file with such a name does not exist either.")
    for path in found:
        if path.is_dir():
            if "**" not in pattern:
                yield from _inside(path, path.relative_to(base), out, _above(path))
        elif _is_picture(path.name) and not (out and _is_below(path, out) and not _is_below(base, out)):
            yield Source(path, path.parent.relative_to(base))


def _before_magic(pattern: Path) -> Iterator[str]:
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _listed(name: str) -> list[Source]:
    """What a list names is kept below the deepest folder that all of it has in common."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise SettingsError(f"The list {name} cannot be read ({error.strerror}).") from error
    parts = data.split(b"\0") if b"\0" in data else data.removeprefix(b"\xef\xbb\xbf").splitlines()
    paths = [Path(os.fsdecode(part)) for part in parts if part.strip()]
    if not paths:
        return []
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100  # keeps symbolic links apart
    base = _common(absolute)
    folders = [path.parent.relative_to(base) if base else Path() for path in absolute]
    return [Source(path, folder) for path, folder in zip(paths, folders, strict=True)]


def _common(paths: list[Path]) -> Path | None:
    try:
        return Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError:  # on several drives of Windows
        return None
