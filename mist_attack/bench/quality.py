"""How few of our steps reach what Mist v1's hundred reach: same budget, same model, judged by the same fresh noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import SettingsError
from ..hosts.diffusers import DiffusersSurrogate
from ..loss import PictureLoss
from ..protect import objectives_for, protect, to_levels
from ..settings import Settings, resolve
from ..surrogate import Objective, Surrogate
from ..targets import pattern
from ..views import plan
from .baseline import MistV1, mist_v1

SIDE = 256
MIST_STEPS = 100
LADDER = (8, 10, 12, 15, 20, 25)
JUDGES = range(1000, 1004)  # seeds that no attack has used
PICTURES = "camera", "coins", "moon", "clock", "grass"
"""Grey photographs that scikit-image brings (public domain and CC0)."""


def pictures(side: int = SIDE) -> list[Tensor]:
    """(1, 3, side, side) in [0, 1] each: the shorter side reduced, the centre cropped."""
    try:
        import skimage.data
    except ImportError as error:
        raise SettingsError('The photographs come with scikit-image: pip install "mist-protect[demo]"') from error

    return [_square(Image.fromarray(getattr(skimage.data, name)()), side) for name in PICTURES]


def _square(image: Image.Image, side: int) -> Tensor:
    scale = side / min(image.size)
    size = max(side, round(image.width * scale)), max(side, round(image.height * scale))
    image = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    array = np.asarray(image.crop((left, top, left + side, top + side)))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255


class Judge:
    """The figures of a picture through a model, by draws that are the same for every picture."""

    def __init__(self, model: DiffusersSurrogate, objective: Objective, side: int = SIDE) -> None:
        self.model, self.settings, self.side = model, Settings(objective=objective, working_size=side), side

    def figures(self, picture: Tensor) -> dict[str, float]:
        """target_distance, and denoising_loss where the objective has one: means over JUDGES."""
        return self.model.run(lambda ready: self._figures(ready, picture), 1, self.side, self.side)

    def _figures(self, ready: Surrogate, picture: Tensor) -> dict[str, float]:
        views = plan(self.side, self.side, "whole", self.side, ready.spatial_multiple(self.settings.objective))
        conditioning = ready.conditioning(self.settings.prompt)
        objectives, _ = objectives_for(ready, self.settings, views, self.side, self.side, None, conditioning)
        loss = PictureLoss(ready, views, objectives, torch.Generator(ready.device))
        rows = [loss.measure(picture.to(ready.device), seed) for seed in JUDGES]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def published(model: DiffusersSurrogate, picture: Tensor, objective: Objective, steps: int = MIST_STEPS) -> Tensor:
    """Mist v1's steps at 16 levels, rounded to the 8-bit grid."""
    height, width = picture.shape[2:]

    def job(ready: Surrogate) -> Tensor:
        torch.manual_seed(23)
        target, prompt = pattern("lattice", height, width).to(ready.device), ready.conditioning("a painting")
        loss = MistV1(model, target * 2 - 1, lambda: prompt, objective)
        return mist_v1(loss, picture.to(ready.device) * 2 - 1, epsilon=16, steps=steps).cpu()

    return to_levels(model.run(job, 1, height, width) / 2 + 0.5) / 255


def ratios(
    model: DiffusersSurrogate, images: Sequence[Tensor], settings: Settings, reference: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Median over the pictures of our figures over the reference's; at most 1 in target_distance and at least 1 in
    denoising_loss is as strong."""
    judge = Judge(model, settings.objective)
    ours = [judge.figures(protect(image, model, settings).images) for image in images]
    return {name: median(a[name] / b[name] for a, b in zip(ours, reference, strict=True)) for name in reference[0]}


def as_strong(found: Mapping[str, float]) -> bool:
    return found["target_distance"] <= 1 and found.get("denoising_loss", 1.0) >= 1


def steps_to_match(
    model: DiffusersSurrogate, images: Sequence[Tensor], preset: str, objective: Objective
) -> tuple[int | None, dict[int, dict[str, float]]]:
    """The first number of LADDER with which `preset` is as strong as Mist v1's hundred steps, and what was found."""
    judge = Judge(model, objective)
    reference = [judge.figures(published(model, image, objective)) for image in images]
    wanted = replace(resolve(preset, objective=objective), working_size=SIDE)
    found: dict[int, dict[str, float]] = {}
    for steps in LADDER:
        found[steps] = ratios(model, images, replace(wanted, steps=steps), reference)
        if as_strong(found[steps]):
            return steps, found
    return None, found
