"""What a protection does to a model, which need not be the one that it was computed against."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..budget import to_levels
from ..errors import CheckpointError
from ..randomness import integers, seeded
from ..report import psnr
from ..settings import Settings
from ..surrogate import Surrogate
from ..targets import pattern

SEED = 2  # of the noise; no attack has it


class Reach(NamedTuple):
    left: float
    """Share of the latents' distance to the target's that is left: 1 where nothing was done."""
    times_noise: float
    """How far the latents moved, over how far they do by random noise of the same size: each value moved by as much,
    up or down by chance."""
    lost_db: float | None
    """PSNR that the model's reconstruction loses, before and after measured against the original; None without a
    decoder."""


def reach(model: Surrogate, before: Tensor, after: Tensor) -> Reach:
    """One picture, (1, 3, H, W) in [0, 1] with sides that the model takes."""
    return model.run(lambda ready: _reach(ready, before, after), 1, *before.shape[2:])


@torch.no_grad()
def _reach(ready: Surrogate, before: Tensor, after: Tensor) -> Reach:
    before, after = (picture.to(ready.device, torch.float32) for picture in (before, after))
    signs = integers(2, tuple(before.shape), seeded(ready.device, SEED), ready.device) * 2 - 1
    noisy = (before + (after - before).abs() * signs).clamp(0, 1)
    wanted = pattern(Settings().target, *before.shape[2:]).to(ready.device)
    clean, moved, shaken, target = (ready.encode(picture) for picture in (before, after, noisy, wanted))
    by_noise = float((shaken - clean).norm())
    return Reach(
        left=float((moved - target).norm() / (clean - target).norm()),
        times_noise=float((moved - clean).norm()) / by_noise if by_noise else 0.0,
        lost_db=_lost(ready, before, clean, moved),
    )


def _lost(ready: Surrogate, before: Tensor, clean: Tensor, moved: Tensor) -> float | None:
    try:
        looks = [ready.decode(latents) for latents in (clean, moved)]
    except CheckpointError:
        return None
    kept, left = (psnr(to_levels(before), to_levels(look)) for look in looks)
    return None if kept is None or left is None else kept - left
