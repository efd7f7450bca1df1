"""Random numbers on any device: drawn where the generator lives, then brought to where they are needed."""

from __future__ import annotations

import torch
from torch import Tensor


def seeded(device: torch.device, seed: int) -> torch.Generator:
    """The device's own generator, or the CPU's where the device has none (DirectML)."""
    try:
        generator = torch.Generator(device)
    except RuntimeError:
        generator = torch.Generator()
    return generator.manual_seed(seed)


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent standard normal numbers, of the shape, dtype and device of `like`."""
    drawn = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return drawn.to(like.device)


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent numbers in [0, 1), of the shape, dtype and device of `like`."""
    drawn = torch.rand(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return drawn.to(like.device)


def integers(end: int, shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """int64 in 0 to end - 1, each as likely."""
    return torch.randint(end, shape, generator=generator, device=generator.device).to(device)


def noise_like(before: Tensor, after: Tensor, seed: int) -> Tensor:
    """The original with random noise of the same size at each value as a protection: what any change would do. All
    (1, 3, H, W) uint8."""
    signs = integers(2, tuple(before.shape), seeded(torch.device("cpu"), seed), before.device).to(torch.int16) * 2 - 1
    return (before + (after.to(torch.int16) - before).abs() * signs).clamp(0, 255).to(torch.uint8)
