"""What Mist's own loop and ours do to autoencoders that nobody made attackable, with the demo models beside them: the
textural objective, and how much of one model's attack another sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..evaluation.intervals import interval
from ..protection import protect
from ..settings import resolve
from . import judges, unseen
from .asked import Asked, Figures, Say
from .quality import published
from .reach import Reach, reach

MIST = "Mist's own loop"
LEVELS = (4, 8, 16)
PRESETS = ("quick",)
"""Not `mist`: on a model without a posterior to sample that is Mist's loop, step by step."""
WAYS = (MIST, *PRESETS)
TRANSFERRED = MIST, 16


class Job(NamedTuple):
    """One picture, to be attacked on one model in every way."""

    checkpoint: Path
    device: torch.device
    kind: str
    picture: Tensor


class Attacked(NamedTuple):
    model: str
    real: bool
    kind: str
    picture: Tensor
    rows: dict[str, Reach]
    """By way and strength, see `row`."""
    transferred: Tensor
    """After TRANSFERRED."""


def row(way: str, levels: float) -> str:
    return f"{way}, {levels:g}"


def figures(asked: Asked, say: Say) -> Figures:
    """judged: model -> whether it is real, and medians by way and strength; transfer: the model that was attacked ->
    the one that judges -> medians."""
    real = judges.encoders(asked.real)
    if not real:
        say(f"real: not measured, {judges.NOT_MEASURED}")
    checkpoints = [*real, *judges.demos()]
    pictures = unseen.pictures(asked.each, asked.side, asked.pictures)
    jobs = [Job(path, asked.device, kind, x) for path in checkpoints for kind, of in pictures.items() for x in of]
    say(f"textural, {asked.side} px, {len(jobs) // len(checkpoints)} pictures on each of {len(checkpoints)} models")
    with on_processes(asked.device) as processes:
        found = list(_told(processes.map(attacked, jobs), say))
        transfer = _transfer(found, [(path, asked.device) for path in checkpoints], processes)
    kinds = {kind: len(members) for kind, members in pictures.items()}
    judged = {name: _judged(of, say) for name, of in _by_model(found).items()}
    return {"judged": judged, "judged_on": {"side": asked.side, "pictures": kinds}, "transfer": transfer}


def attacked(job: Job) -> Attacked:
    model = judges.loaded(job.checkpoint, job.device)
    made = {(way, levels): protected(model, job.picture, way, levels) for way in WAYS for levels in LEVELS}
    rows = {row(*how): reach(model, job.picture, after) for how, after in made.items()}
    is_real = job.checkpoint not in judges.demos()
    return Attacked(model.name, is_real, job.kind, job.picture, rows, made[TRANSFERRED])


def protected(model: Any, picture: Tensor, way: str, levels: float) -> Tensor:
    """By the textural objective, (1, 3, H, W) on the 8-bit grid. way: of WAYS, or any preset's name."""
    if way == MIST:
        return published(model, picture, "textural", epsilon=levels)
    settings = resolve(way, {"objective": "textural", "strength": levels})
    return protect(picture, model, replace(settings, working_size=max(picture.shape[2:]))).images


def summary(rows: Sequence[Reach]) -> Figures:
    """Medians over pictures and the ends of their 95 % intervals, by the names in Reach; None where nobody can tell."""
    columns = {name: [getattr(one, name) for one in rows] for name in Reach._fields}
    return {name: None if None in values else interval(values)._asdict() for name, values in columns.items()}


@contextmanager
def on_processes(device: torch.device) -> Iterator[Executor]:
    """On a CPU one for each thread: such small models leave most of a second core idle."""
    workers = torch.get_num_threads() if device.type == "cpu" else 1
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as processes:
        yield processes


def _told(found: Iterable[Attacked], say: Say) -> Iterator[Attacked]:
    for one in found:
        for way, reached in one.rows.items():
            say(f"  {one.model}, {one.kind}: {way}: {_words(summary([reached]))}")
        yield one


def _by_model(found: Iterable[Attacked]) -> dict[str, list[Attacked]]:
    models: dict[str, list[Attacked]] = {}
    for one in found:
        models.setdefault(one.model, []).append(one)
    return models


def _judged(found: Sequence[Attacked], say: Say) -> Figures:
    """Of one model; medians of what is left by kind of picture too."""
    ways = {way: summary([one.rows[way] for one in found]) for way in found[0].rows}
    for way, measured in ways.items():
        say(f"  {found[0].model}: {way}: {_words(measured)}")
    left = {
        kind: {way: median(one.rows[way].left for one in found if one.kind == kind) for way in ways}
        for kind in dict.fromkeys(one.kind for one in found)
    }
    return {"real": found[0].real, "ways": ways, "left_by_kind": left}


def _transfer(
    found: Sequence[Attacked], models: Sequence[tuple[Path, torch.device]], processes: Executor
) -> dict[str, dict[str, Figures]]:
    table: dict[str, dict[str, Figures]] = {}
    for source, of in _by_model(found).items():
        seen = [list(processes.map(partial(_seen, *model), of)) for model in models]
        table[source] = {rows[0][0]: summary([reached for _, reached in rows]) for rows in seen}
    return table


def _seen(checkpoint: Path, device: torch.device, one: Attacked) -> tuple[str, Reach]:
    model = judges.loaded(checkpoint, device)
    return model.name, reach(model, one.picture, one.transferred)


def _words(measured: Figures) -> str:
    off, times = 100 * (1 - measured["left"]["median"]), measured["times_noise"]["median"]
    lost = "" if measured["lost_db"] is None else f", {measured['lost_db']['median']:.2f} dB"
    return f"{off:.0f} % off the distance, {times:.1f} times noise{lost}"
