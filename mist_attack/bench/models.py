"""Stable Diffusion v1's full architecture with random weights: what a step costs does not depend on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..hosts.headless.diffusers import SD_V1, DiffusersSurrogate
from ..hosts.headless.prompts import END, FIXED_PROMPTS, LENGTH, START

NARROW = {
    "unet": {"block_out_channels": [32, 64, 64, 64], "attention_head_dim": 4},
    "vae": {"block_out_channels": [32, 32, 64, 64]},
    "text_encoder": {"num_hidden_layers": 1},
}
"""Of full depth and least width."""


def random_sd_v1(
    device: torch.device, dtype: torch.dtype = torch.float32, *, narrow: bool = False
) -> tuple[DiffusersSurrogate, TextEncoder]:
    """The surrogate and its text encoder: 860 + 84 and 123 million parameters, 3.8 and 0.5 GB in float32.

    Weights are normal(0, 1 / fan_in), so that signals keep their size, and drawn on the device. dtype: the UNet's and
    the text encoder's. narrow: with NARROW's widths, for a check of the bench itself.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    torch.manual_seed(0)
    unet = _randomised(_empty(UNet2DConditionModel, _config("unet", narrow), device), dtype)
    vae = _randomised(_empty(AutoencoderKL, _config("vae", narrow), device), torch.float32)
    text = TextEncoder(device, dtype, _config("text_encoder", narrow))
    schedule = json.loads((SD_V1 / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    name = "SD v1's architecture with random weights"
    return DiffusersSurrogate(name, vae, unet, schedule, lambda _: text.states(), device), text


class TextEncoder:
    """CLIP ViT-L/14's, made when it is first asked."""

    def __init__(self, device: torch.device, dtype: torch.dtype, config: dict[str, Any]) -> None:
        self.device, self.dtype, self.config = device, dtype, config
        self.module: Any = None

    @torch.no_grad()
    def states(self) -> Tensor:
        """(1, 77, 768) of "a painting"."""
        if self.module is None:
            from transformers import CLIPTextConfig, CLIPTextModel

            self.module = _randomised(CLIPTextModel(CLIPTextConfig(**self.config)), self.dtype)
            self.module.to(self.device)
        tokens = (START, *FIXED_PROMPTS["a painting"])
        padded = torch.tensor([tokens + (END,) * (LENGTH - len(tokens))], device=self.device)
        return self.module(padded).last_hidden_state

    def drop(self) -> None:
        """As our loop does once the prompt is read."""
        self.module = None


def _config(part: str, narrow: bool) -> dict[str, Any]:
    found = json.loads(Path(SD_V1, part, "config.json").read_text(encoding="utf-8"))
    return found | (NARROW[part] if narrow else {})


def _empty(kind: Any, config: dict[str, Any], device: torch.device) -> Any:
    """A module without buffers, on the device: to fill it on a CPU and to carry it there would take longer."""
    with torch.device("meta"):
        module = kind.from_config(config)
    return nn.Module.to_empty(module, device=device)


@torch.no_grad()
def _randomised(module: Any, dtype: torch.dtype) -> Any:
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(float(name.endswith("weight")))
    return nn.Module.to(module.eval().requires_grad_(False), dtype)  # diffusers' own `to` warns of an empty list
