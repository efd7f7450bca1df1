"""What the denoiser makes of a protection: the fused objective on whole models, judged by fresh noise and by img2img,
beside Mist's own loop at 16 levels and at the strength that is as visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..budget import to_levels, to_unit
from ..evaluation.comparison import img2img
from ..evaluation.metrics import rms
from ..evaluation.transforms import transformed
from ..settings import Settings
from ..surrogate import Surrogate
from . import judges, unseen
from .asked import Asked, Figures, Say
from .quality import Judge
from .real import on_processes
from .ways import LADDER, PRESETS, at_psnr, by_mist, by_preset, seen

EACH = 1
STRENGTH, STEPS = 0.5, 10
"""Of img2img: how much of the schedule, in how many steps."""
SEEDS = range(2)
APART, APART_HALVED = "img2img_levels", "img2img_halved_levels"
BESIDE = (5, 8)
"""Strengths of Mist's loop between which, or beyond which, the presets are as visible."""


class Job(NamedTuple):
    checkpoint: Path
    device: torch.device
    kind: str
    picture: Tensor
    presets: tuple[str, ...] = ("default",)
    strengths: tuple[int, ...] = BESIDE


class Judged(NamedTuple):
    model: str
    ways: dict[str, Figures]
    """What is seen; denoising_loss and target_distance over the untouched picture's; and APART, how far what img2img
    makes lies from what it makes of the untouched picture, rms in levels, and APART_HALVED, where both were reduced to
    half and back before. Of a preset also all of these over those of Mist's loop at equal PSNR (NAME_over_equal)."""


def over_mist(asked: Asked, say: Say) -> Figures:
    """Demo model -> kind -> the default's figures over Mist's at equal PSNR."""
    found: Figures = {}
    jobs = jobs_for(asked, judges.demos())
    for job, judged in zip(jobs, judged_on(jobs, asked, say), strict=True):
        ours = judged.ways["default"]
        over = {name: ours[f"{name}_over_equal"] for name in ("target_distance", "denoising_loss")}
        found.setdefault(f"{judged.model} ({job.checkpoint.name})", {})[job.kind] = over
    return found


def jobs_for(asked: Asked, checkpoints: Sequence[Path], *, every: bool = False) -> list[Job]:
    """every: all presets and Mist at 16 levels, not the default alone."""
    pictures = unseen.pictures(EACH, asked.side, asked.pictures)
    more: Any = {"presets": PRESETS, "strengths": tuple(LADDER)} if every else {}
    return [
        Job(path, asked.device, kind, x, **more) for path in checkpoints for kind, of in pictures.items() for x in of
    ]


def judged_on(jobs: Sequence[Job], asked: Asked, say: Say) -> list[Judged]:
    found = []
    with on_processes(asked.device) as processes:
        for job, judged in zip(jobs, processes.map(fused, jobs), strict=True):
            found.append(judged)
            for way, figures in judged.ways.items():
                words = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
                say(f"  {judged.model}, fused, {job.kind}, {way}: {words}")
    return found


def fused(job: Job) -> Judged:
    model: Any = judges.whole(job.checkpoint, job.device)
    judge = Judge(model, "fused", max(job.picture.shape[2:]))
    made = {f"mist {levels}": by_mist(model, job.picture, "fused", levels) for levels in job.strengths}
    made |= {name: by_preset(model, job.picture, "fused", name) for name in job.presets}
    whole = judge.figures(job.picture)
    height, width = job.picture.shape[2:]
    reduced = {way: halved(x) for way, x in made.items()}
    moved = model.run(lambda ready: apart(ready, job.picture, made), 1, height, width)
    moved_halved = model.run(lambda ready: apart(ready, halved(job.picture), reduced), 1, height, width)
    ways = {
        way: seen(job.picture, after)
        | _shares(judge.figures(after), whole)
        | {APART: moved[way], APART_HALVED: moved_halved[way]}
        for way, after in made.items()
    }
    ladder = [ways[f"mist {levels}"] for levels in job.strengths]
    for name in job.presets:
        ways[name] |= {
            f"{key}_over_equal": _over_equal(ways[name], ladder, key) for key in (*whole, APART, APART_HALVED)
        }
    return Judged(model.name, ways)


def apart(ready: Surrogate, before: Tensor, after: Mapping[str, Tensor]) -> Figures:
    """How far img2img's results of each lie from those of `before` by the same noise, rms in levels."""
    conditioning = ready.conditioning(Settings().prompt)

    def varied(picture: Tensor, seed: int) -> Tensor:
        return to_levels(img2img(ready, picture.to(ready.device), conditioning, STRENGTH, STEPS, seed)).cpu()

    made = [varied(before, seed) for seed in SEEDS]
    return {way: fmean(rms(varied(x, seed), made[seed]) for seed in SEEDS) for way, x in after.items()}


def halved(picture: Tensor) -> Tensor:
    """Reduced to half and back, as a file."""
    return to_unit(transformed("half", to_levels(picture)))


def _shares(figures: Figures, whole: Figures) -> Figures:
    return {name: value / whole[name] for name, value in figures.items()}


def _over_equal(ours: Figures, ladder: Sequence[Figures], name: str) -> float:
    return ours[name] / at_psnr([(one["psnr_db"], one[name]) for one in ladder], ours["psnr_db"])
