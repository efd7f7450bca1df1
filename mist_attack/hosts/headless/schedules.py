"""Noise levels of a model's own schedule, from a scheduler's config in diffusers' words."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..borrowing.denoiser import noise_levels

TOKENS = 4096
"""Of a picture of 1024 x 1024 pixels, by which flow models of many sizes choose their shift."""


def sigmas_of(schedule: Mapping[str, Any], *, is_flow: bool) -> Tensor:
    """(T,) float32, increasing, with a flow's shift applied. Raises CheckpointError for what is predicted otherwise."""
    return _of_flow(schedule) if is_flow else _of_diffusion(schedule)


def _of_diffusion(schedule: Mapping[str, Any]) -> Tensor:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    if schedule.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise CheckpointError(f"Expected a UNet that predicts epsilon or v, found {schedule['prediction_type']!r}.")
    return noise_levels((1 - _known(DDPMScheduler, schedule).betas.double()).cumprod(0))


def _of_flow(schedule: Mapping[str, Any]) -> Tensor:
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    scheduler = _known(FlowMatchEulerDiscreteScheduler, schedule)
    length = scheduler.config.num_train_timesteps
    even = torch.linspace(1, 1 / length, length, device="cpu").tolist()
    shift = _shift(scheduler.config) if scheduler.config.use_dynamic_shifting else None
    scheduler.set_timesteps(sigmas=even, mu=shift)
    return scheduler.sigmas[:-1].flip(0).float()


def _known(kind: Any, schedule: Mapping[str, Any]) -> Any:
    """A scheduler from what it knows of the config of another, whose file may hold more."""
    known = signature(kind).parameters
    return kind(**{key: value for key, value in schedule.items() if key in known})


def _shift(config: Any) -> float:
    """On the line through the shifts of the smallest and the largest picture, in tokens."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return config.base_shift + slope * (TOKENS - config.base_image_seq_len)
