"""Files in, protected files out: one picture after the other, and a row for each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from . import __version__
from .errors import CheckpointError, MistError, SettingsError
from .images import PICTURE_SUFFIXES, Picture, read_mask, read_picture
from .pgd import OnStep, Progress
from .protect import protect
from .report import Report
from .saving import write_picture, write_text
from .settings import Settings
from .surrogate import Surrogate

KEPT_SUFFIXES = {".png", ".tif", ".tiff", ".webp"}  # lossless as we write them; all else becomes .png
READ_LOSS_EVERY = 0.5  # seconds: reading a number waits for the device

Say = Callable[[str], None]
Prepare = Callable[[Picture, Settings], tuple[Picture, Settings]]


@dataclass(frozen=True)
class Work:
    source: Path
    output: Path


@dataclass(frozen=True)
class Order:
    """All that one command asks for."""

    works: list[Work]
    settings: Settings
    mask: Path | None = None
    target: Tensor | None = None
    lossy_quality: int | None = None
    prepare: Prepare = lambda picture, settings: (picture, settings)
    """What is done to a picture, and to its settings, before it is protected."""


@dataclass
class Row:
    """What became of one picture."""

    input: str
    output: str
    status: str = "failed"
    error: str | None = None
    report: dict[str, Any] | None = None
    notices: list[str] = field(default_factory=list)


def pictures_in(inputs: Iterable[Path]) -> Iterator[Path]:
    """Files as they are named, and the pictures directly inside folders, by name."""
    for path in inputs:
        if path.is_dir():
            found = sorted(inside for inside in path.iterdir() if inside.suffix.lower() in PICTURE_SUFFIXES)
            yield from (inside for inside in found if not inside.name.startswith("."))
        else:
            yield path


def works_for(sources: Iterable[Path], folder: Path, suffix: str | None = None) -> list[Work]:
    """Same names in `folder`, with a suffix that is lossless unless another is asked for. Raises SettingsError where
    two results would have one name, or one would replace an input."""
    sources = list(sources)
    works = [Work(source, folder / (source.stem + (suffix or _lossless(source)))) for source in sources]
    taken: dict[str, Path] = {}
    for work in works:
        other = taken.setdefault(work.output.name.casefold(), work.source)
        if other is not work.source:
            raise SettingsError(f"{other} and {work.source} would both become {work.output}. Run them apart.")
        if any(work.output.resolve() == source.resolve() for source in sources):
            raise SettingsError(f"{work.output} is an input, and inputs are never overwritten. Choose another --out.")
    return works


def _lossless(source: Path) -> str:
    return source.suffix if source.suffix.lower() in KEPT_SUFFIXES else ".png"


def run(order: Order, surrogate: Surrogate, *, report: Path | None, bars: bool, say: Say, complain: Say) -> list[Row]:
    """Protect everything; a picture that fails is recorded and the others go on.

    The JSON report is rewritten after each picture, so that an interruption keeps it. CheckpointError, OutputError
    for the report itself, and KeyboardInterrupt pass through.
    """
    rows: list[Row] = []
    for work in order.works:
        rows.append(_attempt(order, work, surrogate, bars))
        if report is not None:
            write_text(report, json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
        _tell(rows[-1], say, complain)
    return rows


def _attempt(order: Order, work: Work, surrogate: Surrogate, bars: bool) -> Row:
    row = Row(str(work.source), str(work.output))
    try:
        with tqdm(total=order.settings.steps, desc=work.source.name, leave=False, disable=not bars) as bar:
            report = _protect_file(order, work, surrogate, row, _on_step(bar))
    except CheckpointError:
        raise
    except MistError as error:
        row.error = str(error)
    except (RuntimeError, MemoryError, OSError, ValueError) as error:  # out of memory, a driver, a disk
        row.error = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no further word'}"
    else:
        row.status, row.report = "protected", report.as_dict()
    return row


def _protect_file(order: Order, work: Work, surrogate: Surrogate, row: Row, on_step: OnStep) -> Report:
    picture = read_picture(work.source)
    row.notices += picture.notices
    picture, settings = order.prepare(picture, order.settings)
    mask = None
    if order.mask is not None:
        mask, notices = read_mask(order.mask, *picture.images.shape[2:])
        row.notices += notices
    result = protect(picture.images, surrogate, settings, mask=mask, target=order.target, on_step=on_step)
    made = {"Mist": json.dumps({"version": __version__, **settings.as_dict()})}
    row.notices += write_picture(work.output, result.images, picture, lossy_quality=order.lossy_quality, text=made)
    if settings.epsilon == 0:
        row.notices.append("strength 0 changes nothing: the pixels are the original's")
    return result.reports[0]


def _on_step(bar: Any) -> OnStep:
    due = 0.0

    def on_step(progress: Progress) -> None:
        nonlocal due
        bar.update(1)
        if not bar.disable and time.monotonic() >= due:
            bar.set_postfix_str(f"loss {float(progress.loss):.4g}")
            due = time.monotonic() + READ_LOSS_EVERY

    return on_step


def _tell(row: Row, say: Say, complain: Say) -> None:
    if row.report is None:
        complain(f"{row.input}: {row.error}")
        return
    say(f"{Path(row.input).name}: {Report(**row.report).summary()}")
    for notice in row.notices:
        say(f"  note: {notice}")
    say(f"  -> {row.output}")
