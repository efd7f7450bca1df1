"""Checkpoint files: where they are looked for, and what is inside them before anything is built from it."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import CheckpointError

ENVIRONMENT = "MIST_CHECKPOINT"
USUAL = Path("models/ldm/stable-diffusion-v1/model.ckpt")  # where Mist's own instructions put it
DEMO = Path(__file__).parents[2] / "demo"

ACCEPTED = (
    "Accepted: a Stable Diffusion 1, 2 or XL checkpoint in one .safetensors or .ckpt file, a folder in diffusers' "
    "layout (vae/, unet/ or transformer/, scheduler/, text encoders and tokenizers) of Stable Diffusion 1, 2, XL or 3, "
    "Flux, Flux 2, Qwen-Image or Z-Image, the encoder of a small autoencoder (TAESD, TAESDXL, TAESD3, TAEF1, TAEF2, "
    'TAESANA) as .pth, .safetensors or folder, or "demo".'
)

SUFFIXES = ".safetensors", ".ckpt", ".pth"

UNET_IN = "model.diffusion_model.input_blocks.0.0.weight"
VAE_IN = "first_stage_model.encoder.conv_in.weight"

LIGHTNING = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"

_AS_A_FOLDER = "Name the folder in diffusers' layout instead"

# Part of a key -> what a file with such a key is. The first match counts.
_FOREIGN = {
    "lora": "a LoRA",
    ".hada_w1": "a LyCORIS (LoHa)",
    "emb_params": "a textual inversion embedding",
    "string_to_param": "a textual inversion embedding",
    "control_model.": "a ControlNet",
    "controlnet_": "a ControlNet",
    "conditioner.embedders.0.model.": "the refiner of Stable Diffusion XL, which makes no picture from noise",
    "edm_mean": "an XL UNet that predicts as EDM does (Playground v2.5)",
    "joint_blocks.": f"Stable Diffusion 3. {_AS_A_FOLDER}",
    "double_blocks.": f"Flux. {_AS_A_FOLDER}",
}

SD_V1_KIND, SD_V2_KIND, SD_XL_KIND = "sd_v1", "sd_v2", "sd_xl"
_TEXT_ENCODERS = {
    "cond_stage_model.transformer.": SD_V1_KIND,
    "cond_stage_model.model.": SD_V2_KIND,
    "conditioner.embedders.1.model.": SD_XL_KIND,
}
"""Where a file keeps its text encoder, and which kind of file keeps it there."""


def find_checkpoint(requested: str | None = None) -> Path:
    """Path of the model to load: `requested`, else $MIST_CHECKPOINT, else models/ldm/stable-diffusion-v1/model.ckpt.

    "demo" and "demo:1" name the bundled demo models of seeds 0 and 1; nothing else leads to them. Raises
    CheckpointError where the first of the three that is given does not exist, or none is given.
    """
    named = requested or os.environ.get(ENVIRONMENT)
    if not named:
        return _usual()
    if named.partition(":")[0] == "demo":
        return _demo(named.partition(":")[2] or "0")
    path = Path(named).expanduser()
    if not path.exists():
        origin = "--checkpoint" if requested else ENVIRONMENT
        raise CheckpointError(f"{origin}: {named} does not exist. {ACCEPTED}")
    return path


def _usual() -> Path:
    if USUAL.is_file():
        return USUAL
    raise CheckpointError(
        f"No model. Looked at --checkpoint (not given), the variable {ENVIRONMENT} (not set) and {USUAL.as_posix()} "
        f"in {Path.cwd()} (not there). {ACCEPTED}"
    )


def demo_models() -> list[str]:
    """The names of the bundled demo models: demo:0, demo:1."""
    return [f"demo:{folder.name.removeprefix('seed')}" for folder in sorted(DEMO.glob("seed*"))]


def _demo(seed: str) -> Path:
    folder = DEMO / f"seed{seed}"
    if folder.is_dir():
        return folder
    raise CheckpointError(f"No demo model demo:{seed} in {DEMO}. There: {', '.join(demo_models()) or 'none'}.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .ckpt or .pth file by name, on the CPU, mapped from the disk where possible.

    Nothing in the file is executed. Raises CheckpointError where it is cut short, no checkpoint, or holds code.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: expected a .safetensors, .ckpt or .pth file. {ACCEPTED}")
    try:
        found: Any = load_file(path) if suffix == ".safetensors" else _read_pickle(path)
    except MemoryError:
        raise
    except Exception as error:  # a broken pickle may raise anything
        size = path.stat().st_size
        raise CheckpointError(f"{path} ({size} bytes) cannot be read: {_reason(error)}. {ACCEPTED}") from error
    while isinstance(found, Mapping) and "state_dict" in found:
        found = found["state_dict"]
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path}: expected named tensors, found a {type(found).__name__}. {ACCEPTED}")
    return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def _read_pickle(path: Path) -> Any:
    with _training_leftovers():
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _training_leftovers() -> AbstractContextManager[Any]:
    """Lets inert stand-ins take the place of what PyTorch Lightning leaves beside the weights (sd-v1-4.ckpt)."""
    safe_globals = getattr(torch.serialization, "safe_globals", None)  # torch >= 2.5
    if safe_globals is None:
        return nullcontext()
    names = {
        LIGHTNING.rpartition(".")[2]: LIGHTNING.rpartition(".")[0],
        "scalar": "numpy.core.multiarray",
        "dtype": "numpy",
        "encode": "_codecs",
    }
    return safe_globals([_stand_in(name, module) for name, module in names.items()])


def _stand_in(name: str, module: str) -> type:
    def ignore(self: object, *_: object) -> None:
        pass

    return type(name, (), {"__module__": module, "__init__": ignore, "__setstate__": ignore})


def _reason(error: Exception) -> str:
    code = re.search(r"GLOBAL (\S+)", str(error))
    if code and code[1] == LIGHTNING and not hasattr(torch.serialization, "safe_globals"):
        return f"it holds {LIGHTNING}, which only torch >= 2.5 can skip safely"
    if code:
        return f"it holds the Python object {code[1]}, and code in a checkpoint is never run"
    if isinstance(error, (pickle.UnpicklingError, EOFError, LookupError)):
        return "it is not a checkpoint"
    return str(error).partition(".")[0].partition("\n")[0]


def kind_of(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Which of the single files that we can read it is. Raises CheckpointError, naming what was found."""
    found = _what_else(tensors)
    if found:
        raise CheckpointError(f"{path}: expected Stable Diffusion 1, 2 or XL, found {found}. {ACCEPTED}")
    return next(kind for part, kind in _TEXT_ENCODERS.items() if any(key.startswith(part) for key in tensors))


def _what_else(tensors: Mapping[str, Tensor]) -> str | None:
    """Names what is not a whole Stable Diffusion 1, 2 or XL; None for what seems to be."""
    for part, name in _FOREIGN.items():
        if any(part in key for key in tensors):
            return name
    if UNET_IN not in tensors:
        return _fragment(tensors)
    if tensors[UNET_IN].shape[1] != 4:
        channels = tensors[UNET_IN].shape[1]
        return f"{'an inpainting' if channels == 9 else 'a'} UNet with {channels} input channels instead of 4"
    if VAE_IN not in tensors:
        return "a UNet without its VAE"
    known = any(key.startswith(tuple(_TEXT_ENCODERS)) for key in tensors)
    return None if known else "a UNet without its text encoder"


def _fragment(tensors: Mapping[str, Tensor]) -> str:
    if VAE_IN in tensors or "encoder.conv_in.weight" in tensors:
        return "a VAE alone"
    if "down_blocks.0.resnets.0.norm1.weight" in tensors:
        return "a UNet alone in diffusers' layout (name its folder instead)"
    first = next(iter(tensors), None)
    return f"{len(tensors)} tensors of another kind (the first: {first})" if first else "no tensors"
