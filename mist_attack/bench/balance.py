"""How visible each preset is and what it takes off the distance to the target, plainly and after the web had it,
beside Mist's own loop at 16 levels and at the strength that is as visible.

A preset's figures hold on pictures that no tuning saw, judged by an autoencoder that nobody here trained, the textural
objective; what the denoiser does is judged on the demo models, the fused objective, by fresh noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..budget import to_levels, to_unit
from ..evaluation.intervals import interval, worst_median
from ..evaluation.metrics import visibility as seen_figures
from ..evaluation.transforms import SUITE, transformed
from ..needs import Objective
from ..protection import protect
from ..settings import resolve
from ..surrogate import Surrogate
from ..targets import pattern
from . import judges, unseen
from .asked import Asked, Figures, Say
from .quality import Judge, published
from .real import on_processes

MIST = "mist 16"
PRESETS = ("default", "invisible", "robust")
LADDER = {3: 30, 5: 40, 8: 50, 16: 100}
"""Strengths of Mist's loop, levels, and its steps: with 1 level a step, more do nothing for the small ones."""
SEEN = ("psnr_db", "ssim", "ciede2000_mean")
PLAIN = "plain"
AFTER = (PLAIN, "half", "jpeg75", "jpeg50")
SURVIVED = tuple(name for name, transform in SUITE.items() if not transform.denoiser)
EACH, FUSED_EACH = 4, 1
FUSED_LADDER = {5: 40, 8: 50}


class Measured(NamedTuple):
    """One picture, protected in one way."""

    seen: dict[str, float]
    off: dict[str, float]
    """Share of the distance to the target's latents that is gone, by transform."""


class Job(NamedTuple):
    checkpoint: Path
    device: torch.device
    kind: str
    picture: Tensor
    after: tuple[str, ...]
    strengths: tuple[int, ...]
    """Of Mist's loop."""


def visibility(asked: Asked, say: Say) -> Figures:
    """presets: way -> medians of what is seen and of what is taken off; equal: preset -> what it takes off over what
    Mist's loop does where it is as visible; over_mist: preset over Mist at 16 levels; fused: the demo models'."""
    judge = _judge(asked, say)
    found: Figures = {}
    if judge is not None:
        jobs = _jobs(asked, judge, AFTER, tuple(LADDER))
        with on_processes(asked.device) as processes:
            rows = list(_told(jobs, processes, say))
        found = {"balance": _balance(rows), "balance_kinds": _by_kind(jobs, rows)}
        found |= {"balance_on": {"model": judge.stem, "pictures": len(rows), "side": asked.side}}
    with on_processes(asked.device) as processes:
        return found | {"fused_over_mist": _fused(asked, processes, say)}


def survival(asked: Asked, say: Say) -> Figures:
    """survival: way -> medians of what is left to be taken off after each transform of the suite; survival_worst: the
    least of them."""
    judge = _judge(asked, say)
    if judge is None:
        return {}
    jobs = _jobs(asked, judge, SURVIVED, (16,))
    with on_processes(asked.device) as processes:
        rows = list(_told(jobs, processes, say))
    ways: Figures = {}
    worst: Figures = {}
    for way in rows[0]:
        columns = {name: [row[way].off[name] for row in rows] for name in rows[0][way].off}
        ways[way] = {name: interval(values)._asdict() for name, values in columns.items()}
        name, least = worst_median(columns)
        worst[way] = {"transform": name, **least._asdict()}
    return {"survival": ways, "survival_worst": worst}


def _judge(asked: Asked, say: Say) -> Path | None:
    """The first that has a decoder: TAEF2 of those that exist."""
    found = [path for path in judges.encoders(asked.real) if list(path.parent.glob(path.name.replace("_en", "_de")))]
    if not found:
        say(f"not measured: {judges.NOT_MEASURED}")
    return found[0] if found else None


def _jobs(asked: Asked, judge: Path, after: tuple[str, ...], strengths: tuple[int, ...]) -> list[Job]:
    pictures = unseen.pictures(max(asked.each, EACH), asked.side, asked.pictures)
    return [Job(judge, asked.device, kind, x, after, strengths) for kind, of in pictures.items() for x in of]


def _told(jobs: Sequence[Job], processes: Executor, say: Say) -> Iterable[dict[str, Measured]]:
    for job, row in zip(jobs, processes.map(measured, jobs), strict=True):
        for way, one in row.items():
            figures = [f"{name} {value:.3g}" for name, value in (one.seen | one.off).items()]
            say(f"  {job.kind}, {way}: {', '.join(figures)}")
        yield row


def measured(job: Job) -> dict[str, Measured]:
    """By way: Mist's loop at each strength, then the presets."""
    model = judges.loaded(job.checkpoint, job.device)
    made = {f"mist {levels}": by_mist(model, job.picture, "textural", levels) for levels in job.strengths}
    made |= {name: by_preset(model, job.picture, "textural", name) for name in PRESETS}
    return {way: Measured(_seen(job.picture, after), _off(model, job, after)) for way, after in made.items()}


def by_mist(model: Any, picture: Tensor, objective: Objective, levels: int) -> Tensor:
    return published(model, picture, objective, LADDER[levels], levels)


