"""Which adapter a checkpoint is for: Stable Diffusion through diffusers, or a small autoencoder alone."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import torch

from ...devices import pick_device
from ..tiny.surrogate import TinySurrogate
from . import diffusers, tiny

Headless: TypeAlias = "diffusers.DiffusersSurrogate | TinySurrogate"


def load(checkpoint: Path, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Headless:
    """The model in `checkpoint`, on the CPU; see `diffusers.load` and `tiny.load`. dtype: the UNet's, if any.

    Raises CheckpointError that says what was found instead; DeviceError."""
    device = device or pick_device()
    if tiny.is_tiny(checkpoint):
        return tiny.load(checkpoint, device)
    return diffusers.load(checkpoint, device, dtype)


def is_autoencoder_alone(checkpoint: Path) -> bool:
    """No denoiser beside it, as far as names and small files tell: textural is all that it can do."""
    if tiny.is_tiny(checkpoint):
        return True
    return checkpoint.is_dir() and not any((checkpoint / part).is_dir() for part in ("unet", "transformer"))
