"""The tab's "Batch from directory": every picture of a folder, and a row for each."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modules import errors, shared
from PIL import Image

from mist_attack.errors import CheckpointError, MistError, SettingsError, quoted
from mist_attack.gallery.manifest import known_results
from mist_attack.gallery.naming import Work, with_companions, works_for
from mist_attack.gallery.selection import Source, pictures_in, select
from mist_attack.gallery.storage import Folder
from mist_attack.pictures.reading import read_picture
from mist_attack.settings import Settings

from . import progress, saving
from .jobs import Outcome, protect_picture
from .pictures import as_pil

PATH = 300
"""Characters of one that are repeated in a message."""


@dataclass
class Row:
    name: str
    said: str
    protected: bool = False


@dataclass(frozen=True)
class Done:
    path: Path
    outcome: Outcome


def works_in(source: str | None, destination: str | None, *, deep: bool = False) -> list[Work]:
    """What is to be done in a folder of the server, and with `deep` in the folders in it. `~` is the user's own folder.

    Results keep the tree and the names; `cat.mask.png` beside `cat.jpg` is its mask. An empty destination is `mist`
    inside the source. Raises SettingsError for folders that will not do."""
    folder, out = places(source, destination)
    try:
        if not folder.is_dir():
            raise SettingsError(f"Expected a folder of pictures on the server, found none at {quoted(source, PATH)}.")
        found = select([folder], out) if deep else [Source(path) for path in pictures_in(folder)]
    except OSError as error:
        raise SettingsError(
            f"{quoted(source, PATH)} cannot be read ({error.strerror}); choose another folder."
        ) from error
    results = _results_in(out)
    found = [picture for picture in found if picture.path.absolute() not in results]
    if not found:
        raise SettingsError(f"No pictures in {quoted(source, PATH)}.")
    return [with_companions(work) for work in works_for(found, out, ".png")]


def _results_in(out: Path) -> set[Path]:
    """Of sets, whose runs go on: they are no pictures to protect."""
    try:
        return {(out / name).absolute() for name in known_results(Folder(out))}
    except OSError as error:
        raise SettingsError(f"{quoted(str(out), PATH)} cannot be read ({error.strerror}); choose another.") from error


def places(source: str | None, destination: str | None) -> tuple[Path, Path]:
    """The folder of the pictures, and that of the results. Raises SettingsError."""
    folder = _folder(source)
    return folder, _folder(destination) if destination and destination.strip() else folder / "mist"


def _folder(name: str | None) -> Path:
    if not name or not name.strip():
        raise SettingsError("Name a directory of pictures on the server first.")
    try:
        folder = Path(name.strip()).expanduser()
        whole = folder.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no such user; a NUL
        raise SettingsError(f"There can be no folder {quoted(name, PATH)}.") from error
    if whole == whole.parent:
        raise SettingsError(f"{quoted(name, PATH)} is the root of a disk; choose a folder on it.")
    return folder


def protect_works(
    works: list[Work], settings: Settings, *, target: Image.Image | None = None, output_size: float = 0
) -> tuple[list[Row], Done | None]:
    """Rows, and the last that was written. A picture that fails is told and the rest goes on.

    An interrupted picture is not written, and ends the run."""
    shared.state.job_count = len(works)
    rows, last = [], None
    for work, name in zip(works, names_of(works), strict=True):
        if progress.stopped():
            rows.append(Row(name, "not done: interrupted"))
            continue
        row, outcome = _row(name, work, settings, target, output_size)
        rows.append(row)
        last = last if outcome is None else Done(work.output, outcome)
        shared.state.job_no += 1
    return rows, last


def names_of(works: list[Work]) -> list[str]:
    """Of the pictures, below the folder that all of them are in."""
    top = Path(os.path.commonpath([work.source.parent for work in works]))
    return [str(work.source.relative_to(top)) for work in works]


def _row(
    name: str, work: Work, settings: Settings, target: Image.Image | None, output_size: float
) -> tuple[Row, Outcome | None]:
    try:
        if work.refused:
            raise MistError(work.refused)
        said, outcome = _protect_file(work, settings, target, output_size)
        return Row(name, said, protected=outcome is not None), outcome
    except CheckpointError:  # the next picture would fail alike
        raise
    except MistError as error:
        return Row(name, f"failed: {error}"), None
    except (RuntimeError, MemoryError, OSError) as error:
        errors.report(f"Mist: {work.source}", exc_info=True)
        return Row(name, f"failed: {type(error).__name__}: {error}"), None


def _protect_file(
    work: Work, settings: Settings, target: Image.Image | None, output_size: float
) -> tuple[str, Outcome | None]:
    """What was done, and the outcome where one was written."""
    picture = read_picture(work.source)
    mask = None if work.mask is None else as_pil(read_picture(work.mask))
    outcome = protect_picture(as_pil(picture), settings, mask=mask, target=target, output_size=output_size)
    if outcome.report.stopped:
        return "not written: interrupted", None
    saving.save(work.output, outcome, picture.metadata, work.source)
    report = outcome.report
    return " ".join([report.words(), "; ".join([report.summary(), *report.notices, *picture.notices])]), outcome


def table(rows: list[Row], notes: Sequence[str] = ()) -> str:
    told = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    cells = "".join(f"<tr><td>{html.escape(row.name)}</td><td>{html.escape(row.said)}</td></tr>" for row in rows)
    done = sum(row.protected for row in rows)
    return f"<p>{done} of {len(rows)} protected.</p>{told}<table class='mist-report'>{cells}</table>"
