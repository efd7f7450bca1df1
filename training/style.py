"""Teach a demo model a style from a few pictures, as an imitator would, and measure how near its samples come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mist_attack.evaluation import img2img
from mist_attack.evaluation.style import fitted, frechet
from mist_attack.surrogate import Surrogate

RANK = 4
ADAPTED = "to_q", "to_k", "to_v", "to_out.0"


class LowRank(nn.Module):
    """A linear layer plus a product of two thin ones, the second zero at first (Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, RANK, bias=False)
        self.up = nn.Linear(RANK, layer.out_features, bias=False)
        nn.init.normal_(self.down.weight, std=1 / RANK)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


@contextmanager
def taught(ready: Any, pictures: Sequence[Tensor], prompt: str, steps: int, seed: int = 0) -> Iterator[None]:
    """While open, the UNet has a LoRA of rank RANK on its attention that has seen `pictures` for `steps` steps."""
    torch.manual_seed(seed)
    places = [
        (module, name)
        for path, module in ready.unet.named_modules()
        for name in ADAPTED
        if path.rpartition(".")[2].startswith("attn") and _at(module, name) is not None
    ]
    layers = [_at(module, name) for module, name in places]
    adapters = [LowRank(layer) for layer in layers]
    try:
        for (module, name), adapter in zip(places, adapters, strict=True):
            _put(module, name, adapter)
        _teach(ready, adapters, pictures, prompt, steps)
        yield
    finally:
        for (module, name), layer in zip(places, layers, strict=True):
            _put(module, name, layer)


def _at(module: Any, name: str) -> Any:
    first, _, index = name.partition(".")
    found = getattr(module, first, None)
    return found[int(index)] if found is not None and index else found


def _put(module: Any, name: str, layer: nn.Module) -> None:
    first, _, index = name.partition(".")
    if index:
        getattr(module, first)[int(index)] = layer
    else:
        setattr(module, first, layer)


def _teach(ready: Any, adapters: Sequence[LowRank], pictures: Sequence[Tensor], prompt: str, steps: int) -> None:
    with torch.no_grad():
        latents = torch.cat([ready.encode(picture) for picture in pictures])
    weights = [weight for adapter in adapters for weight in (adapter.down.weight, adapter.up.weight)]
    optimizer = torch.optim.AdamW(weights, 3e-3, weight_decay=0.0)
    conditioning = ready.conditioning(prompt)
    for _ in range(steps):
        clean = latents[torch.randint(len(latents), (6,))]
        sigma, noise = ready.sigmas[torch.randint(len(ready.sigmas), (6,))], torch.randn_like(clean)
        noised = ready.noising.noised(clean, noise, sigma)
        eps_pred = (noised - ready.denoise(noised, sigma, conditioning)) / sigma.view(-1, 1, 1, 1)
        loss = (eps_pred - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def samples(ready: Surrogate, prompt: str, count: int, side: int, steps: int = 25) -> list[Tensor]:
    """(1, 3, side, side) each, from noise alone: seeds 0, 1, ..."""
    grey = torch.full((1, 3, side, side), 0.5, device=ready.device)
    conditioning = ready.conditioning(prompt)
    return [img2img(ready, grey, conditioning, 1.0, steps, seed) for seed in range(count)]


@torch.no_grad()
def distance(ready: Surrogate, some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Frechet distance of the latents of both, (1, 3, H, W) in [0, 1] each: see `mist_attack.evaluation.style`."""
    return frechet(*(fitted([ready.encode(picture) for picture in pictures]) for pictures in (some, others)))
