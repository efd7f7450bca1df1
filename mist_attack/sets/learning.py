"""What a LoRA learns from pictures: the loss, the rate and the steps of its training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..objectives import prediction_error, random_draws
from ..surrogate import Conditioning, Surrogate

PUBLISHED_RATE, PUBLISHED_WIDTH = 1e-4, 780
"""Of diffusers' script for a LoRA, a picture a step; of the layers that it adapts in Stable Diffusion 1, the mean."""

State = list[Tensor]
"""A LoRA's weights at one time: float32, on the CPU."""


def rate_for(weights: Sequence[Tensor], batch: int) -> float:
    """Goes as the batch (Goyal et al. 2017, arXiv 1706.02677), and as one over the mean width of the layers that the
    weights, pairs of thin matrices, adapt (Yang et al. 2022, arXiv 2203.03466)."""
    widths = [max(weight.shape) for weight in weights]
    return PUBLISHED_RATE * batch * PUBLISHED_WIDTH * len(widths) / sum(widths)


def learn(
    ready: Surrogate,
    weights: Sequence[Tensor],
    lessons: Sequence[tuple[Tensor, Conditioning]],
    generator: torch.Generator,
    *,
    rate: float,
    states: int,
    on_step: Callable[[], None] = lambda: None,
) -> list[State]:
    """A step for each lesson, the latents of a picture and its prompt: AdamW on the mean squared error of the network's
    own prediction, at any timestep. The states on the way to the last one, at even distances."""
    optimizer, kept = torch.optim.AdamW(weights, rate), list[State]()
    times = {round(len(lessons) * part / states) for part in range(1, states + 1)}
    for step, (latents, conditioning) in enumerate(lessons, start=1):
        loss = _loss(ready, latents.detach().requires_grad_(), conditioning, generator)
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimizer.step()
        if step in times:
            kept.append(state_of(weights))
        on_step()
    return kept


def _loss(ready: Surrogate, latents: Tensor, conditioning: Conditioning, generator: torch.Generator) -> Tensor:
    timesteps, noise = random_draws(latents.detach(), ready.sigmas, generator)
    return prediction_error(ready, latents, noise, ready.sigmas[timesteps], conditioning).square().mean()


def state_of(weights: Sequence[Tensor]) -> State:
    return [weight.detach().to("cpu", torch.float32, copy=True) for weight in weights]


@torch.no_grad()
def put(state: State, weights: Sequence[Tensor]) -> None:
    """Weights in this state; in place."""
    for weight, value in zip(weights, state, strict=True):
        weight.copy_(value)
