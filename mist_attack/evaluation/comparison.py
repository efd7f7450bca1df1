"""What a model makes of a picture: its reconstruction, and a variation by img2img. For looking and for reports."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..budget import to_levels
from ..errors import PictureError
from ..loss import PictureLoss
from ..needs import possible
from ..protection import check, objectives_for, prompt_for
from ..randomness import integers, normal, seeded
from ..report import psnr, ssim
from ..settings import Settings
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


@dataclass(frozen=True)
class Comparison:
    """One picture before and after protection, through the same model."""

    figures: dict[str, float | None]
    """psnr_db and ssim of the pictures (None for equal ones); latent_shift, the root mean square by which the latents
    moved, and the same for random noise of the same size (`latent_shift_of_noise`); each of the objective's figures
    with _before and _after; reconstruction_psnr_db_before and _after, of each picture against what the model keeps."""
    reconstructions: tuple[Tensor, Tensor]
    """What the autoencoder makes of each, (1, 3, h, w) at the size at which the model sees them, on its device."""


def compare(
    surrogate: Surrogate,
    before: Tensor,
    after: Tensor,
    settings: Settings,
    *,
    target: Tensor | None = None,
    conditioning: Conditioning = None,
) -> Comparison:
    """Both pictures (1, 3, H, W) in [0, 1], of one size; target and conditioning as in `protect`.

    Raises PictureError."""
    if before.shape != after.shape:
        raise PictureError(f"Expected two pictures of one size; got {tuple(before.shape)} and {tuple(after.shape)}.")
    check(before, target=target)
    check(after)
    if conditioning is None:
        conditioning = prompt_for(surrogate, settings)
    multiple = surrogate.spatial_multiple(settings.objective)
    (view,) = plan(before.shape[2], before.shape[3], "whole", settings.working_size, multiple)
    before, after = (picture.to(surrogate.device, torch.float32) for picture in (before, after))
    return surrogate.run(
        lambda ready: _compare(ready, before, after, view, settings, target, conditioning),
        1,
        view.model_height,
        view.model_width,
        low_vram=settings.low_vram,
    )


@torch.no_grad()
def _compare(
    ready: Surrogate,
    before: Tensor,
    after: Tensor,
    view: View,
    settings: Settings,
    target: Tensor | None,
    conditioning: Conditioning,
) -> Comparison:
    generator = seeded(ready.device, settings.seed)
    objectives, _ = objectives_for(ready, settings, [view], view.height, view.width, target, conditioning)
    loss = PictureLoss(ready, [view], objectives, generator)
    signs = integers(2, tuple(before.shape), generator, before.device) * 2 - 1
    noisy = (before + (after - before).abs() * signs).clamp(0, 1)
    looks = [view.look(view.region(picture)) for picture in (before, after, noisy)]
    latents = [ready.encode(look) for look in looks]
    kept = [ready.decode(z) for z in latents[:2]]
    figures = {
        "psnr_db": psnr(to_levels(before), to_levels(after)),
        "ssim": ssim(to_levels(before), to_levels(after)),
        "latent_shift": _rms(latents[1] - latents[0]),
        "latent_shift_of_noise": _rms(latents[2] - latents[0]),
    }
    for name, picture, look, reconstruction in zip(("before", "after"), (before, after), looks[:2], kept, strict=True):
        figures |= {f"{key}_{name}": value for key, value in loss.measure(picture, settings.seed).items()}
        figures[f"reconstruction_psnr_db_{name}"] = psnr(to_levels(look), to_levels(reconstruction))
    return Comparison(figures, (kept[0], kept[1]))


def _rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())
