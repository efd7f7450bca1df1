"""What was done to a picture, as numbers a user can check."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .ciede2000 import colour_differences
from .flat import flat_figures
from .words import NOTHING_CHANGED, moved, reached, visible

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
Views = Sequence[Tensor]
STRIP = 64  # rows at a time, so that a large picture needs no further copies of itself


@dataclass(frozen=True, kw_only=True)
class Report:
    """One picture's result. Levels are grey levels of the 8-bit file, compared with the 8-bit original."""

    model: str
    settings: dict[str, Any]
    target: str | None
    width: int
    height: int
    steps_done: int
    stopped: bool
    """Ended early by the user."""
    seconds: float
    budget_used_levels: int
    """Largest change of any value."""
    changed_share: float
    """Share of values that changed."""
    psnr_db: float | None
    """None where nothing changed."""
    ssim: float | None
    """Wang et al. 2004, mean over channels; None below 11 pixels a side."""
    mean_shift_levels: list[float]
    """Per channel, over the values that can move by epsilon both ways."""
    clipped_share: float
    """Share of values nearer than epsilon to black or white."""
    clipped_mean_shift_levels: list[float]
    before: dict[str, float]
    after: dict[str, float]
    """The objective's figures through the model: target_distance, denoising_loss (judged by fresh, equal draws)."""
    gradient_ratio: float | None
    """Fused: semantic over textural gradient norm at the latents, mean over the steps."""
    ciede2000_mean: float | None = None
    """Here and below, None also in a report from before there was such a figure."""
    flat_share: float | None = None
    flat_noise_levels: float | None = None
    flat_place: str | None = None
    """See flat.flat_figures."""
    latent_shift: float | None = None
    """How far the model's view of the picture moved, in root mean squares."""
    latent_shift_of_noise: float | None = None
    """The same of random noise of that size."""
    notices: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)

    def words(self) -> str:
        """What was done, in a few sentences: before any number."""
        if self.psnr_db is None:
            return NOTHING_CHANGED
        seen = {"linf_levels": self.budget_used_levels, **asdict(self)}
        told = [visible(seen, self.flat_place), reached(self.before, self.after)]
        if self.latent_shift is not None:
            told.insert(1, moved(self.shift_over_noise))
        return " ".join(filter(None, told))

    def as_text(self) -> str:
        """The words, the numbers, what else is to be said: lines."""
        by = f"{self.model}; {self.steps_done} steps in {self.seconds:.1f} s"
        return "\n".join([self.words(), self.summary(), by, *self.notices])

    @property
    def shift_over_noise(self) -> float | None:
        if self.latent_shift is None or not self.latent_shift_of_noise:
            return None
        return self.latent_shift / self.latent_shift_of_noise

    def summary(self) -> str:
        """The numbers in one line."""
        effect = ", ".join(
            f"{name.replace('_', ' ')} {self.before[name]:.3g} -> {self.after[name]:.3g}" for name in self.before
        )
        quality = "unchanged" if self.psnr_db is None else f"PSNR {self.psnr_db:.1f} dB"
        return f"{quality}, at most {self.budget_used_levels} levels; {effect or 'no effect measured'}"


def pixel_figures(original_levels: Tensor, protected_levels: Tensor, epsilon_levels: float) -> dict[str, Any]:
    """The figures that need no model. Both (1, 3, H, W) uint8."""
    shift = protected_levels.to(torch.int16) - original_levels
    room = (original_levels >= epsilon_levels) & (original_levels <= 255 - epsilon_levels)
    return {
        "budget_used_levels": int(shift.abs().max()),
        "changed_share": int(shift.count_nonzero()) / shift.numel(),
        "psnr_db": psnr(original_levels, protected_levels),
        "ssim": ssim(original_levels, protected_levels),
        "ciede2000_mean": float(colour_differences(original_levels, protected_levels).double().mean()),
        **flat_figures(original_levels, protected_levels),
        "mean_shift_levels": _channel_means(shift, room),
        "clipped_share": 1 - int(room.count_nonzero()) / room.numel(),
        "clipped_mean_shift_levels": _channel_means(shift, ~room),
    }


def latent_figures(before: Views, after: Views, noisy: Views) -> dict[str, float]:
    """latent_shift and latent_shift_of_noise, of latents by view: of the original, of the protected picture, and of the
    original with noise_like's."""
    return {"latent_shift": _shift(before, after), "latent_shift_of_noise": _shift(before, noisy)}


def _shift(a: Views, b: Views) -> float:
    squares = sum(float((y.float() - x.float()).square().sum()) for x, y in zip(a, b, strict=True))
    return math.sqrt(squares / sum(latents.numel() for latents in a))


def psnr(a: Tensor, b: Tensor) -> float | None:
    """Peak signal-to-noise ratio in dB of two uint8 pictures; None for equal ones."""
    squares = sum(float((s.to(torch.float32) - t.to(torch.float32)).square().sum()) for s, t in _strips(a, b))
    return None if squares == 0 else 10 * math.log10(255.0**2 * a.numel() / squares)


def ssim(a: Tensor, b: Tensor) -> float | None:
    """Structural similarity of two (1, 3, H, W) uint8 pictures (Wang et al. 2004): Gaussian window of 11 pixels,
    sigma 1.5, mean over the positions where it fits and over the channels."""
    if min(a.shape[2:]) < SSIM_WINDOW:
        return None
    return float(similarity(a, b)[0].mean())


def similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of two (1, 3, H, W) pictures in levels: means by channel, (3,) float64 each, of SSIM and of its part without
    the luminance. Sides of SSIM_WINDOW or more."""
    totals, count = torch.zeros(2, 3, dtype=torch.float64, device=a.device), 0
    for s, t in _strips(a, b, SSIM_WINDOW - 1):
        maps = torch.cat(_ssim_maps(s.float(), t.float()))  # (2, 3, h, w)
        totals, count = totals + maps.double().sum(dim=(2, 3)), count + maps[0, 0].numel()
    whole, structure = totals / count
    return whole, structure


def _ssim_maps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return luminance * structure, structure


def _blur(image: Tensor) -> Tensor:
    position = torch.arange(SSIM_WINDOW, device=image.device, dtype=image.dtype) - SSIM_WINDOW // 2
    kernel = torch.exp(-(position**2) / (2 * SSIM_SIGMA**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)  # (3, 1, 1, 11)
    rows = F.conv2d(image, kernel.transpose(2, 3), groups=3)
    return F.conv2d(rows, kernel, groups=3)


def _strips(a: Tensor, b: Tensor, overlap: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Views of both pictures, STRIP rows each and `overlap` rows more."""
    tops = range(0, max(1, a.shape[2] - overlap), STRIP)
    return [(a[:, :, top : top + STRIP + overlap], b[:, :, top : top + STRIP + overlap]) for top in tops]


def _channel_means(shift: Tensor, where: Tensor) -> list[float]:
    counts = where.sum(dim=(0, 2, 3)).clamp(min=1)
    sums = (shift * where).sum(dim=(0, 2, 3), dtype=torch.int64)
    return [round(value, 4) for value in (sums.double() / counts).tolist()]
