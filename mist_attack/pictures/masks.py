"""What a picture says as a mask."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def as_mask(image: Image.Image, height: int, width: int) -> Tensor:
    """(1, 1, height, width) in [0, 1]: luminance times alpha, so what is transparent may not change.

    Another size is stretched: the product (a transparent pixel's colour must not bleed into its neighbours), by a
    triangle filter, antialiased. It has no negative lobes, so an edge rings neither below 0 nor above 1."""
    luminance, alpha = (
        torch.from_numpy(np.array(part))[None, None].float() / 255
        for part in (image.convert("L"), image.convert("RGBA").getchannel("A"))
    )
    mask = luminance * alpha
    if image.size == (width, height):
        return mask
    return F.interpolate(mask, (height, width), mode="bilinear", antialias=True).clamp(0, 1)
