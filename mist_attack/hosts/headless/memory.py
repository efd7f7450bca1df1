"""What a model will take, from the headers of its files and before anything of it is read."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from ...devices import available_bytes
from ...errors import CheckpointError

GIB = 2**30
WORTH_A_WORD = 4 * GIB
"""A model that takes less is loaded without a word."""
DENOISERS, TEXT = ("unet", "transformer"), "text_encoder"
OF_A_FILE = {"model.diffusion_model.": "unet", "first_stage_model.": "vae"}
"""Where a single file has which part; the rest is its text encoders."""


@dataclass(frozen=True)
class Needed:
    """Bytes. text: besides, for as long as a prompt is read."""

    denoiser: int
    autoencoder: int
    text: int
    dtype: torch.dtype

    @property
    def loaded(self) -> int:
        return self.denoiser + self.autoencoder

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.loaded / GIB:.1f} GiB of memory (denoiser {self.denoiser / GIB:.1f} in {kind}, autoencoder "
            f"{self.autoencoder / GIB:.1f} in float32), and {self.text / GIB:.1f} more while a prompt is read"
        )


def needed(checkpoint: Path, dtype: torch.dtype) -> Needed | None:
    """None for files whose headers do not tell (.ckpt). Raises CheckpointError where one is broken."""
    if not checkpoint.is_dir() and checkpoint.suffix.lower() != ".safetensors":
        return None
    try:
        numbers = _of_folder(checkpoint) if checkpoint.is_dir() else _of_file(checkpoint)
    except Exception as error:  # a broken header may raise anything
        raise CheckpointError(f"{checkpoint} cannot be read: {str(error).partition(chr(10))[0]}.") from error
    denoiser = sum(numbers[part] for part in DENOISERS) * dtype.itemsize
    text = sum(count for part, count in numbers.items() if part.startswith(TEXT)) * dtype.itemsize
    return Needed(denoiser, numbers["vae"] * torch.float32.itemsize, text, dtype)


def require(checkpoint: Path, dtype: torch.dtype, device: torch.device) -> None:
    """Raises CheckpointError, which says what to do, where the weights alone are more than there is."""
    asked = needed(checkpoint, dtype)
    for place in {torch.device("cpu"), device}:
        there = available_bytes(place)
        if asked is None or there is None or asked.loaded <= there:
            continue
        raise CheckpointError(
            f"{checkpoint} takes {asked}; {place} has {there / GIB:.1f} GiB free. {_advice(checkpoint, dtype)}"
        )


def _advice(checkpoint: Path, dtype: torch.dtype) -> str:
    halved = "--dtype bfloat16 halves what the denoiser takes. " if dtype.itemsize > 2 else ""
    alone = f" (--checkpoint {checkpoint / 'vae'})" if (checkpoint / "vae").is_dir() else ""
    return f"{halved}The objective textural needs the autoencoder alone{alone}; ComfyUI and Forge load parts at a time."


def in_words(checkpoint: Path, dtype: torch.dtype) -> str | None:
    """What loading it will take, where that is worth a word."""
    asked = needed(checkpoint, dtype)
    if asked is None or asked.loaded + asked.text < WORTH_A_WORD:
        return None
    return f"{checkpoint.name} takes {asked}"


def _of_folder(folder: Path) -> Counter[str]:
    """Numbers by the name of the part; an autoencoder alone is its own folder."""
    parts = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    found = Counter({part.name: sum(_counted(file).total() for file in _weights_in(part)) for part in parts})
    if not found.total():
        found["vae"] = sum(_counted(file).total() for file in _weights_in(folder))
    return found


def _weights_in(folder: Path) -> list[Path]:
    """The same weights may lie there a second time, in half precision."""
    files = sorted(folder.glob("*.safetensors"))
    return [file for file in files if ".fp16" not in file.name] or files


def _of_file(path: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, count in _counted(path).items():
        found[next((part for prefix, part in OF_A_FILE.items() if name.startswith(prefix)), TEXT)] += count
    return found


def _counted(path: Path) -> Counter[str]:
    with safe_open(str(path), "pt") as file:
        return Counter({name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
