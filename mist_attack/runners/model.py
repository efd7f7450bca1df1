"""The model that is loaded into a process of ours: which one, onto what, and what tells it from others."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ..devices import pick_device
from ..errors import CheckpointError
from ..gallery.journal import Say
from ..hosts.headless import checkpoints, choice
from ..importing import uncollected

DEMO_WARNING = "This is the demo model: it demonstrates, and does not protect against real models."
SAMPLE = 2**20
"""Bytes of a checkpoint that are read at its begin, middle and end to tell it from others."""


@dataclass(frozen=True)
class ModelOptions:
    """checkpoint: a file, a folder, "demo", or None for the usual place. device: as torch spells it, or None for the
    accelerator, if any. dtype: the UNet's. threads: the CPU's, or None for as many as torch takes."""

    checkpoint: str | None = None
    device: str | None = None
    dtype: str = "float32"
    threads: int | None = None


def load(options: ModelOptions) -> choice.Headless:
    """Raises CheckpointError, DeviceError and SettingsError."""
    checkpoint, device = checkpoints.find_checkpoint(options.checkpoint), pick_device(options.device)
    with uncollected():  # diffusers is imported here
        return choice.load(checkpoint, device, getattr(torch, options.dtype))


def processors() -> int:
    """That the machine has for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def bounded(threads: int, complain: Say) -> int:
    """At most as many as there are processors."""
    if threads > processors():
        complain(
            f"--threads {threads}: this machine has {processors()} processors, so {processors()} threads are used."
        )
    return min(threads, processors())


def set_threads(threads: int | None, complain: Say) -> None:
    if threads is not None:
        torch.set_num_threads(bounded(threads, complain))


def key(options: ModelOptions) -> str:
    """Another one for another checkpoint or dtype; the same on every machine."""
    return f"{fingerprint(checkpoints.find_checkpoint(options.checkpoint))} {options.dtype}"


def fingerprint(checkpoint: Path) -> str:
    """Of the sizes and samples of its files: a whole hash would take longer than many a picture."""
    digest = hashlib.sha256()
    try:
        files = [checkpoint] if checkpoint.is_file() else sorted(checkpoint.rglob("*.*"))
        for file in files:
            if file.is_file():
                digest.update(_sampled(file))
    except OSError as error:
        raise CheckpointError(f"{checkpoint} cannot be read ({error.strerror or error}).") from error
    return digest.hexdigest()[:16]


def _sampled(path: Path) -> bytes:
    size = path.stat().st_size
    digest = hashlib.sha256(f"{path.name} {size}".encode("utf-8", "surrogateescape"))
    with path.open("rb") as file:
        for start in (0, size // 2, max(0, size - SAMPLE)):
            file.seek(start)
            digest.update(file.read(SAMPLE))
    return digest.digest()
