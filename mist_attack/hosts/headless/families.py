"""The families of diffusers' pipelines: how each one's prompt is read and how its denoiser is called.

A family is a row, found by the class of the denoiser. It is called with diffusers' modules and keeps nothing. A prompt
becomes a mapping of (1, ...) tensors, or one tensor, which `predicted` gets for the batch of the latents.
"""

from __future__ import annotations

from inspect import signature
from typing import Any, Protocol

import torch
from einops import rearrange
from torch import Tensor

SIZE = 1024, 1024, 0, 0, 1024, 1024
"""Height and width, crop, and target that SDXL is told: those of whole pictures at the size it is trained at."""


class Family(Protocol):
    name: str
    denoiser: str
    """diffusers' class, as it stands in a folder's config.json."""
    pipelines: tuple[str, ...]
    """diffusers' classes that make pictures from a prompt alone; those of inpainting and editing ask for more."""
    is_flow: bool
    """It predicts the velocity from picture to noise; else eps or v of a variance-preserving schedule."""

    def embedded(self, pipeline: Any, prompt: str) -> Any:
        """The prompt in the family's form, on the CPU, by the pipeline's own tokenizers and text encoders."""
        ...

    def predicted(self, denoiser: Any, latents: Tensor, times: Tensor, prompt: Any) -> Tensor:
        """latents: (B, C, h, w) in the denoiser's dtype. times: (B,) float32, timesteps, or of a flow its sigmas."""
        ...

    def multiple(self, denoiser: Any) -> int:
        """Latents: their height and width must be multiples of it."""
        ...


class StableDiffusion:
    """Stable Diffusion 1 and 2: a UNet that takes a prompt alone."""

    name = "Stable Diffusion"
    denoiser: str = "UNet2DConditionModel"
    pipelines: tuple[str, ...] = ("StableDiffusionPipeline",)
    is_flow = False

    def embedded(self, pipeline: Any, prompt: str) -> Any:
        return pipeline.encode_prompt(prompt, _CPU, 1, False)[0]

    def predicted(self, denoiser: Any, latents: Tensor, times: Tensor, prompt: Any) -> Tensor:
        return denoiser(latents, times, prompt).sample

    def multiple(self, denoiser: Any) -> int:
        return 2 ** (len(denoiser.config.block_out_channels) - 1)


class StableDiffusionXL(StableDiffusion):
    name = "Stable Diffusion XL"
    pipelines: tuple[str, ...] = ("StableDiffusionXLPipeline",)

    def embedded(self, pipeline: Any, prompt: str) -> Any:
        states, _, pooled, _ = pipeline.encode_prompt(prompt, device=_CPU, do_classifier_free_guidance=False)
        return {"states": states, "pooled": pooled}

    def predicted(self, denoiser: Any, latents: Tensor, times: Tensor, prompt: Any) -> Tensor:
        sizes = latents.new_tensor([SIZE]).expand(len(latents), -1)
        added = {"text_embeds": prompt["pooled"], "time_ids": sizes}
        return denoiser(latents, times, prompt["states"], added_cond_kwargs=added).sample


class StableDiffusion3:
    name = "Stable Diffusion 3"
    denoiser: str = "SD3Transformer2DModel"
    pipelines: tuple[str, ...] = ("StableDiffusion3Pipeline",)
    is_flow = True

    def embedded(self, pipeline: Any, prompt: str) -> Any:
        states, _, pooled, _ = pipeline.encode_prompt(
            prompt, None, None, device=_CPU, do_classifier_free_guidance=False
        )
        return {"states": states, "pooled": pooled}

    def predicted(self, denoiser: Any, latents: Tensor, times: Tensor, prompt: Any) -> Tensor:
        return denoiser(
            hidden_states=latents,
            timestep=times * 1000,
            encoder_hidden_states=prompt["states"],
            pooled_projections=prompt["pooled"],
        ).sample

    def multiple(self, denoiser: Any) -> int:
        return denoiser.config.patch_size


