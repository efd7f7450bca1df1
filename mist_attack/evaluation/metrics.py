"""What an eye may see of a protection. Pictures are (1, 3, H, W) uint8, of one size; amounts of change in grey levels.

PSNR and SSIM are the report's own.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..ciede2000 import colour_differences
from ..flat import flat_figures
from ..report import SSIM_WINDOW, psnr, similarity, ssim

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of MS-SSIM, finest first
OCTAVES = (0.0, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Ends of the bands of a spectrum, cycles per pixel."""


def visibility(before: Tensor, after: Tensor) -> dict[str, float | None]:
    """Every figure of this module by name; None where it is not defined (see each)."""
    differences = colour_differences(before, after)
    flat = flat_figures(before, after)
    return {
        "linf_levels": float(linf(before, after)),
        "rms_levels": rms(before, after),
        "psnr_db": psnr(before, after),
        "ssim": ssim(before, after),
        "ms_ssim": ms_ssim(before, after),
        "ciede2000_mean": float(differences.double().mean()),
        "ciede2000_p95": float(np.percentile(differences.cpu().numpy(), 95)),
        **{name: flat[name] for name in ("flat_share", "flat_noise_levels")},
        **octaves(before, after),
    }


def linf(before: Tensor, after: Tensor) -> int:
    """The largest change of any value."""
    return int(_change(before, after).abs().max())


def rms(before: Tensor, after: Tensor) -> float:
    """The root mean square of the change."""
    return float(_change(before, after).double().square().mean().sqrt())


def ms_ssim(before: Tensor, after: Tensor) -> float | None:
    """Multi-scale SSIM (Wang, Simoncelli, Bovik 2003), mean over the channels; each scale is the mean of 2 x 2 pixels
    of the one before. None where the coarsest is smaller than SSIM's window: below 176 pixels a side."""
    if min(before.shape[2:]) >> (len(SCALE_WEIGHTS) - 1) < SSIM_WINDOW:
        return None
    a, b = before.float(), after.float()
    product = torch.ones(3, dtype=torch.float64, device=a.device)
    for weight in SCALE_WEIGHTS[:-1]:
        product *= similarity(a, b)[1].clamp(min=0) ** weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return float((product * similarity(a, b)[0].clamp(min=0) ** SCALE_WEIGHTS[-1]).mean())


def spectrum(before: Tensor, after: Tensor, bins: int = 32) -> tuple[list[float], list[float]]:
    """How the power of the change spreads over spatial frequency, whatever its direction: upper ends of `bins` equal
    bands up to 1/2 cycle per pixel, and the share of the power in each (the last holds the corners too). Their sum is
    1; all 0 for equal pictures."""
    frequency, power = _power(before, after)
    band = (frequency * 2 * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins, dtype=torch.float64, device=power.device).index_add_(0, band.flatten(), power.flatten())
    return [(i + 1) / (2 * bins) for i in range(bins)], _shares(sums)


def octaves(before: Tensor, after: Tensor) -> dict[str, float]:
    """The share of the change's power by octave of spatial frequency: coarse survives a reduction, fine hides."""
    frequency, power = _power(before, after)
    inside = [(frequency >= low) & (frequency < high) for low, high in pairwise(OCTAVES)]
    names = ("power_below_16th", "power_16th_to_8th", "power_8th_to_4th", "power_above_4th")
    return dict(zip(names, _shares(torch.stack([power[where].sum() for where in inside])), strict=True))


def _power(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """(H, W) each: cycles per pixel, and the power of all channels there."""
    height, width = before.shape[2:]
    power = torch.fft.fft2(_change(before, after).float()).abs().double().square().sum(dim=(0, 1))
    rows, columns = (torch.fft.fftfreq(n, device=power.device, dtype=torch.float64) for n in (height, width))
    return torch.hypot(rows[:, None].expand_as(power), columns.expand_as(power)), power


def _shares(sums: Tensor) -> list[float]:
    return (sums / sums.sum().clamp(min=torch.finfo(torch.float64).tiny)).tolist()


def _change(before: Tensor, after: Tensor) -> Tensor:
    return after.to(torch.int16) - before
