"""What a protection does to a model, which need not be the one that it was computed against."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..budget import to_levels
from ..errors import CheckpointError
from ..evaluation.effect import Latents, Trio, reconstruction_figures, shift_figures, target_figures, trio_latents
from ..evaluation.sight import Sight, sights
from ..randomness import noise_like
from ..settings import Settings
from ..surrogate import Surrogate

SETTINGS = Settings(seed=2)  # of the noise; no attack has it


class Reach(NamedTuple):
    left: float
    """Share of the latents' mean squared distance to the target's that is left: 1 where nothing was done."""
    times_noise: float
    """How far the latents moved, over how far they do by random noise of the same size: each value moved by as much,
    up or down by chance. Root mean squares."""
    lost_db: float | None
    """PSNR that the model's reconstruction loses, before and after measured against the original; None without a
    decoder."""


def reach(model: Surrogate, before: Tensor, after: Tensor) -> Reach:
    """One picture, (1, 3, H, W) in [0, 1], at the size at which the model sees it."""
    height, width = before.shape[2:]
    (whole,) = sights(model, height, width, max(height, width))
    levels = to_levels(before), to_levels(after)
    trio = Trio(*levels, noise_like(*levels, SETTINGS.seed))
    return model.run(lambda ready: _reach(ready, whole, trio), 1, height, width)


def _reach(ready: Surrogate, whole: Sight, trio: Trio) -> Reach:
    latents = trio_latents(ready, whole, trio)
    over = shift_figures(latents)["shift_over_noise"]
    left = target_figures(ready, whole, trio, SETTINGS, None)["target_distance_left"]
    return Reach(left, over["value"] if over else 0.0, _lost(ready, whole, trio.before, latents))


def _lost(ready: Surrogate, whole: Sight, before: Tensor, latents: Latents) -> float | None:
    try:
        figures, _ = reconstruction_figures(ready, whole, before, latents)
    except CheckpointError:
        return None
    kept, left = figures["reconstruction_psnr_db_before"], figures["reconstruction_psnr_db_after"]
    return None if kept is None or left is None else kept - left
