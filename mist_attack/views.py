"""What the model sees of a picture: all of it reduced to the working size, tiles at native scale, or both.

The picture itself keeps its size. Pure geometry; everything is differentiable and in pixels.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import ViewKind

OVERLAP = 8  # tiles overlap by one part in OVERLAP of their side


@dataclass(frozen=True)
class View:
    """A region of the picture and the size at which the model sees it."""

    top: int
    left: int
    height: int
    width: int
    model_height: int
    model_width: int
    gain: float = 1.0
    """Picture pixels per model pixel: makes gradients of views at different scales comparable."""
    feathers: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels over which the view's say fades towards its top, bottom, left and right edge."""

    def region(self, picture: Tensor) -> Tensor:
        """The region of a (B, C, H, W) picture: shares its memory."""
        return picture[:, :, self.top : self.top + self.height, self.left : self.left + self.width]

    def look(self, region: Tensor) -> Tensor:
        """(B, C, height, width) -> (B, C, model_height, model_width): reduced with antialiasing, or padded by
        repeating the edge."""
        if self.gain != 1.0:
            size = (self.model_height, self.model_width)
            return F.interpolate(region, size, mode="bilinear", antialias=True)
        padding = (0, self.model_width - self.width, 0, self.model_height - self.height)
        return F.pad(region, padding, mode="replicate") if any(padding) else region

    def weight(self, like: Tensor) -> Tensor | float:
        """How much the view's gradient counts, (1, 1, height, width): gain, fading where other tiles take over."""
        if not any(self.feathers):
            return self.gain
        top, bottom, left, right = self.feathers
        rows = _ramp(self.height, top, bottom, like)
        columns = _ramp(self.width, left, right, like)
        return self.gain * (rows[:, None] * columns)[None, None]


def plan(height: int, width: int, kind: ViewKind, working_size: int, multiple: int) -> list[View]:
    """The views of a (height, width) picture, each model size a multiple of `multiple` pixels.

    A picture of at most working_size^2 pixels is seen as it is in every kind.
    """
    if height * width <= working_size**2:
        return [View(0, 0, height, width, _up(height, multiple), _up(width, multiple))]
    whole = [_reduced(height, width, working_size, multiple)]
    if kind == "whole":
        return whole
    tiles = _tiles(height, width, working_size, multiple)
    return tiles if kind == "tiles" else whole + tiles


def _reduced(height: int, width: int, working_size: int, multiple: int) -> View:
    """The same area as a square of the working size, the picture's aspect: as trainers bucket their pictures."""
    scale = working_size / math.sqrt(height * width)
    model_height = max(multiple, round(height * scale / multiple) * multiple)
    model_width = max(multiple, round(width * scale / multiple) * multiple)
    gain = height * width / (model_height * model_width)
    return View(0, 0, height, width, model_height, model_width, gain)


def _tiles(height: int, width: int, working_size: int, multiple: int) -> list[View]:
    side = max(multiple, working_size // multiple * multiple)
    tops, tile_height = _starts(height, side), min(side, height)
    lefts, tile_width = _starts(width, side), min(side, width)
    fade_rows, fade_columns = _fades(tops, tile_height), _fades(lefts, tile_width)
    return [
        View(
            top,
            left,
            tile_height,
            tile_width,
            _up(tile_height, multiple),
            _up(tile_width, multiple),
            feathers=(*fade_rows[i], *fade_columns[j]),
        )
        for i, top in enumerate(tops)
        for j, left in enumerate(lefts)
    ]


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin: a fixed stride, the last one shifted inward."""
    stride = side - side // OVERLAP
    count = 1 + max(0, math.ceil((length - side) / stride))
    return [min(i * stride, max(0, length - side)) for i in range(count)]


def _fades(starts: list[int], side: int) -> list[tuple[int, int]]:
    """For each tile, the overlap with its neighbour before and after; 0 at the picture's own edge."""
    overlaps = [0, *(a + side - b for a, b in itertools.pairwise(starts)), 0]
    return list(itertools.pairwise(overlaps))


def _ramp(length: int, before: int, after: int, like: Tensor) -> Tensor:
    position = torch.arange(length, device=like.device, dtype=like.dtype) + 0.5
    ramp = torch.ones_like(position)
    if before:
        ramp = torch.minimum(ramp, position / before)
    if after:
        ramp = torch.minimum(ramp, (length - position) / after)
    return ramp


def _up(length: int, multiple: int) -> int:
    return math.ceil(length / multiple) * multiple
