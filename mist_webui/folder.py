"""The tab's "Batch from directory": every picture of a folder and the folders in it, and a row for each."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from modules import errors, shared
from PIL import Image

from mist_attack.errors import CheckpointError, MistError, SettingsError
from mist_attack.gallery.selection import select
from mist_attack.gallery.works import Work, with_companions, works_for
from mist_attack.images import Picture, read_picture, to_u8
from mist_attack.settings import Settings

from . import progress, saving
from .jobs import protect_picture


@dataclass
class Row:
    name: str
    said: str
    protected: bool = False


def protect_folder(
    source: Path, destination: Path, settings: Settings, *, target: Image.Image | None = None, output_size: int = 0
) -> tuple[list[Row], Path | None]:
    """Protect what is in a folder; rows, and the last file written. A picture that fails is told and the rest goes on.

    Results keep the tree and the names; `cat.mask.png` beside `cat.jpg` is its mask. An interrupted picture is not
    written, and ends the run. Raises SettingsError for folders that will not do.
    """
    if not source.is_dir():
        raise SettingsError(f"Expected a folder of pictures on the server, found none at '{source}'.")
    works = [with_companions(work) for work in works_for(select([source], destination), destination, ".png")]
    shared.state.job_count = len(works)
    rows, last = [], None
    for work in works:
        name = str(work.source.relative_to(source))
        if progress.stopped():
            rows.append(Row(name, "not done: interrupted"))
            continue
        rows.append(_row(name, work, settings, target, output_size))
        last = work.output if rows[-1].protected else last
        shared.state.job_no += 1
    return rows, last


def _row(name: str, work: Work, settings: Settings, target: Image.Image | None, output_size: int) -> Row:
    try:
        if work.refused:
            raise MistError(work.refused)
        said = _protect_file(work, settings, target, output_size)
        return Row(name, said or "not written: interrupted", protected=said is not None)
    except CheckpointError:  # the next picture would fail alike
        raise
    except MistError as error:
        return Row(name, f"failed: {error}")
    except (RuntimeError, MemoryError, OSError) as error:
        errors.report(f"Mist: {work.source}", exc_info=True)
        return Row(name, f"failed: {type(error).__name__}: {error}")


def _protect_file(work: Work, settings: Settings, target: Image.Image | None, output_size: int) -> str | None:
    """What was done, or None where it was interrupted."""
    picture = read_picture(work.source)
    mask = None if work.mask is None else _as_pil(read_picture(work.mask))
    outcome = protect_picture(_as_pil(picture), settings, mask=mask, target=target, output_size=output_size)
    if outcome.report.stopped:
        return None
    saving.save(work.output, outcome, picture.metadata, work.source)
    return "; ".join([outcome.report.summary(), *outcome.report.notices, *picture.notices])


def _as_pil(picture: Picture) -> Image.Image:
    levels = to_u8(picture.images)
    return Image.fromarray(levels if picture.alpha is None else np.dstack([levels, picture.alpha]))


def table(rows: list[Row]) -> str:
    cells = "".join(f"<tr><td>{html.escape(row.name)}</td><td>{html.escape(row.said)}</td></tr>" for row in rows)
    done = sum(row.protected for row in rows)
    return f"<p>{done} of {len(rows)} protected.</p><table class='mist-report'>{cells}</table>"
