"""One rule for all the paths of a run: what is read is never written to, and nothing is written for two purposes."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from ..errors import OutputError, SettingsError

MAX_NAME = 255
"""Of one name in a path, as file systems have it: bytes, on Windows UTF-16 units."""

Uses = Iterable[tuple[Path, str]]
"""Paths, and what each is in a message: "an input", "the report"."""


def folded(path: str | Path) -> str:
    """Equal for names that some file system takes for one: in capitals or not, with accents composed or not."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def require_apart(read: Uses, written: Uses) -> None:
    """Raises SettingsError where a path of `written` is one of `read` (through links too) or lies inside one, is
    written for another purpose as well, or cannot be a file.

    read: files, and folders that are read whole."""
    spared, used = {key: what for path, what in read for key in _keys(path)}, dict[object, str]()
    folders: dict[str, Path] = {}
    for path, what in written:
        require_file(path, what)
        place, *same = _keys(path)
        for other in (spared.get(key) for key in (place, *same)):
            _refuse(path, what, other)
        _refuse(path, what, used.get(place))
        used[place] = what
        folders.setdefault(os.path.dirname(str(place)), path)  # noqa: PTH120  # a string that was folded
    for folder, path in folders.items():
        for above in (folder, *map(str, PurePath(folder).parents)):
            if found := spared.get(above) or used.get(above):
                raise SettingsError(f"{path} would be written inside {found}. Choose another name.")


def _refuse(path: Path, what: str, other: str | None) -> None:
    if other == what:
        raise SettingsError(f"{path} would be written twice, as {what}. Choose another name.")
    if other:
        raise SettingsError(f"{path} is {other}, and never overwritten by {what}. Choose another name.")


def _keys(path: Path) -> Iterator[object]:
    """What tells a file from others: its place, and the file itself where it is there under several names."""
    yield folded(os.path.realpath(path))
    try:
        found = path.stat()
    except (OSError, ValueError):
        return
    yield found.st_dev, found.st_ino


def require_file(path: Path, what: str) -> None:
    """Raises SettingsError for what is there and is no file, and for a name that cannot be one."""
    if why := too_long(path):
        raise SettingsError(f"{path}: {why}.")
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{path} cannot be {what} ({reason}). Choose another name.") from error
    if stat.S_ISDIR(mode):
        raise SettingsError(f"{path} is a folder, and cannot be {what}. Name a file in it.")
    if not stat.S_ISREG(mode):
        raise SettingsError(f"{path} is a device or pipe, and cannot be {what}. Choose another name.")


def too_long(path: Path) -> str | None:
    """Why no file can have such a name."""
    units = path.name.encode("utf-16-le", "surrogatepass")[::2] if os.name == "nt" else os.fsencode(path.name)
    return (
        f"its name has {len(units)} bytes, and at most {MAX_NAME} are possible; choose a shorter one"
        if len(units) > MAX_NAME
        else None
    )


def require_report(path: Path, opening: bytes = b"[") -> None:
    """A file that is there already is a report of ours: JSON that begins so. Raises OutputError."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{path} cannot be read ({error.strerror or error}). Choose another --report.") from error
    if start and not start.startswith(opening):
        raise OutputError(
            f"{path} exists already and is not a report that Mist wrote, so it is not overwritten. Choose another name."
        )


def require_no_root(path: Path, purpose: str) -> None:
    """Raises SettingsError for the root of a disk: everything on it is never what is meant."""
    whole = Path(os.path.realpath(path))
    if whole == whole.parent:
        raise SettingsError(f"{path} is the root of a disk. Name the folder {purpose}.")
