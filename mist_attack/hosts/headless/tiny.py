"""A small autoencoder (TAESD and its kin) from files of a few megabytes: the textural objective without a large model.

Needs neither diffusers nor transformers, and reads diffusers' layout of the same weights too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...devices import require_working
from ...errors import CheckpointError
from ..tiny import tensors
from ..tiny.modules import Family
from ..tiny.surrogate import TinySurrogate
from ..tiny.tensors import ACCEPTED, Half, family_of, halves
from .checkpoints import SUFFIXES, read_tensors

MAX_BYTES = 64 * 2**20
"""Of a file that may be one: no large model is read twice."""
CONFIG, IN_DIFFUSERS = "config.json", "AutoencoderTiny"
PARTS = "unet", "vae", "transformer", "text_encoder"
"""Folders that a diffusers model has."""


@dataclass
class File:
    """What one file holds: the tensors and the family of each half."""

    path: Path
    tensors: dict[Half, dict[str, Tensor]]
    families: dict[Half, Family]

    def __str__(self) -> str:
        return " and ".join(f"the {half} of {family.name}" for half, family in self.families.items()) or "nothing"


def load(checkpoint: Path, device: torch.device) -> TinySurrogate:
    """The autoencoder in `checkpoint`, on the CPU; it moves to `device` when it is first run.

    `checkpoint` is the encoder's file (a decoder's beside it serves too), a file with both halves, a folder with such
    files of one autoencoder, or a diffusers folder of an AutoencoderTiny. Raises CheckpointError that says what was
    found instead; DeviceError.
    """
    require_working(device)
    with torch.inference_mode(False):
        folder = _diffusers_folder(checkpoint)
        if folder is None:
            return _of(_files(checkpoint), checkpoint, device)
        config = _config(folder)
        scale, shift = float(config.get("scaling_factor") or 1), float(config.get("shift_factor") or 0)
        return _of(_stored(folder), folder, device, scale=scale, shift=shift)


def is_tiny(checkpoint: Path) -> bool:
    """Whether there is a small autoencoder, or a part of one: `load` says what may be wrong with it."""
    return _diffusers_folder(checkpoint) is not None or bool(_files(checkpoint))


def _of(paths: list[Path], where: Path, device: torch.device, **scaled: float) -> TinySurrogate:
    files = [_read(path) for path in paths]
    encoders = [file for file in files if "encoder" in file.families]
    found = ", ".join(f"{file} in {file.path.name}" for file in files)
    if not encoders:
        raise CheckpointError(f"{where}: expected an encoder, found {found or 'no weights'}. {ACCEPTED}")
    if len(encoders) > 1 or len({family for file in files for family in file.families.values()}) > 1:
        raise CheckpointError(f"{where}: expected one small autoencoder, found {found}. Name one encoder's file.")
    (encoder,) = encoders
    family, decoders = (
        encoder.families["encoder"],
        [file.tensors["decoder"] for file in files if "decoder" in file.tensors],
    )
    name, decoder = f"{family.name} ({encoder.path.name})", decoders[0] if decoders else None
    return TinySurrogate(name, family, encoder.tensors["encoder"], decoder, device, **scaled)


def _read(path: Path) -> File:
    parts = halves(read_tensors(path))
    return File(path, parts, {half: family_of(half, found, str(path)) for half, found in parts.items()})


def _files(checkpoint: Path) -> list[Path]:
    """Those of a small autoencoder: the file named and the decoder's beside it, or what a folder has of them."""
    if checkpoint.is_file():
        return [checkpoint, *_beside(checkpoint)] if _is_tiny(checkpoint) else []
    if not checkpoint.is_dir() or any((checkpoint / name).exists() for name in (*PARTS, CONFIG)):
        return []
    return [path for path in sorted(checkpoint.iterdir()) if _is_tiny(path)]


def _beside(path: Path) -> list[Path]:
    name = path.stem.replace("encoder", "decoder")
    others = [path.with_name(name + suffix) for suffix in (path.suffix, *SUFFIXES)]
    return [other for other in others if name != path.stem and _is_tiny(other)][:1]


def _is_tiny(path: Path) -> bool:
    if path.suffix.lower() not in SUFFIXES or not path.is_file() or path.stat().st_size > MAX_BYTES:
        return False
    try:
        return tensors.is_tiny(read_tensors(path))
    except CheckpointError:  # told when it is read for good
        return "coder" in path.stem


def _diffusers_folder(checkpoint: Path) -> Path | None:
    """Where an AutoencoderTiny without a UNet lies, if this is one: the folder itself, or its vae/."""
    if any((checkpoint / name).is_dir() for name in ("unet", "transformer")):
        return None
    folder = checkpoint / "vae" if (checkpoint / "vae").is_dir() else checkpoint
    return folder if _config(folder).get("_class_name") == IN_DIFFUSERS else None


def _stored(folder: Path) -> list[Path]:
    """The weights of a diffusers folder, which may lie there in two precisions."""
    return sorted(folder.glob("*.safetensors"), key=lambda path: ".fp16." in path.name)[:1]


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
