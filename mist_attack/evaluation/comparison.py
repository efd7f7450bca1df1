"""What a model makes of a picture: its reconstruction, and a variation by img2img. For looking and for reports."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..needs import possible
from ..randomness import normal, seeded
from ..surrogate import Conditioning, Surrogate
from ..views import View, plan


def seen(surrogate: Surrogate, image: Tensor, working_size: int) -> tuple[View, Tensor]:
    """The one view of the whole (1, 3, H, W) picture, and what the model sees of it on its device."""
    multiple = surrogate.spatial_multiple(possible(denoiser=len(surrogate.sigmas) > 0)[-1])
    (view,) = plan(image.shape[2], image.shape[3], "whole", working_size, multiple)
    return view, view.look(view.region(image.to(surrogate.device)))


def amplified(before: Tensor, after: Tensor, gain: float = 8.0) -> Tensor:
    """What changed, `gain` times as large around mid-grey, clipped to [0, 1]: for looking."""
    return ((after - before) * gain + 0.5).clamp(0, 1)


@torch.no_grad()
def reconstruct(surrogate: Surrogate, image: Tensor) -> Tensor:
    """(1, 3, H, W) in [0, 1], sides multiples of the model's -> what the autoencoder keeps of it."""
    return surrogate.decode(surrogate.encode(image))


@torch.no_grad()
def img2img(
    surrogate: Surrogate,
    image: Tensor,
    conditioning: Conditioning,
    strength: float,
    steps: int = 20,
    seed: int = 0,
    mask: Tensor | None = None,
) -> Tensor:
    """SDEdit (Meng et al. 2022, arXiv 2108.01073): noise to `strength` of the schedule, then denoise.

    Deterministic Euler steps in sigma (Karras et al. 2022, algorithm 2 without churn): DDIM, or a flow's own.
    image: (1, 3, H, W) in [0, 1], sides multiples of the model's. strength: in (0, 1]. mask: (1, 1, h, w) of latents, 1
    is made anew; elsewhere every step starts from the picture's own (Avrahami et al. 2023, arXiv 2206.02779).
    """
    generator = seeded(surrogate.device, seed)
    latents = surrogate.encode(image)
    sigmas = _descent(surrogate, strength, steps)
    noise = normal(latents, generator)
    x = surrogate.noising.noised(latents, noise, sigmas[:1])
    for sigma, following in pairwise(sigmas):
        x = _step(surrogate, x, sigma, following, conditioning)
        if mask is not None:
            x = torch.where(mask > 0, x, surrogate.noising.noised(latents, noise, following[None]))
    return surrogate.decode(x)


@torch.no_grad()
def sample(surrogate: Surrogate, noise: Tensor, conditioning: Conditioning, steps: int = 25) -> Tensor:
    """Pictures from noise alone, by the steps of `img2img`. noise: (B, C, h, w), standard normal -> (B, 3, H, W)."""
    sigmas = _descent(surrogate, 1.0, steps)
    x = surrogate.noising.noised(torch.zeros_like(noise), noise, sigmas[:1].expand(len(noise)))
    for sigma, following in pairwise(sigmas):
        x = _step(surrogate, x, sigma, following, conditioning)
    return surrogate.decode(x)


def _descent(surrogate: Surrogate, strength: float, steps: int) -> Tensor:
    """(steps + 1,) noise levels from `strength` of the schedule down to none."""
    highest = max(1, round(strength * len(surrogate.sigmas)) - 1)
    timesteps = torch.linspace(highest, 0, steps, dtype=torch.float32, device="cpu").round().long()
    sigmas = surrogate.sigmas[timesteps.to(surrogate.sigmas.device)]
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _step(surrogate: Surrogate, x: Tensor, sigma: Tensor, following: Tensor, conditioning: Conditioning) -> Tensor:
    if sigma == following:  # two rounded timesteps fell together
        return x
    denoised = surrogate.denoise(x, sigma.expand(len(x)), conditioning)
    return x + (x - denoised) / sigma * (following - sigma)
