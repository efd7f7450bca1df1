"""How few steps of a preset are as strong after a halving as Mist v1's hundred, and no more visible: fused, on an
autoencoder that nobody made attackable with the denoiser that we trained on its latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..evaluation.intervals import interval
from ..objectives import ESTIMATES
from ..settings import resolve
from . import judges, unseen
from .asked import Asked, Figures, Say
from .balance import PLAIN, taken_off, with_denoiser
from .real import on_processes
from .ways import MIST, by_mist, by_preset, seen

PRESET = "sprint"
AFTER = "half"
CYCLE = ESTIMATES[resolve(PRESET).gradient].steps
LADDER = tuple(CYCLE * cycles for cycles in range(1, 4))
"""Whole cycles, so that a step's cost is the one that is measured."""


class Job(NamedTuple):
    checkpoint: Path
    device: torch.device
    kind: str
    picture: Tensor


class One(NamedTuple):
    """One picture, protected in one way."""

    psnr_db: float
    off: float
    """Share of the distance to the target's latents that is gone after a halving."""
    off_plainly: float
    """... and before one."""


def figures(asked: Asked, say: Say) -> Figures:
    """steps_to_mist_100_halved: the first of LADDER whose median over Mist's is at least 1, at no less PSNR; None where
    none is. halved_by_steps: the medians, with intervals, after a halving and before. Nothing without such a model."""
    model = with_denoiser(asked, say)
    if model is None:
        return {}
    pictures = unseen.pictures(asked.each, asked.side, asked.pictures)
    jobs = [Job(model, asked.device, kind, x) for kind, of in pictures.items() for x in of]
    rows = []
    with on_processes(asked.device) as processes:
        for job, row in zip(jobs, processes.map(measured, jobs), strict=True):
            say(f"  {job.kind}: " + ", ".join(_words(way, one) for way, one in row.items()))
            rows.append(row)
    return by_steps(rows)


def measured(job: Job) -> dict[str, One]:
    """By way: Mist's hundred steps at 16 levels, then the preset in the steps of LADDER."""
    model: Any = judges.whole(job.checkpoint, job.device)
    made = {MIST: by_mist(model, job.picture, "fused", 16)}
    made |= {str(steps): by_preset(model, job.picture, "fused", PRESET, steps=steps) for steps in LADDER}
    asked = dict.fromkeys(made, (AFTER, PLAIN))
    height, width = job.picture.shape[2:]
    off = model.run(lambda ready: taken_off(ready, job.picture, made, asked), 1, height, width)
    return {
        way: One(seen(job.picture, after)["psnr_db"], off[way][AFTER], off[way][PLAIN]) for way, after in made.items()
    }


def _words(way: str, one: One) -> str:
    return f"{way} {one.psnr_db:.1f} dB {one.off:.2f} (plainly {one.off_plainly:.2f})"


def by_steps(rows: Sequence[Mapping[str, One]]) -> Figures:
    found: Figures = {}
    for steps in LADDER:
        pairs = [(row[str(steps)], row[MIST]) for row in rows]
        over = interval([a.off / b.off for a, b in pairs])
        plainly = interval([a.off_plainly / b.off_plainly for a, b in pairs])
        found[str(steps)] = {
            "psnr_db_more": median(a.psnr_db - b.psnr_db for a, b in pairs),
            "off_over_mist": over._asdict(),
            "plainly_over_mist": plainly._asdict(),
        }
    enough = [
        int(steps) for steps, one in found.items() if one["off_over_mist"]["median"] >= 1 and one["psnr_db_more"] >= 0
    ]
    return {"steps_to_mist_100_halved": min(enough, default=None), "halved_by_steps": found}
