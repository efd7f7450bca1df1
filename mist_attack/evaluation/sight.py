"""How a model sees a picture: the whole of it at its working size, or crops at native scale; and how far what it sees
has moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..budget import to_unit
from ..needs import possible
from ..surrogate import Surrogate
from ..views import View, plan

REGIONS = 4  # by as many, of each view: what an interval is drawn from
PLACES = ((0.5, 0.5), (0.0, 0.0), (1.0, 1.0))  # of the native crops, as shares of the room that they have


@dataclass(frozen=True)
class Sight:
    """views: all of one size. words: how the picture is seen."""

    name: str
    words: str
    views: list[View]

    def looks(self, surrogate: Surrogate, levels: Tensor) -> list[Tensor]:
        """(1, 3, H, W) uint8 -> for each view, (1, 3, h, w) in [0, 1] on the model's device."""
        picture = to_unit(levels).to(surrogate.device)
        return [view.look(view.region(picture)) for view in self.views]


@dataclass(frozen=True)
class Shift:
    """How far latents moved: `sums` of squares by region, (N,) float64, of `count` values in all."""

    sums: np.ndarray
    count: int

    @property
    def rms(self) -> float:
        return float(np.sqrt(self.sums.sum() / self.count))


def sights(surrogate: Surrogate, height: int, width: int, working_size: int) -> list[Sight]:
    """Of a picture of that size: the whole, and native crops where that reduces it."""
    multiple = multiple_of(surrogate)
    whole = plan(height, width, "whole", working_size, multiple)
    (view,) = whole
    if view.gain == 1.0:
        return [Sight("whole", f"the whole picture, {width} x {height} pixels", whole)]
    crops = _crops(height, width, working_size // multiple * multiple, multiple)
    reduced = f"{view.model_width} x {view.model_height}"
    native = f"{crops[0].width} x {crops[0].height}"
    return [
        Sight("whole", f"the whole picture, reduced to {reduced} pixels", whole),
        Sight("native", f"{len(crops)} crops of {native} pixels at native scale", crops),
    ]


def multiple_of(surrogate: Surrogate) -> int:
    """Of pixels, that the sides must be for all that this model can do."""
    return surrogate.spatial_multiple(possible(denoiser=len(surrogate.sigmas) > 0)[-1])


def shift(before: list[Tensor], after: list[Tensor]) -> Shift:
    """Of latents by view, (1, C, h, w) each."""
    squares = [(b - a).double().square().sum(dim=(0, 1)).cpu() for a, b in zip(before, after, strict=True)]
    sums = [part.sum() for square in squares for rows in square.tensor_split(REGIONS) for part in _columns(rows)]
    return Shift(torch.stack(sums).numpy(), sum(latents.numel() for latents in before))


def _columns(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.tensor_split(REGIONS, dim=1)


def _crops(height: int, width: int, side: int, multiple: int) -> list[View]:
    rows, columns = min(side, height), min(side, width)
    sides = (-(-rows // multiple) * multiple, -(-columns // multiple) * multiple)
    places = [(round(y * (height - rows)), round(x * (width - columns))) for y, x in PLACES]
    return [View(top, left, rows, columns, *sides) for top, left in dict.fromkeys(places)]
