"""What is left of a protection after each change of the suite: the latents' shift between the changed original and the
changed protected picture, against what it was, and against random noise of the same size that went the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..budget import to_levels, to_unit
from ..surrogate import Conditioning, Surrogate
from .effect import Latents, OnPart, Trio, latents_of
from .intervals import share, worst
from .sight import Shift, Sight, shift
from .transforms import SUITE, NotMeasuredError, Transform, transformed

WORST, NEAREST = "worst", "nearest_noise"
"""Of the suite, beside its transforms' names."""


@torch.no_grad()
def survival_figures(
    surrogate: Surrogate, sight: Sight, trio: Trio, latents: Latents, conditioning: Conditioning, on_part: OnPart
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """By the transform's name: shift left, shift of noise, share_left and over_noise with their intervals. Under
    WORST the one of which least is left, under NEAREST the one that leaves least against noise. And why others were not
    measured."""
    whole = shift(latents[0], latents[1])
    found, missing, sums = dict[str, dict[str, Any]](), dict[str, str](), dict[str, tuple[np.ndarray, np.ndarray]]()
    for transform in SUITE.values():
        on_part(transform.words)
        try:
            views = [_latents_after(transform, surrogate, sight, levels, conditioning) for levels in trio.all]
        except NotMeasuredError as error:
            missing[transform.name] = str(error)
            continue
        moved, by_noise = shift(views[0], views[1]), shift(views[0], views[2])
        sums[transform.name] = moved.sums, by_noise.sums
        found[transform.name] = _figures(moved, whole, by_noise)
    if whole.rms > 0 and all(noise.sum() > 0 for _, noise in sums.values()):
        name, estimate = worst({name: (moved, whole.sums) for name, (moved, _) in sums.items()})
        found[WORST] = {"name": name, "share_left": estimate._asdict()}
        name, estimate = worst(sums)
        found[NEAREST] = {"name": name, "over_noise": estimate._asdict()}
    return found, missing


def _figures(moved: Shift, whole: Shift, by_noise: Shift) -> dict[str, Any]:
    left, over = share(moved.sums, whole.sums), share(moved.sums, by_noise.sums)
    return {
        "latent_shift": moved.rms,
        "latent_shift_of_noise": by_noise.rms,
        "share_left": None if left is None else left._asdict(),
        "over_noise": None if over is None else over._asdict(),
    }


def _latents_after(
    transform: Transform, surrogate: Surrogate, sight: Sight, levels: Tensor, conditioning: Conditioning
) -> list[Tensor]:
    """A picture is changed as a whole before it is looked at; what goes through the model is changed as the model sees
    it."""
    if transform.change is not None:
        return latents_of(surrogate, sight, transformed(transform.name, levels))
    looks = [to_levels(look) for look in sight.looks(surrogate, levels)]
    changed = [transformed(transform.name, look, surrogate, conditioning) for look in looks]
    return [surrogate.encode(to_unit(look)) for look in changed]
