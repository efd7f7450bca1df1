"""Where a change is seen least, from the picture alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # of SSIM (Wang et al. 2004)
FLAT = 10.0  # levels^2, in place of SSIM's C2 = 58.5: flat parts get less than SSIM alone would give them
PRICE = 20.0  # of a change in a flat part, where `hiding` is 1, over one amid structure


@torch.no_grad()
def hidden_weight(picture: Tensor, hiding: float) -> Tensor:
    """How much of a change each pixel bears: (1, 1, H, W) in (0, 1], of a (1, 3, H, W) picture in [0, 1].

    A small change d costs the structural similarity d^2 / (2 * variance + C2) in each window that holds it (Wang et al.
    2004, eq. 13, to second order). A budget that pays d^2 * (1 + PRICE * hiding * FLAT / (2 * variance + FLAT)) spends
    it where structure hides it: the weight is one over the root of the bracket. `hiding` 0: 1 everywhere.
    """
    grey = picture.mean(1, keepdim=True) * 255
    mean = _blur(grey)
    variance = (_blur(grey.square()) - mean.square()).clamp_(min=0)
    price = _blur(FLAT / (2 * variance + FLAT))
    return (1 + PRICE * hiding * price).rsqrt()


def _blur(values: Tensor) -> Tensor:
    """By SSIM's Gaussian window; beyond the edge is what the edge is."""
    reach = WINDOW // 2
    kernel = [math.exp(-(place**2) / (2 * SIGMA**2)) for place in range(-reach, reach + 1)]
    weights = torch.tensor([[[kernel]]], device=values.device, dtype=values.dtype) / sum(kernel)
    rows = F.conv2d(F.pad(values, (reach, reach, 0, 0), mode="replicate"), weights)
    return F.conv2d(F.pad(rows, (0, 0, reach, reach), mode="replicate"), weights.transpose(2, 3))
