"""The one way in which a picture's size changes: a user who asked for the working size."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def resized(
    pictures: Tensor, mask: Tensor | None, alpha: Tensor | None, settings: Any, surrogate: Any
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Picture, mask (both (B, C, H, W)) and alpha ((B, H, W, 1)) reduced to what the model sees of the whole picture.

    Sides become multiples of what the model needs; a picture that is not larger stays as it is."""
    from ..mist_attack.views import plan

    multiple = surrogate.spatial_multiple(settings.objective)
    (view,) = plan(pictures.shape[2], pictures.shape[3], "whole", settings.working_size, multiple)
    if view.gain == 1.0:
        return pictures, mask, alpha
    size = (view.model_height, view.model_width)
    alpha = None if alpha is None else _reduced(alpha.movedim(-1, 1), size).movedim(1, -1)
    return _reduced(pictures, size), None if mask is None else _reduced(mask, size), alpha


def _reduced(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
