"""Flat areas of a picture, where a change shows first: how much of it they are, how far they changed, and where.

Pictures are (1, 3, H, W) uint8, of one size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, LEVELS = 9, 3.0
"""An area is flat where the grey original's standard deviation over such a window is below so many levels."""
LUMA = (0.299, 0.587, 0.114)
MOST = 0.6
"""So much of what changed in flat areas makes a place of it."""
PLACES = {
    ("top", ""): "at the top",
    ("bottom", ""): "at the bottom",
    ("", "left"): "on the left",
    ("", "right"): "on the right",
    ("middle", ""): "across the middle",
    ("", "middle"): "down the middle",
    ("middle", "middle"): "in the middle",
    ("middle", "left"): "on the left",
    ("middle", "right"): "on the right",
    ("top", "middle"): "at the top",
    ("bottom", "middle"): "at the bottom",
}
"""Of a row and a column of thirds; a corner is made of both."""


def flat_areas(before: Tensor) -> Tensor:
    """(1, 1, H, W) bool, see LEVELS."""
    grey = (before.float() * before.new_tensor(LUMA, dtype=torch.float32).view(1, 3, 1, 1)).sum(1, keepdim=True) - 128
    mean, square = _box(grey), _box(grey * grey)
    return square - mean * mean < LEVELS**2


def flat_figures(before: Tensor, after: Tensor) -> dict[str, Any]:
    """flat_share of the picture; flat_noise_levels, the root mean square of the change there, None where nothing is
    flat; flat_place, where most of that change is, in words, or None."""
    flat = flat_areas(before)
    squares = (after.int() - before).square().sum(1, keepdim=True).mul(flat)[0, 0]
    count = 3 * int(flat.sum())
    return {
        "flat_share": float(flat.double().mean()),
        "flat_noise_levels": (float(squares.sum(dtype=torch.float64)) / count) ** 0.5 if count else None,
        "flat_place": place(squares),
    }


def place(amounts: Tensor) -> str | None:
    """Where most of them are, of (H, W); None where they are spread, or nowhere."""
    total = float(amounts.sum(dtype=torch.float64))
    if total == 0:
        return None
    row = _third(amounts, 0, ("top", "middle", "bottom"), total)
    column = _third(amounts, 1, ("left", "middle", "right"), total)
    if not row and not column:
        return None
    return PLACES.get((row, column)) or f"in the {'upper' if row == 'top' else 'lower'} {column}"


def _third(amounts: Tensor, dim: int, names: tuple[str, str, str], total: float) -> str:
    parts = [float(part.sum(dtype=torch.float64)) for part in amounts.tensor_split(3, dim)]
    return names[parts.index(max(parts))] if max(parts) >= MOST * total else ""


def _box(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)
