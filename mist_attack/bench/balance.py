"""How visible each preset is and what it takes off the distance to the target, plainly and after the web had it,
beside Mist's own loop at 16 levels and at the strength that is as visible.

A preset's figures hold on pictures that no tuning saw, judged by an autoencoder that nobody here trained, the textural
objective; what the denoiser does is judged in `fused`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..budget import to_levels, to_unit
from ..evaluation.intervals import interval, worst_median
from ..evaluation.transforms import SUITE, transformed
from ..surrogate import Surrogate
from ..targets import pattern
from . import judges, unseen
from .asked import Asked, Figures, Say
from .reach import Reach, reach
from .real import on_processes
from .ways import LADDER, MIST, PRESETS, at_psnr, by_mist, by_preset, seen

PLAIN = "plain"
AFTER = (PLAIN, "half", "jpeg75", "jpeg50")
SURVIVED = tuple(name for name, transform in SUITE.items() if not transform.denoiser and name != "crop")
"""Not a crop: what is left there is no longer where the target has it."""
EACH = 4
SHOWN = (MIST, *PRESETS)
"""The ways that are reported; Mist's others are what they are compared with."""


class Measured(NamedTuple):
    """One picture, protected in one way."""

    seen: dict[str, float]
    off: dict[str, float]
    """Share of the distance to the target's latents that is gone, by transform."""
    reached: Reach | None
    """None between Mist's 16 levels and the presets."""


class Job(NamedTuple):
    checkpoint: Path
    device: torch.device
    kind: str
    picture: Tensor
    after: tuple[str, ...]
    strengths: tuple[int, ...] = tuple(LADDER)
    """Of Mist's loop. What is between two of them is asked for AFTER alone."""


Rows = list[dict[str, Measured]]
"""Of each picture, by way."""


def worst(rows: Rows) -> Figures:
    """By way, the least median of what is still taken off after a transform of the suite, and the transform."""
    found: Figures = {}
    for way in SHOWN:
        name, least = worst_median({name: [row[way].off[name] for row in rows] for name in SURVIVED})
        found[way] = {"transform": name, **least._asdict()}
    return found


def judge_of(asked: Asked, say: Say) -> Path | None:
    """The first that has a decoder: TAEF2 of those that exist."""
    found = [path for path in judges.encoders(asked.real) if list(path.parent.glob(path.name.replace("_en", "_de")))]
    if not found:
        say(f"not measured: {judges.NOT_MEASURED}")
    return found[0] if found else None


def with_denoiser(asked: Asked, say: Say) -> Path | None:
    """The same, where there is the denoiser that we trained on its latents."""
    judge = judge_of(asked, say)
    if judge is None or len(judges.whole(judge, asked.device).sigmas) > 0:
        return judge
    say(f"not measured: there is no denoiser for {judge.stem}")
    return None


def jobs_for(
    asked: Asked, judge: Path, after: tuple[str, ...], strengths: tuple[int, ...] = tuple(LADDER), each: int = EACH
) -> list[Job]:
    pictures = unseen.pictures(max(asked.each, each), asked.side, asked.pictures)
    return [Job(judge, asked.device, kind, x, after, strengths) for kind, of in pictures.items() for x in of]


def measured_on(jobs: Sequence[Job], asked: Asked, say: Say) -> Rows:
    with on_processes(asked.device) as processes:
        return list(_told(jobs, processes, say))


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
    height, width = job.picture.shape[2:]
    asked = {way: job.after if way in SHOWN else AFTER for way in made}
    off = model.run(lambda ready: taken_off(ready, job.picture, made, asked), 1, height, width)
    return {
        way: Measured(seen(job.picture, after), off[way], reach(model, job.picture, after) if way in SHOWN else None)
        for way, after in made.items()
    }


@torch.no_grad()
def taken_off(
    ready: Surrogate, picture: Tensor, made: Mapping[str, Tensor], after: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Share of the distance to the target's latents that is gone, by way and by the transform that came after it, PLAIN
    among them. picture and what was made of it: (1, 3, H, W) in [0, 1]. Within `Surrogate.run`."""
    height, width = picture.shape[2:]
    target = ready.encode(pattern("lattice", height, width).to(ready.device))

    def distance(x: Tensor) -> float:
        return float((ready.encode(x.to(ready.device)) - target).square().mean())

    def off(name: str, levels: Tensor) -> float:
        changed = levels if name == PLAIN else transformed(name, levels, ready)
        return 1 - distance(to_unit(changed)) / whole

    whole = distance(picture)
    return {way: {name: off(name, to_levels(x)) for name in after[way]} for way, x in made.items()}


def balance(rows: Sequence[Mapping[str, Measured]]) -> Figures:
    """By way, medians with their intervals; of a preset also over Mist's at equal PSNR, where its loop ran at several
    strengths."""
    ways = {way: _medians([{**row[way].seen, **row[way].off, **_reached(row[way])} for row in rows]) for way in rows[0]}
    for preset in PRESETS:
        if f"mist {min(LADDER)}" in ways:
            equal = [_over_equal(row, preset) for row in rows]
            ways[preset] |= {f"{name}_over_equal": value for name, value in _medians(equal).items()}
    return ways


def _medians(rows: Sequence[Mapping[str, float]]) -> Figures:
    return {name: interval([row[name] for row in rows])._asdict() for name in rows[0]}


def _over_equal(row: Mapping[str, Measured], preset: str) -> dict[str, float]:
    ladder = [row[f"mist {levels}"] for levels in LADDER]
    return {
        name: row[preset].off[name]
        / at_psnr([(one.seen["psnr_db"], one.off[name]) for one in ladder], row[preset].seen["psnr_db"])
        for name in AFTER
    }


def _reached(one: Measured) -> dict[str, float]:
    """Where the model has a decoder, also what its reconstruction loses."""
    if one.reached is None:
        return {}
    found = {"times_noise": one.reached.times_noise}
    return found if one.reached.lost_db is None else found | {"lost_db": one.reached.lost_db}
