"""What a run would do, and how long it would take: measured by a few steps on pictures of the gallery itself."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from ..errors import MistError
from ..pictures.metadata import Metadata
from ..pictures.reading import Picture, require_readable, size_in
from ..settings import Settings
from ..views import plan
from .journal import Say, named, tell_passed
from .manifest import PASSED_OVER, Manifest, NoManifest
from .naming import Work
from .request import Policy, Request, name_of, task_for
from .task import Model, Task, attempt, opened, require_encodable

SAMPLES = 3
FEW_STEPS, LONG_ENOUGH = 3, 1.0  # more steps where that is over in less than a second
MULTIPLE = 64


@dataclass(frozen=True)
class Estimate:
    seconds: float
    per_picture: float
    peak_bytes: int
    where: str


def tell(
    request: Request, policy: Policy, load: Callable[[], Model] | None, workers: int, say: Say, complain: Say
) -> list[str]:
    """What the run would do, and the statuses that it would return, as far as headers tell. Nothing is written.
    `load` of None: no estimate."""
    pending, statuses = _pending(request, policy, say, complain)
    say(f"{len(pending)} picture(s) with {in_words(request.settings)}")
    if load is not None and pending:
        _tell_costs(request, pending, load, workers, say)
    tell_passed(request.passed, complain)
    return statuses + [PASSED_OVER] * len(request.passed)


def in_words(settings: Settings) -> str:
    """In the words and the units of the flags."""
    said = settings.as_dict() | {"prompt": repr(settings.prompt)}
    weight = math.log10(settings.semantic_weight) - 3 if settings.semantic_weight else -math.inf
    said |= {"epsilon": settings.strength_levels, "step_size": settings.step_size * 255, "semantic_weight": weight}
    names = {"epsilon": "strength", "step_size": "step", "semantic_weight": "fusion weight"}
    shown = ((names.get(name, name.replace("_", " ")), value) for name, value in said.items())
    return ", ".join(f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown)


def _tell_costs(request: Request, pending: list[Work], load: Callable[[], Model], workers: int, say: Say) -> None:
    found = measure(request, pending, load)
    if found is None:
        say("no estimate: none of the pictures tried can be protected")
        return
    each = f"{found.per_picture:.3g} s each, so {found.per_picture * 100 / 3600:.3g} h for a hundred"
    total = found.per_picture * len(pending) / workers + (found.seconds - found.per_picture * len(pending))
    say(f"about {_duration(total)} in all ({each}) and {found.peak_bytes / 2**30:.2f} GiB of {found.where}")


def _pending(request: Request, policy: Policy, say: Say, complain: Say) -> tuple[list[Work], list[str]]:
    """The works that would be begun, and what would become of each."""
    manifest = Manifest(request.storage, request.part) if request.remembers else NoManifest(request.storage)
    pending: list[Work] = []
    statuses: list[str] = []
    for work in request.works:
        name = name_of(request, work)
        try:
            task, facts = task_for(request, work)
            require_readable(work.source, task.data)
            if task.mask is not None:
                require_readable(task.mask_path, task.mask)
            require_encodable(task, _blank(task))
        except MistError as error:
            complain(f"would fail: {named(str(work.source), str(error))}")
            statuses.append("failed")
            continue
        if not policy.force and manifest.done(name, facts["key"]):
            say(f"done already: {work.source} -> {request.storage.shown(name)}")
            statuses.append("skipped")
        elif policy.limit is None or len(pending) < policy.limit:
            say(f"would protect {work.source} -> {request.storage.shown(name)}")
            pending.append(work)
            statuses.append("protected")
    return pending, statuses


def _blank(task: Task) -> Picture:
    """A pixel with alpha where the picture seems to have some."""
    with Image.open(io.BytesIO(task.data)) as image:
        transparent = image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info
    alpha = np.zeros((1, 1), np.uint8) if transparent else None
    return Picture(task.source, torch.zeros(1, 3, 1, 1), alpha, Metadata(), ())


def measure(request: Request, works: list[Work], load: Callable[[], Model]) -> Estimate | None:
    """Time and memory of protecting `works`, one after the other; None where no sample can be protected.

    Raises MistError for what would be the same for every picture."""
    begun = time.perf_counter()
    model = load()
    costs = [_cost(request, work) for work in works]
    ranked = sorted(range(len(works)), key=lambda index: costs[index])
    chosen = sorted({ranked[round(at * (len(ranked) - 1))] for at in np.linspace(0, 1, SAMPLES)}, key=costs.__getitem__)
    warmed = attempt(_shortened(task_for(request, works[chosen[0]])[0], 1), model)
    if warmed.fatal:
        raise MistError(warmed.error)
    loading = time.perf_counter() - begun
    known = {costs[index]: seconds for index in chosen if (seconds := _timed(request, works[index], model))}
    if not known:
        return None
    total = float(np.interp(costs, list(known), list(known.values())).sum())
    peak, where = _peak(model)
    return Estimate(total + loading, total / len(works), peak, where)


def _timed(request: Request, work: Work, model: Model) -> float | None:
    """Seconds for the whole picture, from two runs of a few steps; None where it fails."""
    task, _ = task_for(request, work)
    once, few = _seconds(task, 1, model), FEW_STEPS
    if once is None:
        return None
    while True:
        more = _seconds(task, 1 + few, model)
        if more is None or more - once >= LONG_ENOUGH or few * 2 > task.settings.steps:
            break
        few *= 2
    each = max(0.0, (more or once) - once) / few
    return once + each * (task.settings.steps - 1)


def _seconds(task: Task, steps: int, model: Model) -> float | None:
    begun = time.perf_counter()
    return time.perf_counter() - begun if attempt(_shortened(task, steps), model).result else None


def _shortened(task: Task, steps: int) -> Task:
    return replace(task, settings=replace(task.settings, steps=steps))


def _cost(request: Request, work: Work) -> float:
    """Grows with what the picture will cost; in pixels."""
    task, _ = task_for(request, work)
    if task.prepare is not None:
        picture, settings, _, _ = opened(task)
        height, width = picture.images.shape[2:]
        return _pixels(height, width, settings)
    width, height = size_in(task.data)
    return _pixels(height, width, task.settings) if width else 0.0  # it will fail, and soon


def _pixels(height: int, width: int, settings: Settings) -> float:
    views = plan(height, width, settings.view, settings.working_size, MULTIPLE)
    return sum(view.model_height * view.model_width for view in views) + height * width / 16


def _peak(model: Model) -> tuple[int, str]:
    device = model.surrogate.device
    accelerator = getattr(torch, device.type, None)
    if device.type != "cpu" and accelerator is not None and hasattr(accelerator, "max_memory_allocated"):
        return accelerator.max_memory_allocated(device), "the accelerator's memory"
    try:
        import resource
    except ImportError:  # Windows
        return 0, "memory (not measured here)"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "memory"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} h" if hours >= 2 else f"{minutes:.1f} min" if minutes >= 2 else f"{seconds:.0f} s"
