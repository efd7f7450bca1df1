"""Stable Diffusion v1's full architecture with random weights: what a step costs does not depend on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..hosts.diffusers import SD_V1, DiffusersSurrogate
from ..hosts.prompts import END, FIXED_PROMPTS, LENGTH, START


def random_sd_v1(device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[DiffusersSurrogate, TextEncoder]:
    """The surrogate and its text encoder: 860 + 84 and 123 million parameters, 3.8 and 0.5 GB in float32.

    Weights are normal(0, 1 / fan_in), so that signals keep their size. dtype: the UNet's and the text encoder's.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    torch.manual_seed(0)
    unet = _randomised(UNet2DConditionModel.from_config(_config("unet")), dtype)
    vae = _randomised(AutoencoderKL.from_config(_config("vae")), torch.float32)
    text = TextEncoder(device, dtype)
    schedule = json.loads((SD_V1 / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    name = "SD v1's architecture with random weights"
    return DiffusersSurrogate(name, vae, unet, schedule, lambda _: text.states(), device), text


class TextEncoder:
    """CLIP ViT-L/14's, made when it is first asked."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.module: Any = None

    @torch.no_grad()
    def states(self) -> Tensor:
        """(1, 77, 768) of "a painting"."""
        if self.module is None:
            from transformers import CLIPTextConfig, CLIPTextModel

            self.module = _randomised(CLIPTextModel(CLIPTextConfig(**_config("text_encoder"))), self.dtype)
            self.module.to(self.device)
        tokens = (START, *FIXED_PROMPTS["a painting"])
        padded = torch.tensor([tokens + (END,) * (LENGTH - len(tokens))], device=self.device)
        return self.module(padded).last_hidden_state

    def drop(self) -> None:
        """As our loop does once the prompt is read."""
        self.module = None


def _config(part: str) -> dict[str, Any]:
    return json.loads(Path(SD_V1, part, "config.json").read_text(encoding="utf-8"))


@torch.no_grad()
def _randomised(module: Any, dtype: torch.dtype) -> Any:
    for parameter in module.parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    return nn.Module.to(module.eval().requires_grad_(False), dtype)  # diffusers' own `to` warns of an empty list
