"""What a model makes of the picture before and after protection, and of the original under random noise of the same
size. Everything within `Surrogate.run`; figures by name, pictures as (1, 3, h, w) uint8 on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..budget import to_levels, to_unit
from ..loss import PictureLoss
from ..needs import possible
from ..objectives import Semantic
from ..protection import objectives_for
from ..randomness import seeded
from ..report import psnr
from ..settings import Settings
from ..surrogate import Conditioning, Surrogate
from .comparison import img2img
from .intervals import share
from .metrics import rms
from .sight import Sight, shift

BANDS = tuple((i + 0.5) / 8 for i in range(8))
"""Middles of equal bands of the training schedule, as shares of it."""
DRAWS = 2  # of noise in each band
STRENGTHS = (0.1, 0.3, 0.5, 0.7)
STEPS = 20  # of the whole schedule
HOLE, HOLE_STRENGTH = 0.5, 0.75  # of each side, in the middle; how much of the schedule paints it anew

OnPart = Callable[[str], None]
"""Told before each part; may raise to end it."""


@dataclass(frozen=True)
class Trio:
    """One picture three times, (1, 3, H, W) uint8 each."""

    before: Tensor
    after: Tensor
    noisy: Tensor

    @property
    def all(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.before, self.after, self.noisy


Pictures = dict[str, Tensor]
Latents = tuple[list[Tensor], list[Tensor], list[Tensor]]
"""Of a trio: for each view, (1, C, h, w)."""


@torch.no_grad()
def latents_of(surrogate: Surrogate, sight: Sight, levels: Tensor) -> list[Tensor]:
    return [surrogate.encode(look) for look in sight.looks(surrogate, levels)]


def trio_latents(surrogate: Surrogate, sight: Sight, trio: Trio) -> Latents:
    before, after, noisy = (latents_of(surrogate, sight, levels) for levels in trio.all)
    return before, after, noisy


def shift_figures(latents: Latents) -> dict[str, Any]:
    """How far the latents moved, in root mean squares."""
    moved, by_noise = shift(latents[0], latents[1]), shift(latents[0], latents[2])
    over = share(moved.sums, by_noise.sums)
    return {
        "latent_shift": moved.rms,
        "latent_shift_of_noise": by_noise.rms,
        "shift_over_noise": None if over is None else over._asdict(),
    }


@torch.no_grad()
def reconstruction_figures(
    surrogate: Surrogate, sight: Sight, before: Tensor, latents: Latents
) -> tuple[dict[str, float | None], Pictures]:
    """What the decoder makes of each against the original. Raises CheckpointError where there is none."""
    kept = [[to_levels(surrogate.decode(z)) for z in views] for views in latents]
    originals = [to_levels(look) for look in sight.looks(surrogate, before)]
    quality = [_mean_psnr(originals, views) for views in kept]
    names = [f"reconstruction_psnr_db_{name}" for name in ("before", "after", "of_noise")]
    pictures = {"reconstruction_before": kept[0][0].cpu(), "reconstruction_after": kept[1][0].cpu()}
    return dict(zip(names, quality, strict=True)), pictures


@torch.no_grad()
def target_figures(
    surrogate: Surrogate, sight: Sight, trio: Trio, settings: Settings, target: Tensor | None
) -> dict[str, float]:
    """Mean squared distance of the latents to the target's, and the share of the original's that is left."""
    settings = replace(settings, objective=possible(denoiser=False)[-1])
    height, width = trio.before.shape[2:]
    objectives, _ = objectives_for(surrogate, settings, sight.views, height, width, target)
    loss = PictureLoss(surrogate, sight.views, objectives, seeded(surrogate.device, settings.seed))
    distances = [
        loss.measure(to_unit(levels).to(surrogate.device), settings.seed)["target_distance"]
        for levels in (trio.before, trio.after)
    ]
    return {
        "target_distance_before": distances[0],
        "target_distance_after": distances[1],
        "target_distance_left": distances[1] / distances[0],
    }


@torch.no_grad()
def denoising_figures(
    surrogate: Surrogate, latents: Latents, seed: int, conditioning: Conditioning
) -> list[dict[str, float]]:
    """The denoising loss of each of a whole picture in every band of the schedule, all by the same draws."""
    semantic = Semantic(surrogate, conditioning)
    shares = [band for band in BANDS for _ in range(DRAWS)]
    losses = []
    for (whole,) in latents:
        losses.append(torch.stack(semantic.losses(whole, seed, shares)).view(len(BANDS), DRAWS).mean(1).tolist())
    length = len(surrogate.sigmas)
    return [
        {"timestep": int(band * length), "before": a, "after": b, "of_noise": c, "gap": b - a, "gap_of_noise": c - a}
        for band, a, b, c in zip(BANDS, *losses, strict=True)
    ]


def variation_figures(
    surrogate: Surrogate, sight: Sight, trio: Trio, seed: int, conditioning: Conditioning, strength: float
) -> tuple[dict[str, float | None], Pictures]:
    """img2img of each with the same noise: how far the results lie apart, in levels."""
    made = _varied(surrogate, sight, trio, conditioning, strength, seed, None)
    name = f"img2img_{strength:g}"
    pictures = {f"{name}_before": made[0], f"{name}_after": made[1]}
    return {"strength": strength, **_apart(made, slice(None), slice(None))}, pictures


def inpainting_figures(
    surrogate: Surrogate, sight: Sight, trio: Trio, seed: int, conditioning: Conditioning
) -> tuple[dict[str, float | None], Pictures]:
    """The middle painted anew in each, with the same noise: how far the results lie apart there, in levels."""
    (view,) = sight.views
    (latents,) = latents_of(surrogate, sight, trio.before)
    mask = latents.new_zeros(1, 1, *latents.shape[2:])
    mask[..., _middle(mask.shape[2]), _middle(mask.shape[3])] = 1
    made = _varied(surrogate, sight, trio, conditioning, HOLE_STRENGTH, seed, mask)
    figures = {"strength": HOLE_STRENGTH, **_apart(made, _middle(view.model_height), _middle(view.model_width))}
    return figures, {"inpainting_before": made[0], "inpainting_after": made[1]}


def _varied(
    surrogate: Surrogate,
    sight: Sight,
    trio: Trio,
    conditioning: Conditioning,
    strength: float,
    seed: int,
    mask: Tensor | None,
) -> list[Tensor]:
    steps = max(2, round(STEPS * strength))
    looks = [sight.looks(surrogate, levels)[0] for levels in trio.all]
    made = [img2img(surrogate, look, conditioning, strength, steps, seed, mask) for look in looks]
    return [to_levels(picture).cpu() for picture in made]


def _apart(made: list[Tensor], rows: slice, columns: slice) -> dict[str, float | None]:
    before, after, noisy = (picture[..., rows, columns] for picture in made)
    moved, by_noise = rms(before, after), rms(before, noisy)
    return {
        "rms_levels": moved,
        "rms_levels_of_noise": by_noise,
        "over_noise": moved / by_noise if by_noise else None,
        "psnr_db": psnr(before, after),
    }


def _middle(length: int) -> slice:
    side = round(length * HOLE)
    start = (length - side) // 2
    return slice(start, start + side)


def _mean_psnr(originals: list[Tensor], kept: list[Tensor]) -> float | None:
    values = [psnr(a, b) for a, b in zip(originals, kept, strict=True)]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
