"""Which original a protected picture belongs to: two files, or two folders with the same names in them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError
from ..gallery.paths import folded
from ..gallery.selection import Source, selection


@dataclass(frozen=True)
class Paths:
    name: str
    original: Path
    protected: Path


def pairs(original: Path, protected: Path) -> tuple[list[Paths], dict[str, str]]:
    """And the names that have no counterpart, with why. Raises SettingsError where there is no pair."""
    for path in (original, protected):
        if not path.exists():
            raise SettingsError(f"{path}: there is no such file or folder; check the name.")
    if original.is_dir() != protected.is_dir():
        kinds = ["a folder" if path.is_dir() else "a file" for path in (original, protected)]
        raise SettingsError(f"Expected two pictures or two folders; {original} is {kinds[0]}, {protected} {kinds[1]}.")
    if not original.is_dir():
        return [Paths(protected.name, original, protected)], {}
    return _in_folders(original, protected)


def _in_folders(original: Path, protected: Path) -> tuple[list[Paths], dict[str, str]]:
    """By their place and name without the suffix: a protected JPEG is a PNG."""
    befores, afters = _by_name(original, protected), _by_name(protected, original)
    found, lone = list[Paths](), dict[str, str]()
    for key in sorted({*befores, *afters}):
        before, after = befores[key], afters[key]
        if len(before) == len(after) == 1:
            found.append(Paths((after[0].folder / after[0].path.name).as_posix(), before[0].path, after[0].path))
            continue
        for source in (*before, *after):
            lone[str(source.path)] = _why(before, after, original, protected)
    if not found:
        raise SettingsError(
            f"No picture in {protected} has the name of one in {original}; results of 'mist protect' keep their names."
        )
    return found, lone


def _why(before: list[Source], after: list[Source], original: Path, protected: Path) -> str:
    if not before or not after:
        return f"no picture of that name in {protected if before else original}"
    return "several pictures of that name, so it is not known which belong together; compare them one by one"


def _by_name(folder: Path, other: Path) -> defaultdict[str, list[Source]]:
    """What is in the other folder does not count, where it is inside of this one."""
    found = defaultdict[str, list[Source]](list)
    for source in selection([folder], other).sources:
        found[folded((source.folder / source.path.stem).as_posix())].append(source)
    return found
