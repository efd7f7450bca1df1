"""Pictures of one style as one set, on the model now loaded: of a folder of the server, and of a request."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from modules import shared
from PIL import Image
from torch import Tensor

from mist_attack.controls import Settings
from mist_attack.errors import PictureError
from mist_attack.gallery import sets
from mist_attack.gallery.journal import Journal
from mist_attack.gallery.manifest import Row, sha256
from mist_attack.gallery.naming import Work
from mist_attack.gallery.request import Request
from mist_attack.gallery.storage import Folder
from mist_attack.gallery.task import Model
from mist_attack.pictures.masks import as_mask
from mist_attack.pictures.reading import Picture, as_pil, read_picture, to_u8
from mist_attack.report import Report
from mist_attack.sets.alternation import NOT_BEGUN, Member, SetProtection
from mist_attack.sets.settings import SetSettings

from . import folder, infotext, jobs, made, progress
from .jobs import Outcome

BESIDE = ("sd_vae", "forge_additional_modules")
"""Options of the web UI, and of Forge, that name parts of a model."""
GOES_ON = "Interrupted: the pictures are written as they are by now, weaker than asked for. Protect goes on from there."


@dataclass(frozen=True)
class Last:
    """A picture of the set, and what became of it."""

    path: Path
    original: Image.Image
    image: Image.Image
    prompt: str


@dataclass(frozen=True)
class Done:
    rows: list[folder.Row]
    notes: list[str]
    last: Last | None


def protect_folder(
    works: list[Work],
    out: Path,
    settings: Settings,
    chosen: SetSettings,
    *,
    target: Image.Image | None = None,
    output_size: float = 0,
) -> Done:
    """By the command's rules, manifest included: what is done already is not done again, and what was interrupted goes
    on. out: the folder that the works' results are in.

    Call it inside the web UI's queue lock. Raises MistError, and Stop for an interrupt before anything was changed."""
    surrogate = jobs.loaded_model()
    aim = None if target is None else jobs.unit(jobs.in_colour(target))
    request = Request(
        works=works,
        settings=settings,
        root=out,
        storage=Folder(out),
        remembers=True,
        target_sha256=None if aim is None else sha256(repr(aim.shape).encode() + to_u8(aim).tobytes()),
        model_key=f"{surrogate.name} {_fingerprint()}",
        prepare=Resized(output_size) if output_size else None,
        prepared=f"output size {output_size:g}" if output_size else "",
        text=partial(_text, chosen),
    )
    table = _Table(works)
    table.notes += jobs.small(settings)[1]
    with progress.shown_of_set() as on_step:
        model = Model(surrogate, aim)
        sets.run(request, chosen, lambda: model, table, on_step=on_step, say=table.notes.append)
    table.notes += [GOES_ON] if table.stopped else []
    return Done(table.shown, table.notes, None if table.last is None else _last(table.last, output_size))


def _fingerprint() -> str:
    """Tells the loaded model from another of its name: by the host's hash of the file, and what is chosen beside it."""
    file = getattr(getattr(shared.sd_model, "sd_checkpoint_info", None), "hash", None)
    beside = [getattr(shared.opts, option, None) for option in BESIDE]
    return sha256(repr([file, *beside]).encode("utf-8", "backslashreplace"))[:16]


@dataclass(frozen=True)
class Resized:
    """As the tab makes a picture smaller, or larger: the longer side in pixels."""

    size: float

    def __call__(self, picture: Picture, settings: Settings) -> tuple[Picture, Settings]:
        colour = jobs.resized(as_pil(picture), self.size)
        alpha = None if picture.alpha is None else jobs.alpha_of(colour)
        return replace(picture, images=jobs.unit(colour), alpha=alpha), settings


def _text(chosen: SetSettings, picture: Picture, report: Report) -> dict[str, str]:
    """Generation parameters, as the web UI has them."""
    keys = infotext.keys_of(report, chosen)
    return {"parameters": infotext.appended(picture.metadata.text.get("parameters"), keys)}


