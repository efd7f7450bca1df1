"""A LoRA on a denoiser of diffusers, by peft: there while it is open, gone without a trace afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...errors import CheckpointError

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
"""The layers that diffusers' own script for a LoRA adapts."""
NAME = "mist"


@contextmanager
def adapted(denoiser: Any, rank: int, seed: int) -> Iterator[list[nn.Parameter]]:
    """While open, the attention has a LoRA of that rank, which changes nothing until it is trained; these are its
    weights, float32. Everything else is frozen already. Raises CheckpointError without peft."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise CheckpointError(f'A LoRA is trained by peft ({error}): pip install "mist-protect[headless]"') from error

    own = dict(vars(denoiser))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=ATTENTION)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # peft draws on the CPU
            denoiser.add_adapter(config, NAME)
        weights = [weight for name, weight in denoiser.named_parameters() if "lora_" in name]
        for weight in weights:
            weight.data = weight.data.float()
        yield weights
    finally:
        denoiser.unload_lora()
        for name in vars(denoiser).keys() - own.keys():
            del vars(denoiser)[name]
