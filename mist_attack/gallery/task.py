"""One picture, bytes in and bytes out: what every runner computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..budget import Budget, budget_for
from ..devices import described, described_safely, reason
from ..errors import CheckpointError, MistError
from ..pgd import OnStep
from ..pictures.checking import check_saved
from ..pictures.reading import Picture, read_mask, read_picture
from ..pictures.writing import encode_picture
from ..protection import protect
from ..report import Report
from ..settings import Settings
from ..surrogate import Surrogate, out_of_memory

SMALL = 64  # pixels: the sides of a picture on which every model can do a step
Prepare = Callable[[Picture, Settings], tuple[Picture, Settings]]
Text = Callable[[Picture, Report], dict[str, str]]
Opened = tuple[Picture, Settings, Tensor | None, list[str]]
"""A picture and its settings, prepared; its mask; and notices."""


@dataclass(frozen=True)
class Task:
    """All that is needed of one picture, on whichever machine. `name` is that of the result, and identifies it."""

    name: str
    source: Path
    """For messages; `data` is what is in it."""
    data: bytes
    settings: Settings
    mask: bytes | None = None
    mask_path: Path = Path("mask")
    lossy_quality: int | None = None
    own_prompt: bool = False
    prepare: Prepare | None = None
    """What is done to a picture, and to its settings, before it is protected."""
    text: Text | None = None
    """What a PNG says of it in its text chunks; None: see `made_by`."""


@dataclass(frozen=True)
class Result:
    data: bytes
    """Of the protected file."""
    report: dict[str, Any]
    notices: list[str]
    environment: dict[str, Any]
    """What the bytes depend on besides the request: mist, torch, device, threads."""


@dataclass(frozen=True)
class Outcome:
    """What became of a task: a result or an error."""

    task: Task
    result: Result | None = None
    error: str | None = None
    again: bool = False
    """It is the machine that failed, so another try may do."""
    died: bool = False
    """The worker is gone: killed, or out of memory."""
    elsewhere: bool = False
    """The worker is out of reach, through no fault of the picture: another one is to have it."""
    fatal: bool = False
    """It would be the same for every picture."""


@dataclass(frozen=True)
class Model:
    """What a worker holds."""

    surrogate: Surrogate
    target: Tensor | None = None
    """(1, 3, h, w) in [0, 1], in place of the named pattern."""
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Computed:
    """What the model has made of a task's picture; a file is still to be made of it."""

    task: Task
    found: Opened
    images: Tensor
    """(1, 3, H, W) in [0, 1]."""
    report: Report
    environment: dict[str, Any]


def attempt(task: Task, model: Model, on_step: OnStep | None = None) -> Outcome:
    """Protect; whatever goes wrong with the picture or the machine becomes an outcome."""
    found = computing(task, lambda: ready(task), model, on_step)
    return found if isinstance(found, Outcome) else filing(found)


def computing(
    task: Task, opening: Callable[[], Opened], model: Model, on_step: OnStep | None = None
) -> Computed | Outcome:
    """What the model does, all that a file is made of; or what went wrong, also in `opening`, which is `ready`."""
    try:
        return computed(task, opening(), model, on_step)
    except CheckpointError as error:
        return Outcome(task, error=str(error), fatal=not task.own_prompt)
    except MistError as error:
        return Outcome(task, error=str(error))
    except (RuntimeError, MemoryError, OSError, ValueError) as error:  # out of memory, a driver, a disk
        failure = error
    if isinstance(failure, RuntimeError) and not out_of_memory(failure) and not _can_step(task, model):
        return Outcome(task, error=_of_the_device(model.surrogate.device, failure), again=True, fatal=True)
    return Outcome(task, error=told(failure), again=True)


def filing(made: Computed) -> Outcome:
    """The file, without the model; or what went wrong."""
    try:
        return Outcome(made.task, result_of(made))
    except MistError as error:
        return Outcome(made.task, error=str(error))
    except (RuntimeError, MemoryError, OSError, ValueError) as error:
        return Outcome(made.task, error=told(error), again=True)


def _can_step(task: Task, model: Model) -> bool:
    """Whether a step on a small picture works, and so it was this picture that failed and not the device."""
    settings = replace(task.settings, steps=1, working_size=SMALL)
    try:
        protect(torch.rand(1, 3, SMALL, SMALL), model.surrogate, settings)
    except MistError:
        return True
    except RuntimeError:
        return False
    return True


def _of_the_device(device: torch.device, error: RuntimeError) -> str:
    return f"a step fails on {described_safely(device)}: {reason(device, error)} 'mist doctor' says what works there."


def told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no details'}"


def ready(task: Task) -> Opened:
    """All that is done before the steps. Raises as `read_picture` and `require_encodable` do."""
    found = opened(task)
    require_encodable(task, found[0])
    return found


def computed(task: Task, found: Opened, model: Model, on_step: OnStep | None = None) -> Computed:
    """Raises as `protect` does."""
    picture, settings, mask, _ = found
    result = protect(picture.images, model.surrogate, settings, mask=mask, target=model.target, on_step=on_step)
    return Computed(task, found, result.images, result.reports[0], environment(model.surrogate))


def result_of(made: Computed) -> Result:
    """Raises as `finished` does."""
    picture, settings, mask, notices = made.found
    budget = budget_for(picture.images, mask, settings)
    data, lost = finished(made.task, picture, made.images, made.report, budget)
    return Result(data, made.report.as_dict(), [*notices, *made.report.notices, *lost], made.environment)


def finished(
    task: Task, picture: Picture, images: Tensor, report: Report, budget: Budget
) -> tuple[bytes, tuple[str, ...]]:
    """The protected file, read again and within its budget; and notices. Raises as `encode_picture` and `check_saved`
    do."""
    text = made_by(report.settings) if task.text is None else task.text(picture, report)
    data, lost = encode_picture(task.name, images, picture, lossy_quality=task.lossy_quality, text=text)
    check_saved(task.name, data, budget, picture.alpha)
    return data, lost


def require_encodable(task: Task, picture: Picture) -> None:
    """A black picture of its kind is encoded: what the format cannot hold is told before the steps. Raises as
    `encode_picture` does."""
    encode_picture(task.name, torch.zeros_like(picture.images), picture, lossy_quality=task.lossy_quality)


def opened(task: Task) -> Opened:
    """The picture and its settings, prepared; its mask; and notices."""
    picture, settings, mask = read_picture(task.source, task.data), task.settings, None
    notices = list(picture.notices)
    if task.prepare is not None:
        picture, settings = task.prepare(picture, settings)
    if task.mask is not None:
        height, width = picture.images.shape[2:]
        mask, more = read_mask(task.mask_path, height, width, task.mask)
        notices += more
    return picture, settings, mask, notices


def made_by(settings: dict[str, Any]) -> dict[str, str]:
    """For a PNG's text chunks: what was done, without any path."""
    return {"Mist": json.dumps({"version": __version__, **settings})}


def environment(surrogate: Surrogate) -> dict[str, Any]:
    return {
        "mist": __version__,
        "torch": torch.__version__,
        "device": described(surrogate.device),
        "threads": torch.get_num_threads(),
    }
