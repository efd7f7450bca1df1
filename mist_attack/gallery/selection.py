"""Which pictures are meant: files, folders with all that is in them, globs, and lists in a file."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError
from ..pictures.reading import UNREAD
from .companions import kind_of, looks_like_picture, stem_of
from .lists import names_in
from .paths import folded, require_no_root

Identities = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Source:
    """A picture that is to be protected."""

    path: Path
    folder: Path = Path()
    """Between the root that was named and the picture: the result keeps it."""
    named: bool = False
    """By the user himself; others were found."""


@dataclass(frozen=True)
class Passed:
    """A file that looks like a picture, or stands beside one, and that nothing is made of."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Selection:
    sources: list[Source]
    passed: list[Passed]


def select(inputs: Iterable[Path], out: Path | None) -> list[Source]:
    """The sources of `selection`."""
    return selection(inputs, out).sources


def selection(inputs: Iterable[Path], out: Path | None) -> Selection:
    """The pictures that `inputs` mean, each once. Folders are read to any depth, but for `out` inside of them.

    An input is a file, a folder, a glob, or @FILE: a list of files, one in a line or separated by NUL (@- is the
    standard input). Hidden files and what does not look like a picture are passed over, as are the masks and prompts
    of pictures that are meant; other masks, and pictures of a kind that is not read, are told. Raises SettingsError
    where nothing is meant.
    """
    meant: dict[str, Source] = {}
    for given in inputs:
        for source in _meant(given, out):
            meant.setdefault(_absolute(source.path), source)
    found = _sorted_out(meant.values())
    if not found.sources:
        passed = "".join(f" {passed.path}: {passed.reason}." for passed in found.passed)
        raise SettingsError(f"No pictures in {', '.join(map(str, inputs))}.{passed}")
    return found


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of `selection_in`."""
    return [source.path for source in selection_in(folder).sources]


def selection_in(folder: Path) -> Selection:
    """The pictures directly inside a folder, by name. Masks and prompts beside them are not used."""
    require_no_root(folder, "of pictures")
    entries = [folder / entry.name for entry in sorted(_entries(folder), key=lambda entry: entry.name)]
    found = [path for path in entries if _is_meant(path.name) and not _is_folder(path)]
    pictures = _sorted_out(Source(path) for path in found if not kind_of(path.name))
    unused = "not used under Mist's own flags; name a mask with --mask_path, or use our own flags"
    return Selection(pictures.sources, pictures.passed + [Passed(path, unused) for path in found if kind_of(path.name)])


def _sorted_out(meant: Iterable[Source]) -> Selection:
    sources: list[Source] = []
    passed, companions = [], []
    for source in meant:
        name = source.path.name
        if kind_of(name):
            companions.append(source.path)
        elif not source.named and (hint := UNREAD.get(source.path.suffix.lower())):
            passed.append(Passed(source.path, hint))
        else:
            sources.append(source)
    served = {(os.path.dirname(_absolute(source.path)), folded(source.path.stem)) for source in sources}  # noqa: PTH120
    lone = [path for path in companions if (os.path.dirname(_absolute(path)), folded(stem_of(path.name))) not in served]  # noqa: PTH120
    return Selection(sources, passed + [Passed(path, _lone(path)) for path in lone])


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  # keeps symbolic links apart


def _lone(path: Path) -> str:
    kind, stem = kind_of(path.name), stem_of(path.name)
    return f"a {kind} by its name, but no picture {stem} in its folder is to be protected"


def lists(inputs: Iterable[Path]) -> list[Path]:
    """The files of names among `inputs`; the standard input is none."""
    return [Path(str(given)[1:]) for given in inputs if _is_list(given) and str(given) != "@-"]


def _is_list(given: Path) -> bool:
    return str(given).startswith("@") and not os.path.lexists(given)


def _meant(given: Path, out: Path | None) -> Iterator[Source]:
    text = str(given)
    if given.is_dir():
        require_no_root(given, "of pictures")
        yield from _inside(given, Path(), out, _above(given))
    elif _is_list(given):
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
        elif _is_meant(entry.name):
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


def _is_meant(name: str) -> bool:
    """A picture or a companion, where a folder or a pattern is given; what becomes of it is seen later."""
    return not name.startswith(".") and (looks_like_picture(name) or kind_of(name) is not None)


def _matching(pattern: str, out: Path | None) -> Iterator[Source]:
    base = Path(*_before_magic(Path(pattern)))
    if "**" in pattern:
        require_no_root(base, "that the pattern begins with")
    found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207  # absolute ones too
    if not found:
        raise SettingsError(f"Nothing matches {pattern}. A file with such a name does not exist either.")
    for path in found:
        if path.is_dir():
            if "**" not in pattern:
                yield from _inside(path, path.relative_to(base), out, _above(path))
        elif _is_meant(path.name) and not (out and _is_below(path, out) and not _is_below(base, out)):
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
    paths = names_in(name)
    if not paths:
        return []
    absolute = [Path(_absolute(path)) for path in paths]
    base = _common(absolute)
    folders = [path.parent.relative_to(base) if base else Path() for path in absolute]
    return [Source(path, folder) for path, folder in zip(paths, folders, strict=True)]


def _common(paths: list[Path]) -> Path | None:
    try:
        return Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError:  # on several drives of Windows
        return None
