"""How a device's gradient agrees with the CPU's: one step of the loop with the same picture, noise and timestep."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..budget import Linf
from ..loss import PictureLoss
from ..objectives import Amortised, Fused, LatentObjective, Semantic
from ..pgd import pgd
from ..protection import objectives_for, prompt_for
from ..settings import Settings
from ..surrogate import Surrogate
from ..views import plan

TIMESTEP = 0.3  # of the schedule


class Agreement(NamedTuple):
    cosine: float
    signs: float
    """Share of the values whose signs are equal: what a sign step sees."""

    def __str__(self) -> str:
        return f"cosine {self.cosine:.5f}, equal signs {100 * self.signs:.2f} %"


LEAST = {
    torch.float32: Agreement(0.999, 0.98),
    torch.float16: Agreement(0.999, 0.97),
    torch.bfloat16: Agreement(0.99, 0.95),
}
"""By the UNet's dtype. float32 leaves room for convolutions in TF32; measured on an NVIDIA H200, an Agreement was
(0.9995, 0.995) or better with these, (0.99996, 0.997) in float16 and (0.9988, 0.984) in bfloat16."""


def agreement(found: Tensor, expected: Tensor) -> Agreement:
    """Of two gradients of one shape, wherever they are."""
    ours, theirs = (values.detach().cpu().double().flatten() for values in (found, expected))
    cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=0, eps=0)
    return Agreement(float(cosine), float((ours.sign() == theirs.sign()).double().mean()))


def agrees(found: Agreement, dtype: torch.dtype) -> bool:
    """False for what is not a number."""
    least = LEAST[dtype]
    return found.cosine >= least.cosine and found.signs >= least.signs


def step_gradient(ready: Surrogate, settings: Settings, side: int) -> Tensor:
    """(1, 3, side, side) float32 on the CPU: the gradient of the first step on a picture of `side` pixels.

    Within `Surrogate.run`; outside of it, and on the CPU, that of the modules as their library made them. Raises
    GradientError as `pgd` does."""
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(ready.device)
    views = plan(side, side, settings.view, settings.working_size, ready.spatial_multiple(settings.objective))
    prompt = prompt_for(ready, settings)
    objectives, _ = objectives_for(ready, settings, views, side, side, None, prompt)
    for objective in objectives:
        _draw_alike(objective)
    generator = torch.Generator(ready.device).manual_seed(settings.seed)
    loss = _Recording(PictureLoss(ready, views, objectives, generator))
    everywhere = torch.ones(1, 1, side, side, device=image.device)
    pgd(loss, Linf(image, settings.epsilon, everywhere, keep_tone=True), step_size=settings.step_size, steps=1)
    return loss.gradient


def _draw_alike(objective: LatentObjective) -> None:
    """Devices' generators give different numbers; the CPU's serve all."""
    while isinstance(objective, (Fused, Amortised)):
        objective = objective.semantic
    if isinstance(objective, Semantic):
        objective.draw = _drawn_on_the_cpu


def _drawn_on_the_cpu(latents: Tensor, sigmas: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    del generator
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    timesteps = torch.full((len(latents),), int(TIMESTEP * len(sigmas)))
    return timesteps.to(latents.device), noise.to(latents.device)


class _Recording:
    """A loss that keeps its first gradient."""

    gradient: Tensor

    def __init__(self, loss: PictureLoss) -> None:
        self.loss, self.deterministic = loss, loss.deterministic

    def value(self, x: Tensor) -> Tensor:
        return self.loss.value(x)

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.loss.value_and_gradient(x)
        self.gradient = gradient.detach().cpu().clone()
        return value, gradient
