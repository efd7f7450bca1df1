"""The autoencoders of diffusers, and small ones: how a picture becomes latents in the denoiser's scale, for each kind.

A kind is a row: it is called with a module and pictures in [-1, 1], and keeps nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..tiny.surrogate import TinySurrogate


class KL:
    """AutoencoderKL: Stable Diffusion 1 to 3, XL, Flux and Z-Image, which differ by their scale and shift."""

    module = "AutoencoderKL"

    def latents(self, vae: Any, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H/f, W/f): the posterior's mean."""
        mean = vae.encode(pictures).latent_dist.mean
        return (mean - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def pictures(self, vae: Any, latents: Tensor) -> Tensor:
        return vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample

    def factor(self, vae: Any) -> int:
        """Pixels of a latent's side."""
        return 2 ** (len(vae.config.block_out_channels) - 1)


class Flux2(KL):
    """Patches of 2 x 2 latents, each channel normalised by the statistics that the autoencoder carries."""

    module = "AutoencoderKLFlux2"

    def latents(self, vae: Any, pictures: Tensor) -> Tensor:
        mean = vae.encode(pictures).latent_dist.mean
        patches = rearrange(mean, "b c (h p) (w q) -> b (c p q) h w", p=2, q=2)
        return (patches - _per_channel(vae.bn.running_mean, patches)) / self._deviation(vae, patches)

    def pictures(self, vae: Any, latents: Tensor) -> Tensor:
        patches = latents * self._deviation(vae, latents) + _per_channel(vae.bn.running_mean, latents)
        return vae.decode(rearrange(patches, "b (c p q) h w -> b c (h p) (w q)", p=2, q=2)).sample

    def factor(self, vae: Any) -> int:
        return 2 * super().factor(vae)

    @staticmethod
    def _deviation(vae: Any, like: Tensor) -> Tensor:
        return (_per_channel(vae.bn.running_var, like) + vae.config.batch_norm_eps).sqrt()


class Qwen:
    """A video autoencoder, whose picture is a film of one frame; each channel is normalised."""

    module = "AutoencoderKLQwenImage"

    def latents(self, vae: Any, pictures: Tensor) -> Tensor:
        mean = vae.encode(pictures[:, :, None]).latent_dist.mean[:, :, 0]
        return (mean - _per_channel(vae.config.latents_mean, mean)) / _per_channel(vae.config.latents_std, mean)

    def pictures(self, vae: Any, latents: Tensor) -> Tensor:
        scale, shift = (_per_channel(vae.config[name], latents) for name in ("latents_std", "latents_mean"))
        return vae.decode((latents * scale + shift)[:, :, None]).sample[:, :, 0]

    def factor(self, vae: Any) -> int:
        return 2 ** len(vae.config.temperal_downsample)


class Small(nn.Module):
    """The halves of a small autoencoder as one module."""

    def __init__(self, tiny: TinySurrogate) -> None:
        super().__init__()
        self.tiny = tiny
        self.halves = nn.ModuleList(tiny.modules)


class Distilled:
    """TAESD and its kin, where a denoiser is beside them."""

    module = Small.__name__

    def latents(self, vae: Any, pictures: Tensor) -> Tensor:
        return vae.tiny.encode(pictures / 2 + 0.5)

    def pictures(self, vae: Any, latents: Tensor) -> Tensor:
        return vae.tiny.decode(latents) * 2 - 1

    def factor(self, vae: Any) -> int:
        return vae.tiny.family.factor


IN_FOLDERS = {kind.module: kind() for kind in (KL, Flux2, Qwen)}
"""By the name of diffusers' class, as it stands in a folder's config.json."""
AUTOENCODERS = IN_FOLDERS | {Distilled.module: Distilled()}
"""By the name of the module's class."""


def _per_channel(values: Any, like: Tensor) -> Tensor:
    """(1, C, 1, 1), where and as `like` is."""
    return torch.as_tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)
