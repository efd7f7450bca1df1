"""The ways of protection that are compared, and how visible each is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from ..budget import to_levels
from ..evaluation.metrics import visibility
from ..needs import Objective
from ..protection import protect
from ..settings import resolve
from .quality import published

MIST = "mist 16"
PRESETS = ("default", "invisible", "robust")
LADDER = {3: 30, 5: 40, 8: 50, 16: 100}
"""Strengths of Mist's loop, levels, and its steps: with 1 level a step, more do nothing for the small ones."""
SEEN = ("psnr_db", "ssim", "ciede2000_mean")


def by_mist(model: Any, picture: Tensor, objective: Objective, levels: int) -> Tensor:
    return published(model, picture, objective, LADDER[levels], levels)


def by_preset(model: Any, picture: Tensor, objective: Objective, preset: str, **controls: Any) -> Tensor:
    """controls: that are other than the preset's."""
    asked = {"objective": objective, "working_size": max(picture.shape[2:])} | controls
    settings = resolve(preset, asked)
    return protect(picture, model, settings).images


def seen(before: Tensor, after: Tensor) -> dict[str, float]:
    figures = visibility(to_levels(before), to_levels(after))
    return {name: float(figures[name] or 0) for name in SEEN}


def at_psnr(ladder: Sequence[tuple[float, float]], psnr_db: float) -> float:
    """What is taken off at a PSNR, between the two strengths that enclose it along a straight line, or beyond the last
    along the same. ladder: (PSNR, taken off), at least two."""
    steps = list(pairwise(sorted(ladder)))
    (low, below), (high, above) = next((pair for pair in steps if pair[1][0] >= psnr_db), steps[-1])
    return below + (above - below) * (psnr_db - low) / (high - low)
