"""ComfyUI's VAEs as autoencoders of pictures: which kinds there are, and what each needs beside the host's own encode.

A VAE for videos gets every picture as a video of one frame. The host's own `VAE.encode` takes no part: it would make
one video of a batch, and falls back to tiles without a gradient where memory runs out.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.latent_formats
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..borrowing.aliases import alias
from ..borrowing.lending import AUTOENCODER_FLOATS

_FLOATS_OF_HUNYUAN_VIDEO, _FLOATS_OF_TINY, _FLOATS_OF_TINY_VIDEO = (7000, 3000), (500, 450), (1000, 950)
_DECODES = {"decoder", "post_quant_conv", "taesd_decoder", "conv2"}
Convert = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scale:
    """From latents as an autoencoder gives them to the denoiser's scale, and back."""

    into: Convert
    out_of: Convert


@dataclass(frozen=True)
class Kind:
    """One class of the host's autoencoders."""

    encode: Callable[[Any, Tensor], Tensor]
    """(autoencoder, pictures after the VAE's process_input) -> latents, differentiable."""
    scale: Callable[[Any], Scale | None]
    """(autoencoder) -> the scale of its family, where it alone tells the family."""
    multiple: Callable[[Any, int], int] = lambda autoencoder, told: told
    """(autoencoder, what the host tells) -> pixels of which the sides must be multiples."""
    floats: tuple[int, int] = AUTOENCODER_FLOATS
    """As there: numbers per pixel that are kept for the backward, plainly and in the low-VRAM way."""
    channels_of_videos: tuple[int, ...] = (16, 48)
    """Of latents with an axis of frames: those of HunyuanVideo, Wan and the models of pictures that share them."""


class Autoencoder:
    """One VAE of a kind that `kind_of` knows."""

    def __init__(self, vae: Any) -> None:
        kind = kind_of(vae)
        assert kind is not None
        self.vae, self.kind, self.module = vae, kind, vae.first_stage_model

    @property
    def encoding(self) -> list[nn.Module]:
        """All but what decodes, which takes part in no step."""
        return [child for name, child in self.module.named_children() if name not in _DECODES]

    @property
    def multiple(self) -> int:
        """Pixels: the sides of a picture must be multiples of it."""
        return self.kind.multiple(self.module, int(self.vae.spacial_compression_encode()))

    @property
    def floats(self) -> tuple[int, int]:
        by_frames = self.kind is KINDS[_KL] and self.vae.latent_dim == 3
        return _FLOATS_OF_HUNYUAN_VIDEO if by_frames else self.kind.floats

    @property
    def scale(self) -> Scale:
        """Of the family's denoiser, where the VAE alone tells which; else latents stay as they are."""
        return self.kind.scale(self.module) or Scale(_same, _same)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> float32 latents as the host's nodes have them: `framed`."""
        more = self.vae.output_channels - images.shape[1]
        images = images.to(self.vae.device, torch.float32)
        if more > 0:  # an opaque alpha
            images = pad(images, (0, 0, 0, 0, 0, more), value=self.vae.pad_channel_value)
        return self.kind.encode(self.module, self.vae.process_input(self.framed(images))).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Framed latents -> (B, 3, H, W) in [0, 1]."""
        decoded = self.module.decode(latents.to(self.vae.device)).float()
        return unframed(self.vae.process_output(decoded.clone()))[:, :3]

    def framed(self, batch: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, H, W) for a VAE that reads videos; the same for others."""
        return batch.unsqueeze(2) if self.vae.latent_dim == 3 else batch


def unframed(batch: Tensor) -> Tensor:
    """(B, C, H, W), where there is an axis of frames without it."""
    return batch.squeeze(2) if batch.ndim == 5 else batch


def kind_of(vae: Any) -> Kind | None:
    """None where nobody has checked the gradient: sound, shapes, codebooks, and what reads videos alone."""
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(vae.first_stage_model).__mro__]
    found = next((name for name in names if name in KINDS), None)
    if found is None or (vae.latent_dim == 3 and vae.latent_channels not in KINDS[found].channels_of_videos):
        return None
    return KINDS[found]


def _same(latents: Tensor) -> Tensor:
    return latents


def _as_it_is(autoencoder: Any, x: Tensor) -> Tensor:
    return autoencoder.encode(x)


def _tiny(autoencoder: Any, x: Tensor) -> Tensor:
    """`TAESD.encode`, with parameters that are not those of a layer."""
    latents = autoencoder.taesd_encoder(x * 0.5 + 0.5)
    return latents / alias(autoencoder.vae_scale) + alias(autoencoder.vae_shift)


def _one_frame(autoencoder: Any, x: Tensor) -> Tensor:
    """`WanVAE.encode` without the caches that carry frames on to the next: what fills them cannot be done twice, as a
    backward that computes again would."""
    return autoencoder.conv1(autoencoder.encoder(x)).chunk(2, dim=1)[0]


def _one_frame_in_patches(autoencoder: Any, x: Tensor) -> Tensor:
    from comfy.ldm.wan.vae2_2 import patchify

    return _one_frame(autoencoder, patchify(x, patch_size=2))


def _multiple_of_tiny(autoencoder: Any, told: int) -> int:
    """The host does not count the packing of Flux 2's latents, two by two."""
    return told * 2 if type(autoencoder.taesd_encoder).__name__ == "EncoderFlux2" else told


def _unknown(autoencoder: Any) -> None:
    """SD 1 and SDXL, SD 3 and Flux have VAEs of one shape. Their scales are numbers, which no step of a loop sees."""


def _scale_of_tiny(autoencoder: Any) -> Scale:
    factor, shift = autoencoder.vae_scale, autoencoder.vae_shift
    return Scale(lambda latents: (latents - shift) * factor, lambda latents: latents / factor + shift)


def _scale_of_tiny_video(autoencoder: Any) -> Scale:
    if autoencoder.latent_format is None:
        return _scale_of_wan("Wan22" if autoencoder.latent_channels == 48 else "Wan21")
    return Scale(autoencoder.process_in, autoencoder.process_out)


def _scale_of_wan(name: str) -> Scale:
    """Another mean and deviation for each channel."""
    latent_format = getattr(comfy.latent_formats, name)()
    return Scale(latent_format.process_in, latent_format.process_out)


_KL, _TAEHV = "comfy.ldm.models.autoencoder.AutoencodingEngine", "comfy.taesd.taehv.TAEHV"
KINDS = {
    _KL: Kind(_as_it_is, _unknown),
    "comfy.ldm.wan.vae.WanVAE": Kind(_one_frame, lambda _: _scale_of_wan("Wan21")),
    "comfy.ldm.wan.vae2_2.WanVAE": Kind(_one_frame_in_patches, lambda _: _scale_of_wan("Wan22")),
    "comfy.taesd.taesd.TAESD": Kind(
        _tiny,
        _scale_of_tiny,
        _multiple_of_tiny,
        _FLOATS_OF_TINY,
    ),
    _TAEHV: Kind(
        _as_it_is,
        _scale_of_tiny_video,
        lambda autoencoder, _: 8 * autoencoder.patch_size,
        _FLOATS_OF_TINY_VIDEO,
    ),
}
