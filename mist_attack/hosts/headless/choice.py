"""Which adapter a checkpoint is for: Stable Diffusion through diffusers, or a small autoencoder alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import torch

from ...devices import pick_device
from ...surrogate import Surrogate
from ..tiny.surrogate import TinySurrogate
from . import diffusers, tiny
from .checkpoints import DEMO

Headless: TypeAlias = "diffusers.DiffusersSurrogate | TinySurrogate"

DENOISERS = {"TAEF2": DEMO / "taef2"}
"""By the family of a small autoencoder: the denoiser that we trained on its latents."""


def load(checkpoint: Path, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Headless:
    """The model in `checkpoint`, on the CPU; see `diffusers.load` and `tiny.load`. dtype: the UNet's, if any.

    Raises CheckpointError that says what was found instead; DeviceError."""
    device = device or pick_device()
    if tiny.is_tiny(checkpoint):
        return tiny.load(checkpoint, device)
    return diffusers.load(checkpoint, device, dtype)


def real_model(checkpoint: Path, device: torch.device | None = None) -> Surrogate:
    """A small autoencoder that strangers trained, from a file or folder as `tiny.load` takes it, with our denoiser for
    its latents where there is one. Raises CheckpointError, DeviceError."""
    return with_denoiser(load(checkpoint, device), checkpoint)


def with_denoiser(model: Surrogate, checkpoint: Path) -> Surrogate:
    """`model`, which was loaded from `checkpoint`, as a whole model where we have a denoiser for it; else as it is:
    another family, no decoder beside it, no diffusers."""
    if not isinstance(model, TinySurrogate) or model.decoder is None:
        return model
    folder = DENOISERS.get(model.family.name)
    if folder is None or not all(map(find_spec, ("diffusers", "transformers"))):
        return model
    return diffusers.load(folder, model.device, autoencoder=checkpoint)


def is_autoencoder_alone(checkpoint: Path) -> bool:
    """No denoiser beside it, as far as names and small files tell: textural is all that it can do."""
    if tiny.is_tiny(checkpoint):
        return True
    return checkpoint.is_dir() and not any((checkpoint / part).is_dir() for part in ("unet", "transformer"))
