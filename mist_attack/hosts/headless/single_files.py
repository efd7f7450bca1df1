"""A single file in the original layout of Stable Diffusion 1, 2 or XL: what is in it, converted by diffusers.

Such a file does not describe itself; the configs of the published models lie beside this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import prompts
from .checkpoints import SD_V1_KIND, SD_V2_KIND, SD_XL_KIND, kind_of, read_tensors
from .families import Family, StableDiffusion, StableDiffusionXL
from .folders import read_json
from .parts import Parts

HERE = Path(__file__).parent
SD_V1 = HERE / SD_V1_KIND


def _predicts_epsilon(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {}


def _of_sd_v2(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The file does not say which of its two kinds it is: the one that predicts v has this bias spread further, as
    ComfyUI tells them apart, too."""
    bias = tensors["model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"]
    return {"prediction_type": "v_prediction"} if bias.float().std(unbiased=False) > 0.09 else {}


def _of_sd_xl(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """By the marks that trainers leave in the file for the hosts."""
    found: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in tensors else {}
    return found | ({"rescale_betas_zero_snr": True} if "ztsnr" in tensors else {})


@dataclass(frozen=True)
class Kind:
    """schedule: what the tensors tell of it, over the config's."""

    name: str
    family: Family
    schedule: Callable[[Mapping[str, Tensor]], dict[str, Any]]


KINDS = {
    SD_V1_KIND: Kind("SD v1", StableDiffusion(), _predicts_epsilon),
    SD_V2_KIND: Kind("SD v2", StableDiffusion(), _of_sd_v2),
    SD_XL_KIND: Kind("SDXL", StableDiffusionXL(), _of_sd_xl),
}
"""By the folder of the configs."""


def load_file(path: Path, dtype: torch.dtype, config: Path | None = None) -> Parts:
    """The parts in a file; `dtype` is the denoiser's. config: a folder of configs in place of the published model's."""
    from diffusers.loaders import single_file_utils as ldm
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    tensors = read_tensors(path)
    found = kind_of(tensors, path)
    kind, config = KINDS[found], config or HERE / found
    schedule = read_json(config / "scheduler" / "scheduler_config.json") | kind.schedule(tensors)
    unet_config, vae_config = read_json(config / "unet" / "config.json"), read_json(config / "vae" / "config.json")
    unet_weights = ldm.convert_ldm_unet_checkpoint(_part(tensors, "model.diffusion_model."), config=unet_config)
    vae_weights = ldm.convert_ldm_vae_checkpoint(_part(tensors, "first_stage_model."), config=vae_config)
    vae = _build(AutoencoderKL, vae_config, vae_weights, torch.float32)
    unet = _build(UNet2DConditionModel, unet_config, unet_weights, dtype)
    encode_prompt = prompts.from_file(path, config, found)
    return Parts(f"{kind.name} ({path.name})", vae, encode_prompt, unet, kind.family, schedule)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _build(kind: Any, config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """`kind` with exactly these weights: from_single_file would fill what is missing with random numbers."""
    with torch.device("meta"):
        module = kind.from_config(config)
    module.load_state_dict(weights, assign=True)
    return nn.Module.to(module, dtype)  # diffusers' own `to` warns of an empty list of exceptions
