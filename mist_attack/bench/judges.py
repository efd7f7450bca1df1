"""The models that judge: autoencoders that strangers trained, from a folder, and the demo models beside them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..hosts.headless import choice
from ..hosts.headless.checkpoints import demo_models, find_checkpoint
from ..surrogate import Surrogate

ENVIRONMENT = "MIST_REAL_AUTOENCODER"
ENCODERS = "*_encoder.pth", "*_encoder.safetensors"
NOT_MEASURED = f"no real autoencoder here: --real DIR, or {ENVIRONMENT}, names a folder with {' or '.join(ENCODERS)}"


def real_folder(asked: Path | None) -> Path | None:
    """`asked`, else what MIST_REAL_AUTOENCODER names, else None. Raises CheckpointError where no encoder is in it."""
    named = asked or os.environ.get(ENVIRONMENT)
    if not named:
        return None
    folder = Path(named)
    if not encoders(folder):
        raise CheckpointError(
            f"Expected a folder of small autoencoders, {' or '.join(ENCODERS)}; found none in {folder}."
        )
    return folder


def encoders(folder: Path | None) -> list[Path]:
    """The checkpoints in such a folder, one for each autoencoder; none without a folder."""
    return [] if folder is None else sorted(path for pattern in ENCODERS for path in folder.glob(pattern))


def demos() -> list[Path]:
    return [find_checkpoint(name) for name in demo_models()]


@cache
def loaded(checkpoint: Path, device: torch.device) -> Surrogate:
    """Once in a process: they are small."""
    return choice.load(checkpoint, device)


@cache
def whole(checkpoint: Path, device: torch.device) -> Surrogate:
    """The same, a small autoencoder with the denoiser that we trained on its latents, if there is one."""
    return choice.real_model(checkpoint, device)
