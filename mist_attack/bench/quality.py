"""How few of our steps reach what Mist v1's hundred reach: same budget, same model, judged by the same fresh noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..budget import to_levels
from ..hosts.headless.autoencoders import Distilled
from ..hosts.headless.diffusers import DiffusersSurrogate
from ..loss import PictureLoss
from ..protection import objectives_for, protect
from ..settings import Settings, resolve
from ..surrogate import Objective, Surrogate
from ..targets import pattern
from ..views import plan
from .baseline import Loss, MistV1Fixed, MistV1Once, MistV1Textural, mist_v1

SIDE = 256
MIST_STEPS = 100
LADDER = (5, 8, 10, 15, 20, 25)
TOLERANCE = 0.01
"""About what other pictures of the same kinds change in the medians."""
JUDGES = range(1000, 1004)  # seeds that no attack has used
Figures = dict[str, float]
Pictures = Mapping[str, Sequence[Tensor]]


class Judge:
    """The figures of a picture through a model, by draws that are the same for every picture."""

    def __init__(self, model: DiffusersSurrogate, objective: Objective, side: int = SIDE) -> None:
        self.model, self.settings, self.side = model, Settings(objective=objective, working_size=side), side

    def figures(self, picture: Tensor) -> Figures:
        """target_distance, and denoising_loss where the objective has one: means over JUDGES."""
        return self.model.run(lambda ready: self._figures(ready, picture), 1, self.side, self.side)

    def _figures(self, ready: Surrogate, picture: Tensor) -> Figures:
        views = plan(self.side, self.side, "whole", self.side, ready.spatial_multiple(self.settings.objective))
        conditioning = ready.conditioning(self.settings.prompt)
        objectives, _ = objectives_for(ready, self.settings, views, self.side, self.side, None, conditioning)
        loss = PictureLoss(ready, views, objectives, torch.Generator(ready.device))
        rows = [loss.measure(picture.to(ready.device), seed) for seed in JUDGES]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def published(
    model: Surrogate, picture: Tensor, objective: Objective, steps: int = MIST_STEPS, epsilon: float = 16
) -> Tensor:
    """Mist v1's steps at `epsilon` levels, rounded to the 8-bit grid."""
    height, width = picture.shape[2:]

    def job(ready: Surrogate) -> Tensor:
        torch.manual_seed(23)
        loss = _mist_loss(ready, pattern("lattice", height, width).to(ready.device) * 2 - 1, objective)
        return mist_v1(loss, picture.to(ready.device) * 2 - 1, epsilon, steps).cpu()

    return to_levels(model.run(job, 1, height, width) / 2 + 0.5) / 255


def _mist_loss(ready: Surrogate, target: Tensor, objective: Objective) -> Loss:
    if not isinstance(ready, DiffusersSurrogate):
        return MistV1Textural(ready, target)
    prompt = ready.conditioning("a painting")
    if isinstance(ready.autoencoder, Distilled):
        return MistV1Fixed(ready, target, lambda: prompt, objective)
    return MistV1Once(ready, target, lambda: prompt, objective)


def as_strong(found: Mapping[str, float]) -> bool:
    """At most 1 in target_distance, and at least 1 in denoising_loss, to within TOLERANCE."""
    return found["target_distance"] <= 1 + TOLERANCE and found.get("denoising_loss", 1.0) >= 1 - TOLERANCE


def medians(rows: Iterable[Mapping[str, float]]) -> Figures:
    rows = list(rows)
    return {name: median(row[name] for row in rows) for name in rows[0]}


class Match:
    """Our figures over those of Mist v1's hundred steps, on every picture through one model."""

    def __init__(self, model: DiffusersSurrogate, images: Pictures, objective: Objective) -> None:
        self.model, self.images, self.judge = model, images, Judge(model, objective)
        self.reference = {
            kind: [self.judge.figures(published(model, image, objective)) for image in members]
            for kind, members in images.items()
        }

    def ratios(self, settings: Settings) -> dict[str, list[Figures]]:
        """Kind -> for each picture, ours over Mist's."""
        return {
            kind: [
                self._ratio(image, settings, mist) for image, mist in zip(members, self.reference[kind], strict=True)
            ]
            for kind, members in self.images.items()
        }

    def _ratio(self, image: Tensor, settings: Settings, mist: Figures) -> Figures:
        ours = self.judge.figures(protect(image, self.model, settings).images)
        return {name: ours[name] / mist[name] for name in mist}


class Matched(NamedTuple):
    steps: int | None
    """The first number of LADDER that is as strong as Mist's hundred, in the medians over all pictures."""
    strength: dict[int, Figures]
    """Those medians, by number of steps."""
    kinds: dict[str, Figures]
    """Medians over the pictures of a kind, at the last number tried."""


def steps_to_match(model: DiffusersSurrogate, images: Pictures, preset: str, objective: Objective) -> Matched:
    match = Match(model, images, objective)
    wanted = replace(resolve(preset, {"objective": objective}), working_size=SIDE)
    strength: dict[int, Figures] = {}
    kinds: dict[str, Figures] = {}
    for steps in LADDER:
        found = match.ratios(replace(wanted, steps=steps))
        strength[steps] = medians(chain.from_iterable(found.values()))
        kinds = {kind: medians(rows) for kind, rows in found.items()}
        if as_strong(strength[steps]):
            return Matched(steps, strength, kinds)
    return Matched(None, strength, kinds)
