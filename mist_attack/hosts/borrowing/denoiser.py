"""A host's UNet as `Surrogate.denoise` has it: k-diffusion's convention, and gradients that half precision keeps."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_factor = ContextVar("factor", default=1.0)
LOSS_SCALE = 1024.0  # a half-precision backward loses small gradients without it; exact, being a power of two
SMALLEST_ALPHA = 5e-8  # zero terminal SNR: no infinite sigma


def noise_levels(alphas_cumprod: Tensor) -> Tensor:
    """(T,) sqrt((1 - alphas_cumprod) / alphas_cumprod), float32: those of the training schedule, increasing."""
    alphas_cumprod = alphas_cumprod.double().clamp(min=SMALLEST_ALPHA)
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt().float()


def denoised(
    unet: Callable[[Tensor, Tensor], Tensor],
    noised_latents: Tensor,
    sigma: Tensor,
    sigmas: Tensor,
    *,
    predicts_v: bool,
) -> Tensor:
    """The clean latents that a UNet of Stable Diffusion's kind predicts, (B, C, h, w) in float32.

    unet: (variance-preserving latents, timesteps (B,)) -> its prediction of eps, or of v. sigma: (B,), members of
    `sigmas`."""
    timesteps = (sigma[:, None] - sigmas).abs().argmin(dim=1)
    sigma = sigma.view(-1, 1, 1, 1)
    scale = (1 + sigma**2).rsqrt()  # to the variance-preserving latents that the UNet was trained on
    answer = unet(noised_latents * scale, timesteps).float()
    if predicts_v:
        return noised_latents * scale**2 - answer * sigma * scale
    return noised_latents - sigma * answer


def with_loss_scale(unet: Callable[[Tensor], Tensor], x: Tensor, factor: float = LOSS_SCALE) -> Tensor:
    """unet(x) in float32; gradients are `factor` times as large while the backward is inside it."""
    outer = _factor.set(factor)
    try:
        return _ScaledGradient.apply(unet(_ScaledGradient.apply(x, 1 / factor)).float(), factor)  # type: ignore[return-value]
    finally:
        _factor.reset(outer)


def weight_inside(weight: Tensor) -> Tensor:
    """A weight that is trained, as a layer inside of `with_loss_scale` uses it: its gradient is its own size."""
    return _ScaledGradient.apply(weight, 1 / _factor.get())  # type: ignore[return-value]


class _ScaledGradient(torch.autograd.Function):
    """The identity; its gradient is multiplied by `factor`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:  # type: ignore[override]
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * ctx.factor, None