def by_preset(model: Any, picture: Tensor, objective: Objective, preset: str) -> Tensor:
    settings = resolve(preset, {"objective": objective, "working_size": max(picture.shape[2:])})
    return protect(picture, model, settings).images


def _seen(before: Tensor, after: Tensor) -> dict[str, float]:
    figures = seen_figures(to_levels(before), to_levels(after))
    return {name: float(figures[name] or 0) for name in SEEN}


def _off(model: Surrogate, job: Job, after: Tensor) -> dict[str, float]:
    height, width = job.picture.shape[2:]
    return model.run(lambda ready: _off_within(ready, job, to_levels(after)), 1, height, width)


@torch.no_grad()
def _off_within(ready: Surrogate, job: Job, after: Tensor) -> dict[str, float]:
    height, width = job.picture.shape[2:]
    encode = lambda x: ready.encode(x.to(ready.device))  # noqa: E731
    target = encode(pattern("lattice", height, width))
    whole = (encode(job.picture) - target).square().mean()
    changed = {name: after if name == PLAIN else transformed(name, after, ready) for name in job.after}
    return {
        name: 1 - float((encode(to_unit(levels)) - target).square().mean() / whole) for name, levels in changed.items()
    }


def _balance(rows: Sequence[Mapping[str, Measured]]) -> Figures:
    """By way; a preset's figures over Mist's at 16 levels and at equal PSNR beside them."""
    ways = {way: _medians([{**row[way].seen, **row[way].off} for row in rows]) for way in rows[0]}
    for preset in PRESETS:
        equal = [_over_equal(row, preset) for row in rows]
        ways[preset] |= {f"{name}_over_equal": value for name, value in _medians(equal).items()}
        over = [_over(row, preset) for row in rows]
        ways[preset] |= {f"{name}_over_mist": value for name, value in _medians(over).items()}
    return ways


def _by_kind(jobs: Sequence[Job], rows: Sequence[Mapping[str, Measured]]) -> Figures:
    kinds = dict.fromkeys(job.kind for job in jobs)
    return {kind: _balance([row for job, row in zip(jobs, rows, strict=True) if job.kind == kind]) for kind in kinds}


def _medians(rows: Sequence[Mapping[str, float]]) -> Figures:
    return {name: interval([row[name] for row in rows])._asdict() for name in rows[0]}


def _over(row: Mapping[str, Measured], preset: str) -> dict[str, float]:
    """PSNR and SSIM: differences; colour and what is taken off: ratios."""
    ours, mist = row[preset], row[MIST]
    found = {name: ours.seen[name] - mist.seen[name] for name in ("psnr_db", "ssim")}
    found["ciede2000_mean"] = ours.seen["ciede2000_mean"] / mist.seen["ciede2000_mean"]
    return found | {name: ours.off[name] / mist.off[name] for name in ours.off}


def _over_equal(row: Mapping[str, Measured], preset: str) -> dict[str, float]:
    ladder = [row[f"mist {levels}"] for levels in LADDER]
    return {
        name: value / at_psnr([(one.seen["psnr_db"], one.off[name]) for one in ladder], row[preset].seen["psnr_db"])
        for name, value in row[preset].off.items()
    }


def at_psnr(ladder: Sequence[tuple[float, float]], psnr_db: float) -> float:
    """What is taken off at a PSNR, between the two strengths that enclose it along a straight line, or beyond the last
    along the same. ladder: (PSNR, taken off), at least two."""
    steps = list(pairwise(sorted(ladder)))
    (low, below), (high, above) = next((pair for pair in steps if pair[1][0] >= psnr_db), steps[-1])
    return below + (above - below) * (psnr_db - low) / (high - low)


def _fused(asked: Asked, processes: Executor, say: Say) -> Figures:
    """model -> kind -> the default's denoising loss over that of Mist's loop where it is as visible, and the distance
    to the target over Mist's."""
    pictures = unseen.pictures(FUSED_EACH, asked.side, asked.pictures)
    jobs = [(path, asked.device, kind, x) for path in judges.demos() for kind, of in pictures.items() for x in of]
    found: Figures = {}
    for (path, _, kind, _), (name, figures) in zip(jobs, processes.map(_unpacked(fused), jobs), strict=True):
        say(f"  {name}, fused, {kind}: " + ", ".join(f"{key} x{value:.3f}" for key, value in figures.items()))
        found.setdefault(f"{name} ({path.name})", {})[kind] = figures
    return found


def _unpacked(function: Callable[..., Any]) -> Callable[[tuple[Any, ...]], Any]:
    return partial(_called, function)


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def fused(checkpoint: Path, device: torch.device, kind: str, picture: Tensor) -> tuple[str, Figures]:
    """The model's name, and the default's figures over Mist's at equal PSNR."""
    model: Any = judges.loaded(checkpoint, device)
    judge = Judge(model, "fused", max(picture.shape[2:]))
    mist = [published(model, picture, "fused", steps, levels) for levels, steps in FUSED_LADDER.items()]
    ours = by_preset(model, picture, "fused", "default")
    at = _seen(picture, ours)["psnr_db"]
    reached = [(_seen(picture, one)["psnr_db"], judge.figures(one)) for one in mist]
    return model.name, {
        name: value / at_psnr([(psnr, figures[name]) for psnr, figures in reached], at)
        for name, value in judge.figures(ours).items()
    }
