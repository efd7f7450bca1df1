"""What the files of a small autoencoder hold, told by their tensors: which family, which half, in which layout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...errors import CheckpointError
from .checkpoints import SUFFIXES, read_tensors
from .tiny_modules import FAMILIES, Family

Half = Literal["encoder", "decoder"]
HALVES: tuple[Half, ...] = ("encoder", "decoder")
MAX_BYTES = 64 * 2**20
"""Of a file that may be one: no large model is read twice."""
CONFIG, DIFFUSERS_CLASS = "config.json", "AutoencoderTiny"
ACCEPTED = (
    "Accepted: the encoder of a TAESD, TAESDXL, TAESD3, TAEF1, TAEF2 or TAESANA (.pth, .safetensors), or a folder "
    "with one of them."
)
KEY = re.compile(r"(?:(?:taesd_)?(encoder|decoder)\.)?(layers\.)?(\d+)\.(.+)")
"""Of a tensor: in the published files, in ComfyUI's of both halves, and in diffusers' layout."""


@dataclass
class Weights:
    """Of one autoencoder, as the modules of `family` have them. scale, shift: latents are (encoded - shift) * scale."""

    name: str
    family: Family
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor] | None = None
    scale: float = 1.0
    shift: float = 0.0


@dataclass
class Found:
    """What one file holds: the family of each half."""

    path: Path
    tensors: dict[Half, dict[str, Tensor]]
    families: dict[Half, Family] = field(default_factory=dict)


def is_tiny(checkpoint: Path) -> bool:
    """Whether this is a small autoencoder, or a part of one: `read` says what may be wrong with it."""
    if checkpoint.is_dir():
        return _class_in(_diffusers_folder(checkpoint)) == DIFFUSERS_CLASS or bool(_loose_files(checkpoint))
    return _looks_tiny(checkpoint)


def read(checkpoint: Path) -> Weights:
    """The weights in a file, with the other half if it lies beside it, or in a folder. Raises CheckpointError."""
    if not checkpoint.is_dir():
        return _from_files([checkpoint, *_beside(checkpoint)])
    folder = _diffusers_folder(checkpoint)
    if _class_in(folder) == DIFFUSERS_CLASS:
        return _from_diffusers(folder)
    return _from_files(_loose_files(checkpoint))


def _from_files(paths: list[Path]) -> Weights:
    found = [_found(path) for path in paths]
    encoders = [file for file in found if "encoder" in file.families]
    if not encoders:
        raise CheckpointError(f"{paths[0]}: expected an encoder, found {_in_words(found)}. {ACCEPTED}")
    names = {family.name for file in found for family in file.families.values()}
    if len(encoders) > 1 or len(names) > 1:
        raise CheckpointError(
            f"{paths[0].parent}: expected one small autoencoder, found {_in_words(found)}. Name one encoder's file."
        )
    encoder = encoders[0]
    decoders = [file.tensors["decoder"] for file in found if "decoder" in file.families]
    family = encoder.families["encoder"]
    return Weights(
        f"{family.name} ({encoder.path.name})", family, encoder.tensors["encoder"], decoders[0] if decoders else None
    )


def _from_diffusers(folder: Path) -> Weights:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: expected a .safetensors file beside {CONFIG}, found none. {ACCEPTED}")
    weights, config = _from_files(files[:1]), _config(folder)
    weights.scale = float(config.get("scaling_factor") or 1.0)
    weights.shift = float(config.get("shift_factor") or 0.0)
    return weights


def _found(path: Path) -> Found:
    halves = _halves(read_tensors(path))
    found = Found(path, halves)
    for half, tensors in halves.items():
        found.families[half] = _family(path, half, tensors)
    return found


def _halves(tensors: Mapping[str, Tensor]) -> dict[Half, dict[str, Tensor]]:
    """By half, each tensor under its number in the published files; diffusers' decoders leave out the first layer."""
    found: dict[Half, dict[str, Tensor]] = {}
    alone = _half_alone(tensors)
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match:
            half: Half = match[1] or alone  # type: ignore[assignment]
            number = int(match[3]) + (half == "decoder" and match[2] is not None)
            found.setdefault(half, {})[f"{number}.{match[4]}"] = tensor
    return found


def _half_alone(tensors: Mapping[str, Tensor]) -> Half:
    """Of a file whose keys do not say it: a decoder ends with a picture."""
    numbers = [int(match[3]) for key in tensors if (match := KEY.fullmatch(key))]
    last = tensors.get(f"{max(numbers, default=0)}.weight")
    return "decoder" if last is not None and last.shape[0] == 3 else "encoder"


def _family(path: Path, half: Half, tensors: Mapping[str, Tensor]) -> Family:
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    for family in FAMILIES:
        if shapes == _shapes(family, half):
            return family
    raise CheckpointError(f"{path}: found {_unknown(half, shapes)}. {ACCEPTED}")


@cache
def _shapes(family: Family, half: Half) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        module = getattr(family, half)()
    return {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


def _unknown(half: Half, shapes: Mapping[str, tuple[int, ...]]) -> str:
    for family in FAMILIES:
        known = _shapes(family, half)
        missing = known.keys() - shapes.keys()
        if missing and shapes.items() <= known.items() and len(missing) < len(known) / 2:
            return f"the {half} of {family.name} with {len(missing)} of {len(known)} tensors missing"
    halvings = [key for key in shapes if re.fullmatch(r"\d+\.weight", key) and key[:-6] + "bias" not in shapes]
    first, last = (shapes.get(f"{pick(_numbers(shapes))}.weight", ()) for pick in (min, max))
    channels = f"{first[1] if first else '?'} channels in and {last[0] if last else '?'} out"
    return f"the {half} of a small autoencoder of another shape, with {channels} and {len(halvings)} changes of scale"


def _numbers(shapes: Mapping[str, object]) -> list[int]:
    return [int(key.partition(".")[0]) for key in shapes]


def _in_words(found: list[Found]) -> str:
    said = [
        f"the {half} of {family.name} ({file.path.name})" for file in found for half, family in file.families.items()
    ]
    return " and ".join(said) or "no tensors"


def _looks_tiny(path: Path) -> bool:
    if path.suffix.lower() not in SUFFIXES or not path.is_file() or path.stat().st_size > MAX_BYTES:
        return False
    try:
        tensors = read_tensors(path)
    except CheckpointError:
        return False
    return bool(tensors) and any(KEY.fullmatch(key) and ".conv.0.weight" in key for key in tensors)


def _beside(path: Path) -> list[Path]:
    """The decoder's file, of an encoder's."""
    name = path.stem.replace("encoder", "decoder")
    if name == path.stem:
        return []
    other = [path.with_name(name + suffix) for suffix in (path.suffix, *SUFFIXES)]
    return [file for file in other if _looks_tiny(file)][:1]


def _loose_files(folder: Path) -> list[Path]:
    """Small autoencoders in a folder that is no diffusers model: hosts keep them in one."""
    if any((folder / name).exists() for name in ("unet", "vae", "transformer", "model_index.json", CONFIG)):
        return []
    return [file for file in sorted(folder.iterdir()) if _looks_tiny(file)]


def _diffusers_folder(folder: Path) -> Path:
    """With the autoencoder's files."""
    alone = (folder / "vae").is_dir() and not any((folder / name).is_dir() for name in ("unet", "transformer"))
    return folder / "vae" if alone else folder


def _class_in(folder: Path) -> str | None:
    return _config(folder).get("_class_name") if (folder / CONFIG).is_file() else None


def _config(folder: Path) -> dict:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
