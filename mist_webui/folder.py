"""The tab's "Batch from directory": every picture of a folder, and a row for each."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from modules import errors, shared
from PIL import Image

from mist_attack.batch import pictures_in, works_for
from mist_attack.errors import CheckpointError, MistError, SettingsError
from mist_attack.images import Picture, read_picture, to_u8
from mist_attack.settings import Settings

from . import progress, saving
from .jobs import Outcome, protect_picture


@dataclass
class Row:
    name: str
    said: str
    protected: bool = False


def protect_folder(
    source: Path, destination: Path, settings: Settings, *, target: Image.Image | None = None, output_size: int = 0
) -> tuple[list[Row], Path | None]:
    """Protect what is in a folder; rows, and the last file written. A picture that fails is told and the rest goes on.

    An interrupted picture is not written, and ends the run. Raises SettingsError for folders that will not do.
    """
    if not source.is_dir():
        raise SettingsError(f"Expected a folder of pictures on the server, found none at '{source}'.")
    works = works_for(pictures_in([source]), destination, ".png")
    shared.state.job_count = max(1, len(works))
    rows, last = [], None
    for work in works:
        if progress.stopped():
            rows.append(Row(work.source.name, "not done: interrupted"))
            continue
        rows.append(_protect_file(work.source, work.output, settings, target, output_size))
        last = work.output if rows[-1].protected else last
        shared.state.job_no += 1
    return rows, last


def _protect_file(source: Path, output: Path, settings: Settings, target: Image.Image | None, output_size: int) -> Row:
    try:
        picture = read_picture(source)
        outcome = protect_picture(_as_pil(picture), settings, target=target, output_size=output_size)
        if outcome.report.stopped:
            return Row(source.name, "not written: interrupted")
        saving.save(output, outcome, picture.metadata, source)
        return Row(source.name, _summary(outcome, picture), protected=True)
    except CheckpointError:
        raise
    except MistError as error:
        return Row(source.name, f"failed: {error}")
    except (RuntimeError, MemoryError, OSError) as error:
        errors.report(f"Mist: {source}", exc_info=True)
        return Row(source.name, f"failed: {type(error).__name__}: {error}")


def _as_pil(picture: Picture) -> Image.Image:
    levels = to_u8(picture.images)
    return Image.fromarray(levels if picture.alpha is None else np.dstack([levels, picture.alpha]))


def _summary(outcome: Outcome, picture: Picture) -> str:
    return "; ".join([outcome.report.summary(), *outcome.report.notices, *picture.notices])


def table(rows: list[Row]) -> str:
    cells = "".join(f"<tr><td>{html.escape(row.name)}</td><td>{html.escape(row.said)}</td></tr>" for row in rows)
    done = sum(row.protected for row in rows)
    return f"<p>{done} of {len(rows)} protected.</p><table class='mist-report'>{cells}</table>"