class _Table(Journal):
    """The rows of a run, as the tab shows them."""

    def __init__(self, works: list[Work]) -> None:
        self.shown: list[folder.Row] = []
        self.notes: list[str] = []
        self.last: Row | None = None
        self.stopped = False
        self.names = {str(work.source): name for work, name in zip(works, folder.names_of(works), strict=True)}
        super().__init__(None, len(works), self.notes.append, self.notes.append)

    def tell(self, row: Row) -> None:
        stopped = row.status == "protected" and bool(row.report and row.report["stopped"])
        self.stopped = self.stopped or stopped
        is_done = row.status != "failed" and not stopped
        self.shown.append(folder.Row(self.names[row.input], _said(row), protected=is_done))
        if row.status != "failed":
            self.last = row
        if is_done and row.output:
            with suppress(PictureError):  # taken away by now
                made.remember(as_pil(read_picture(row.output)))


def _said(row: Row) -> str:
    if row.status == "failed":
        return "not done: interrupted" if row.error == NOT_BEGUN else f"failed: {row.error}"
    if row.status == "skipped":
        return "protected already, in the same way and among the same pictures"
    assert row.report
    report = Report(**row.report)
    reached = f"interrupted after {report.steps_done} of {report.settings['steps']} steps. " if report.stopped else ""
    return reached + " ".join([report.words(), "; ".join([report.summary(), *row.notices])])


def _last(row: Row, output_size: float) -> Last | None:
    """None where its files were taken away by now."""
    assert row.output and row.report
    try:
        before, after = (as_pil(read_picture(path)) for path in (row.input, row.output))
    except PictureError:
        return None
    return Last(Path(row.output), jobs.resized(before, output_size), after, row.report["settings"]["prompt"])


@dataclass(frozen=True)
class Sent:
    """A picture of a request: RGB or RGBA, its mask (1, 1, H, W), and what it shows."""

    colour: Image.Image
    mask: Tensor | None
    caption: str


def protect_pictures(
    sent: Sequence[Sent], settings: Settings, chosen: SetSettings, *, target: Image.Image | None = None
) -> list[Outcome | str]:
    """Each picture's outcome, or why it has none; in memory, for a request's sake. An interrupt gives what was reached.

    Call it inside the web UI's queue lock. Raises MistError, and Stop for an interrupt before anything was changed."""
    members = [_member(number, picture) for number, picture in enumerate(sent)]
    found: dict[str, Outcome | str] = {}
    notices = jobs.small(settings)[1]
    with progress.shown_of_set() as on_step:
        protection = SetProtection(
            members,
            jobs.loaded_model(),
            settings,
            chosen,
            target=None if target is None else jobs.unit(jobs.in_colour(target)),
            on_step=on_step,
            on_failure=lambda member, error: found.update({member.name: error}),
        )
        by_name = dict(zip((member.name for member in members), sent, strict=True))
        for member, protected in protection.run():
            one = by_name[member.name]
            found[member.name] = jobs.outcome_of(protected, one.colour, one.mask, settings, notices)
    return [found[member.name] for member in members]


def _member(number: int, one: Sent) -> Member:
    def read() -> tuple[Tensor, Tensor | None]:
        return jobs.unit(one.colour), one.mask

    return Member(f"images[{number}]", one.colour.height, one.colour.width, read, one.caption)


def mask_for(mask: Image.Image, colour: Image.Image) -> Tensor:
    return as_mask(jobs.in_colour(mask), colour.height, colour.width)


def summary(outcomes: Sequence[Outcome | str]) -> str:
    """How many of them are protected, and whether that was interrupted."""
    done = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    stopped = any(outcome.report.stopped for outcome in done)
    words = f"{len(done)} of {len(outcomes)} protected, as one set."
    return f"{words} Interrupted: as they are by now, weaker than asked for." if stopped else words
