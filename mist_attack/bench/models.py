"""Stable Diffusion v1's full architecture with random weights: what a step costs does not depend on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..hosts.diffusers import SD_V1, DiffusersSurrogate
from ..hosts.prompts import END, FIXED_PROMPTS, LENGTH, START


def random_sd_v1(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[DiffusersSurrogate, nn.Module]:
    """The surrogate, and its CLIP text encoder: 860 + 84 + 123 million parameters, 4.3 GB in float32.

    Weights are normal(0, 1 / fan_in), so that signals keep their size. dtype: the UNet's and the text encoder's.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = _randomised(UNet2DConditionModel.from_config(_config("unet")), dtype)
    vae = _randomised(AutoencoderKL.from_config(_config("vae")), torch.float32)
    text = _randomised(CLIPTextModel(CLIPTextConfig(**_config("text_encoder"))), dtype).to(device)
    schedule = json.loads((SD_V1 / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    name = "SD v1's architecture with random weights"
    return DiffusersSurrogate(name, vae, unet, schedule, lambda _: prompt_states(text), device), text


@torch.no_grad()
def prompt_states(text: Any) -> Tensor:
    """(1, 77, 768) of "a painting"."""
    tokens = (START, *FIXED_PROMPTS["a painting"])
    padded = torch.tensor([tokens + (END,) * (LENGTH - len(tokens))], device=text.device)
    return text(padded).last_hidden_state


def _config(part: str) -> dict[str, Any]:
    return json.loads(Path(SD_V1, part, "config.json").read_text(encoding="utf-8"))


@torch.no_grad()
def _randomised(module: Any, dtype: torch.dtype) -> Any:
    for parameter in module.parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    return module.eval().requires_grad_(False).to(dtype)
