"""A gallery in one process, on the demo model: how much of the time on the wall is not the model's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from PIL import Image

from ..evaluation.intervals import interval
from ..gallery.naming import Work
from ..gallery.request import Request, task_for
from ..gallery.run import run
from ..gallery.storage import Folder
from ..gallery.task import Model, attempt
from ..hosts.headless import diffusers
from ..hosts.headless.checkpoints import find_checkpoint
from ..pictures.reading import to_u8
from ..runners.here import HereRunner
from ..settings import Settings, resolve
from ..surrogate import Result, Surrogate
from . import unseen
from .asked import Asked, Figures, Say

SIDE = 512
Span = tuple[float, float]


class Timed:
    """A model that remembers when it was at work, by the clock on the wall."""

    def __init__(self, model: Surrogate) -> None:
        self._model = model
        self.spans: list[Span] = []
        self.processor = 0.0
        """Seconds of all threads together, while it was."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run(self, job: Callable[[Surrogate], Result], *shape: int, **how: bool) -> Result:
        begun, used = time.perf_counter(), time.process_time()
        try:
            return self._model.run(job, *shape, **how)
        finally:
            self.spans.append((begun, time.perf_counter()))
            self.processor += time.process_time() - used

    def during(self, call: Callable[[], object]) -> tuple[list[Span], float]:
        """When it was at work, and the processor's seconds that were not its own."""
        self.spans, self.processor = [], 0.0
        used = time.process_time()
        call()
        return self.spans, time.process_time() - used - self.processor


def figures(asked: Asked, say: Say) -> Figures:
    """gallery_outside_model: the share in which the model is not at work, or a processor is at something else, which it
    could not use then; on a machine that has nothing else to do. gallery_waiting: the share in which the model is not
    at work; ..._in_turn: the same where each picture is read, protected and written before the next one."""
    model, settings = Timed(diffusers.load(find_checkpoint("demo"), asked.device)), resolve("default", {})
    with TemporaryDirectory() as folder:
        first, *requests = [_request(Path(folder), f"out{number}", settings) for number in range(asked.rounds + 1)]
        _in_turn(first, model, 1)
        in_turn, others = model.during(lambda: _in_turn(first, model))
        taken = [_beside_work(request, model, others) for request in requests]
    found = {name: [each[name] for each in taken] for name in taken[0]}
    found["gallery_waiting_in_turn"] = [1 - busy(in_turn) / wall(in_turn)]
    for name, shares in found.items():
        say(f"  {name}: {interval(shares)} of the time on the wall")
    return _with_intervals(found)


def _beside_work(request: Request, model: Timed, others: float) -> dict[str, float]:
    """others: the processor's seconds that all but the model's work takes."""
    spans, _ = model.during(lambda: _beside(request, model))
    waiting = wall(spans) - busy(spans)
    return {"gallery_outside_model": (waiting + others) / wall(spans), "gallery_waiting": waiting / wall(spans)}


def busy(spans: Sequence[Span]) -> float:
    return sum(ended - begun for begun, ended in spans)


def wall(spans: Sequence[Span]) -> float:
    """From the first picture's begin at the model to the last one's end: the gallery's own begin and end are the same
    for four pictures and for four hundred."""
    return spans[-1][1] - spans[0][0]


def _with_intervals(found: dict[str, list[float]]) -> Figures:
    result: Figures = {}
    for name, shares in found.items():
        known = interval(shares)
        result |= {name: known.median, f"{name}_interval": [known.low, known.high]}
    return result


def _request(folder: Path, out: str, settings: Settings) -> Request:
    root, works = folder / out, list[Work]()
    for kind, pictures in unseen.pictures(1, SIDE).items():
        for number, picture in enumerate(pictures):
            source = folder / f"{kind}{number}.png"
            Image.fromarray(to_u8(picture)).save(source)
            works.append(Work(source, root / source.name))
    return Request(works, settings, root, Folder(root), remembers=True)


def _in_turn(request: Request, model: Timed, limit: int | None = None) -> None:
    for work in request.works[:limit]:
        outcome = attempt(task_for(request, work)[0], Model(cast(Surrogate, model)))
        assert outcome.result is not None, outcome.error
        request.storage.write(f"in turn/{work.output.name}", outcome.result.data)


def _beside(request: Request, model: Timed) -> None:
    statuses = run(request, HereRunner(lambda: Model(cast(Surrogate, model))), say=_silent, complain=_silent)
    assert set(statuses) == {"protected"}, statuses


def _silent(line: str) -> None:
    del line
