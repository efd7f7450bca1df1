"""A LoRA on a denoiser that a host lends: forward hooks that add a low-rank term, and no module is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...randomness import seeded
from .denoiser import weight_inside

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


def attention_layers(denoiser: nn.Module) -> list[Any]:
    """Its linear layers inside of what is called attention, whichever host has named them; all, where nothing is."""
    linear = [(name, layer) for name, layer in denoiser.named_modules() if _is_linear(layer)]
    return [layer for name, layer in linear if ATTENTION.search(name)] or [layer for _, layer in linear]


def _is_linear(layer: Any) -> bool:
    """Of torch's or a host's own kind, quantised ones too."""
    return hasattr(layer, "in_features") and hasattr(layer, "out_features") and hasattr(layer, "weight")


@contextmanager
def low_rank(denoiser: nn.Module, rank: int, seed: int, device: torch.device) -> Iterator[list[Tensor]]:
    """While open, the attention has a LoRA (Hu et al. 2021, arXiv 2106.09685) of that rank, which changes nothing until
    it is trained; these are its weights: float32, for each layer (rank, inputs) and (outputs, rank)."""
    weights: list[Tensor] = []
    generator = seeded(torch.device("cpu"), seed)
    with ExitStack() as hooks:
        for layer in attention_layers(denoiser):
            down = torch.rand(rank, layer.in_features, generator=generator, device="cpu", dtype=torch.float32)
            down = down.mul_(2).sub_(1).mul_(layer.in_features**-0.5).to(device)
            up = torch.zeros(layer.out_features, rank, device=device, dtype=torch.float32)
            hooks.callback(layer.register_forward_hook(partial(_added, down, up)).remove)
            weights += [down.requires_grad_(), up.requires_grad_()]
        yield weights


def _added(down: Tensor, up: Tensor, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Of a copy of the input: some hosts write over it later, and the gradient of `down` needs it as it was."""
    del layer
    x = inputs[0].to(down.dtype, copy=down.requires_grad)
    term = F.linear(F.linear(x, weight_inside(down)), weight_inside(up))
    return output + term.to(output.dtype)