class Flux:
    name = "Flux"
    denoiser: str = "FluxTransformer2DModel"
    pipelines: tuple[str, ...] = ("FluxPipeline",)
    is_flow = True
    guidance = 3.5
    """Of the pipeline's own call; only models that were distilled for it are told."""

    def embedded(self, pipeline: Any, prompt: str) -> Any:
        states, pooled, _ = pipeline.encode_prompt(prompt, None, device=_CPU)
        return {"states": states, "pooled": pooled}

    def predicted(self, denoiser: Any, latents: Tensor, times: Tensor, prompt: Any) -> Tensor:
        height, width = (side // 2 for side in latents.shape[2:])
        answer = denoiser(
            hidden_states=_packed(latents),
            timestep=times,
            guidance=self._guidance(denoiser, times),
            pooled_projections=prompt["pooled"],
            encoder_hidden_states=prompt["states"],
            txt_ids=torch.zeros(prompt["states"].shape[1], 3, device=latents.device),
            img_ids=_places(latents, 1, height, width),
        ).sample
        return _unpacked(answer, height, width)

    def multiple(self, denoiser: Any) -> int:
        return 2

    def _guidance(self, denoiser: Any, times: Tensor) -> Tensor | None:
        return torch.full_like(times, self.guidance) if denoiser.config.guidance_embeds else None


class Flux2(Flux):
    """Its autoencoder packs the latents."""

    name = "Flux 2"
    denoiser: str = "Flux2Transformer2DModel"
    pipelines: tuple[str, ...] = ("Flux2Pipeline", "Flux2KleinPipeline")
    guidance = 4.0

    def embedded(self, pipeline: Any, prompt: str) -> Any:
        return pipeline.encode_prompt(prompt, device=_CPU)[0]

    def predicted(self, denoiser: Any, latents: Tensor, times: Tensor, prompt: Any) -> Tensor:
        height, width = latents.shape[2:]
        answer = denoiser(
            hidden_states=rearrange(latents, "b c h w -> b (h w) c"),
            timestep=times,
            guidance=self._guidance(denoiser, times),
            encoder_hidden_states=prompt,
            txt_ids=_places(latents, 1, 1, 1, prompt.shape[1]),
            img_ids=_places(latents, 1, height, width, 1),
        ).sample
        return rearrange(answer, "b (h w) c -> b c h w", h=height, w=width)

    def multiple(self, denoiser: Any) -> int:
        return 1


class QwenImage:
    name = "Qwen-Image"
    denoiser: str = "QwenImageTransformer2DModel"
    pipelines: tuple[str, ...] = ("QwenImagePipeline",)
    is_flow = True

    def embedded(self, pipeline: Any, prompt: str) -> Any:
        return pipeline.encode_prompt(prompt, device=_CPU)[0]

    def predicted(self, denoiser: Any, latents: Tensor, times: Tensor, prompt: Any) -> Tensor:
        height, width = (side // 2 for side in latents.shape[2:])
        more = {}
        if "txt_seq_lens" in signature(denoiser.forward).parameters:  # until diffusers 0.36
            more["txt_seq_lens"] = [prompt.shape[1]] * len(latents)
        answer = denoiser(
            hidden_states=_packed(latents),
            encoder_hidden_states=prompt,
            timestep=times,
            img_shapes=[[(1, height, width)]] * len(latents),
            **more,
        ).sample
        return _unpacked(answer, height, width)

    def multiple(self, denoiser: Any) -> int:
        return 2


class ZImage:
    """It counts the time from noise to picture, and predicts the opposite velocity."""

    name = "Z-Image"
    denoiser: str = "ZImageTransformer2DModel"
    pipelines: tuple[str, ...] = ("ZImagePipeline",)
    is_flow = True

    def embedded(self, pipeline: Any, prompt: str) -> Any:
        return pipeline.encode_prompt(prompt, device=_CPU, do_classifier_free_guidance=False)[0][0][None]

    def predicted(self, denoiser: Any, latents: Tensor, times: Tensor, prompt: Any) -> Tensor:
        films = list(latents[:, :, None])
        return -torch.stack(denoiser(films, 1 - times, list(prompt), return_dict=False)[0])[:, :, 0]

    def multiple(self, denoiser: Any) -> int:
        return denoiser.config.all_patch_size[0]


FAMILIES: tuple[Family, ...] = (
    StableDiffusion(),
    StableDiffusionXL(),
    StableDiffusion3(),
    Flux(),
    Flux2(),
    QwenImage(),
    ZImage(),
)

_CPU = torch.device("cpu")


def _packed(latents: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, tokens, 4 * C): patches of 2 x 2."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def _unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=height, w=width, p=2, q=2)


def _places(like: Tensor, *sizes: int) -> Tensor:
    """(product of sizes, len(sizes)) float32, half of which cannot count far: where each token is on each axis."""
    axes = [torch.arange(size, device=like.device, dtype=torch.float32) for size in sizes]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
