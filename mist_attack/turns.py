"""What happens to pictures on the web, as functions with a derivative: reduction and JPEG in the loop.

Expectation over transforms (Athalye et al. 2018, arXiv 1707.07397, eq. 2), one of them a step, in turns: no pass more.
Pictures are (B, 3, H, W) float32 in [0, 1]. All of it is products of matrices: the same bytes on a card each time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .settings import Transforms

Transform = Callable[[Tensor], Tensor]

SHARES = (0.4, 0.6)  # of the side, to which a picture is reduced and enlarged again
QUALITIES = (50, 95)
HARSH_QUALITIES = (40, 75)

TURNS: dict[Transforms, tuple[str, ...]] = {
    "none": ("plain",),
    "reduction": ("plain", "plain", "reduced"),
    "web": ("plain", "reduced", "jpeg", "reduced"),
    "harsh": ("plain", "reduced", "harsh jpeg"),
}
"""What the steps go through, in turns, by the name that people choose."""


class Turns:
    """The transforms of one run, drawn from its seed: `next` is the one of the next step."""

    def __init__(self, name: Transforms, seed: int) -> None:
        self.kinds, self.random, self.done = TURNS[name], random.Random(f"transforms {seed}"), 0

    @property
    def deterministic(self) -> bool:
        """Every step sees the same picture."""
        return self.kinds == TURNS["none"]

    def next(self) -> Transform:
        kind = self.kinds[self.done % len(self.kinds)]
        self.done += 1
        return DRAWN[kind](self.random)


DRAWN: dict[str, Callable[[random.Random], Transform]] = {
    "plain": lambda _: lambda pictures: pictures,
    "reduced": lambda draws: reduced(draws.uniform(*SHARES)),
    "jpeg": lambda draws: jpeg(draws.randint(*QUALITIES)),
    "harsh jpeg": lambda draws: jpeg(draws.randint(*HARSH_QUALITIES)),
}


def reduced(share: float) -> Transform:
    """To `share` of each side by Lanczos-3 with antialiasing, as Pillow does, and back."""

    def apply(pictures: Tensor) -> Tensor:
        height, width = pictures.shape[2:]
        return _separable(pictures, _there_and_back(height, share), _there_and_back(width, share))

    return apply


def jpeg(quality: int) -> Transform:
    """Baseline JPEG with 4:2:0 chroma; rounding and clipping let the gradient pass as if they were not there (a
    straight-through estimate: Bengio et al. 2013, arXiv 1308.3432).

    quality: 1 to 100, the scale of the Independent JPEG Group's tables (ITU-T T.81, annex K).
    """

    def apply(pictures: Tensor) -> Tensor:
        height, width = pictures.shape[2:]
        padded = _padded(_padded(pictures * 255, 16, -1), 16, -2)
        luma, chroma = _mixed(padded, TO_YCC).split([1, 2], 1)
        luma = _quantised(luma - 128, _table(LUMA_TABLE, quality)) + 128
        halved = _separable(chroma, _halving(chroma.shape[2]), _halving(chroma.shape[3]))
        halved = _quantised(halved, _table(CHROMA_TABLE, quality))
        chroma = _separable(halved, _doubling(halved.shape[2]), _doubling(halved.shape[3]))
        decoded = _mixed(torch.cat([luma, chroma], 1), TO_YCC.inverse())[:, :, :height, :width]
        return _past(decoded, decoded.clamp(0, 255)) / 255

    return apply


EXACT: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
"""Of tensors that are made here, whatever the host's defaults are."""
TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
LUMA_TABLE = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA_TABLE = torch.full((8, 8), 99).index_put(
    (torch.arange(4)[:, None], torch.arange(4)[None]),
    torch.tensor([[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]),
)


def _table(table: Tensor, quality: int) -> Tensor:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return table.mul(scale).add(50).div(100, rounding_mode="floor").clamp(1, 255).float()


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    """Planes in levels around zero, sides multiples of 8, through the DCT's rounding."""
    batch, count, height, width = planes.shape
    cosines, table = _dct().to(planes), table.to(planes)
    blocks = planes.reshape(batch, count, height // 8, 8, width // 8, 8).transpose(3, 4)
    scaled = cosines @ blocks @ cosines.T / table
    blocks = cosines.T @ (_past(scaled, scaled.round()) * table) @ cosines
    return blocks.transpose(3, 4).reshape(planes.shape)


def _past(values: Tensor, replaced: Tensor) -> Tensor:
    """`replaced`, with the gradient of `values`."""
    return values + (replaced - values).detach()


def _mixed(pictures: Tensor, matrix: Tensor) -> Tensor:
    return (pictures.movedim(1, -1) @ matrix.T.to(pictures)).movedim(-1, 1)


def _padded(values: Tensor, multiple: int, side: int) -> Tensor:
    """The last row or column again, up to a multiple."""
    length = values.shape[side]
    missing = -length % multiple
    if not missing:
        return values
    last = values.narrow(side, length - 1, 1)
    return torch.cat([values, last.repeat_interleave(missing, side)], side)


def _separable(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return rows.to(pictures) @ pictures @ columns.T.to(pictures)


@lru_cache(maxsize=1)
def _dct() -> Tensor:
    """The orthonormal DCT-II of 8 values."""
    k = torch.arange(8, **EXACT)
    cosines = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
    cosines[0] /= math.sqrt(2)
    return cosines.float()


def _there_and_back(length: int, share: float) -> Tensor:
    smaller = max(1, round(length * share))
    return _lanczos(length, smaller) @ _lanczos(smaller, length)


def _lanczos(outputs: int, inputs: int, lobes: int = 3) -> Tensor:
    """(outputs, inputs): a row of weights for each output, as Pillow resamples."""
    scale = inputs / outputs
    stretch = max(scale, 1.0)
    centres = (torch.arange(outputs, **EXACT)[:, None] + 0.5) * scale
    offsets = (torch.arange(inputs, **EXACT)[None] + 0.5 - centres) / stretch
    weights = torch.sinc(offsets) * torch.sinc(offsets / lobes) * (offsets.abs() < lobes)
    return (weights / weights.sum(1, keepdim=True)).float()


def _halving(length: int) -> Tensor:
    return torch.eye(length // 2, **EXACT).repeat_interleave(2, 1).float() / 2


def _doubling(length: int) -> Tensor:
    """As libjpeg's triangle filter: three parts of the nearer value, one of the next."""
    same = torch.eye(length, **EXACT)
    places = torch.arange(2 * length, device="cpu")
    following = (places // 2 + places % 2 * 2 - 1).clamp(0, length - 1)
    return (0.75 * same.repeat_interleave(2, 0) + 0.25 * same[following]).float()
