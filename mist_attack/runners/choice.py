"""Which engine the flags ask for, and with which model."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import CheckpointError, SettingsError
from ..gallery.journal import Say
from ..gallery.request import Order
from ..gallery.task import Engine, Model
from ..hosts.headless import checkpoints, diffusers

DEMO_WARNING = "This is the demo model: it demonstrates, and does not protect against real models."
SAMPLE = 2**20
"""Bytes of a checkpoint that are read at its begin, middle and end to tell it from others."""

OF_ENGINES = {
    "ray": ("address", "workers", "gpus_per_worker"),
    "comfyui": ("url", "allow_remote", "timeout"),
}


def engine_for(options: argparse.Namespace, order: Order, say: Say, complain: Say) -> Engine:
    """Raises SettingsError, and CheckpointError where no model is found; nothing is loaded or reached yet."""
    chosen = options.engine or "single"
    bars = sys.stderr.isatty() and not options.quiet
    if chosen == "comfyui":
        from .comfyui_remote import runner

        return runner.engine_for(options, order, complain, bars=bars)
    if chosen == "ray":
        from . import ray

        return ray.engine_for(options, order, say, complain)
    from .here import SingleEngine

    return SingleEngine(loader(options, order, say, complain), bars=bars)


def require_meant(options: argparse.Namespace) -> None:
    """Raises SettingsError for a number that cannot be, and for a flag of another engine."""
    for engine, flags in OF_ENGINES.items():
        for flag in flags:
            if engine != (options.engine or "single") and getattr(options, flag):
                raise SettingsError(f"--{flag.replace('_', '-')} is for --engine {engine}.")
    for name, least in (("threads", 1), ("workers", 1), ("gpus_per_worker", 0)):
        if (given := getattr(options, name)) is not None and not least <= given < math.inf:
            raise SettingsError(f"Expected --{name.replace('_', '-')} of at least {least}; got {given:g}.")
    if options.device is not None:
        _require_device(options.device)
    if options.timeout is not None and not 0 < options.timeout < math.inf:
        raise SettingsError(f"Expected --timeout above 0 seconds; got {options.timeout:g}.")


def _require_device(name: str) -> None:
    try:
        torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"Expected --device as torch spells it (cpu, cuda:1, mps); got {name}.") from error


def loader(options: argparse.Namespace, order: Order, say: Say, complain: Say) -> Callable[[], Model]:
    """Loads the model into this process when called. Raises at once what can be known at once."""
    checkpoint = checkpoints.find_checkpoint(options.checkpoint)
    device = diffusers.pick_device(options.device)
    set_threads(options.threads, complain)

    def load() -> Model:
        surrogate = diffusers.load(checkpoint, device, getattr(torch, options.dtype))
        say(f"{surrogate.name} on {surrogate.device}")
        if surrogate.is_demo:
            complain(DEMO_WARNING)
        return Model(surrogate, order.target)

    return load


def set_threads(threads: int | None, complain: Say) -> None:
    """At most as many as the machine has processors for this process."""
    if threads is None:
        return
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads > there:
        complain(f"--threads {threads}: this machine has {there}, and {there} are used.")
    torch.set_num_threads(min(threads, there))


def model_key(options: argparse.Namespace) -> str:
    """Another one for another checkpoint or dtype; the same on every machine."""
    if options.engine == "comfyui":
        return f"comfyui {options.checkpoint}"
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
