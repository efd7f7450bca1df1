"""The small autoencoder (TAESD) that a web UI has for the model it has loaded: AUTOMATIC1111's and Forge's alike."""

# pyright: reportMissingImports=false
from __future__ import annotations

from pathlib import Path

import torch
from modules import sd_vae_taesd
from torch import nn

from ..errors import CheckpointError, MistError
from ..surrogate import Surrogate, out_of_memory
from .borrowing.lending import attributes
from .tiny.surrogate import TinySurrogate
from .tiny.tensors import family_of


def small_of(model: Surrogate) -> TinySurrogate:
    """In place of the autoencoder of `model`, which is loaded. Its few weights are copied: the web UI's own may be
    inference tensors, and keep their precision. Nothing is downloaded. Raises CheckpointError.
    """
    with torch.inference_mode(False):
        weights = _encoder().state_dict()
        family = family_of("encoder", weights, "The web UI's TAESD")
        return TinySurrogate(f"small autoencoder of {model.name}", family, weights, None, model.device)


def _encoder() -> nn.Module:
    try:
        with attributes([sd_vae_taesd], download_model=_require_file):
            return sd_vae_taesd.encoder_model()
    except MistError:
        raise
    except Exception as error:  # whatever a broken file gives rise to
        if out_of_memory(error):
            raise
        raise CheckpointError(
            f"The web UI cannot load its TAESD ({type(error).__name__}: {' '.join(str(error).split())[:200]}). "
            "Replace its file in models/VAE-taesd, or choose the full autoencoder."
        ) from error


def _require_file(path: str, _: str) -> None:
    """In place of the web UI's download."""
    file = Path(path)
    if not file.exists():
        raise CheckpointError(
            f"The web UI has no {file.name} in models/VAE-taesd, and Mist downloads nothing: put it there "
            "(from github.com/madebyollin/taesd), or choose the full autoencoder."
        )
