"""From the flags under "who computes" to a runner's options."""

from __future__ import annotations

import argparse
import math
import sys

import torch

from ..errors import SettingsError
from ..runners.choice import RunnerOptions
from ..runners.comfyui_remote.options import TIMEOUT, RemoteOptions
from ..runners.here import HereOptions
from ..runners.model import ModelOptions
from ..runners.ray import RayOptions

DEFAULT = "single"
FLAGS = {
    "ray": ("address", "workers", "gpus_per_worker"),
    "comfyui": ("url", "allow_remote", "timeout"),
}
"""Of one engine only."""


def runner_options(options: argparse.Namespace) -> RunnerOptions:
    """Raises SettingsError for a number that cannot be, for a flag of another engine, and for one that is missing."""
    _require_meant(options)
    bars = sys.stderr.isatty() and not options.quiet
    if options.engine == "comfyui":
        urls, seconds = tuple(options.url or ()), options.timeout or TIMEOUT
        return RemoteOptions(urls, options.checkpoint or "", options.allow_remote, seconds, bars)
    model = ModelOptions(options.checkpoint, options.device, options.dtype, options.threads)
    if options.engine == "ray":
        return RayOptions(model, options.address, options.workers, options.gpus_per_worker)
    return HereOptions(model, bars)


def _require_meant(options: argparse.Namespace) -> None:
    for engine, flags in FLAGS.items():
        for flag in flags:
            if engine != (options.engine or DEFAULT) and getattr(options, flag):
                raise SettingsError(f"--{flag.replace('_', '-')} is for --engine {engine}.")
    for name, least in (("threads", 1), ("workers", 1), ("gpus_per_worker", 0)):
        if (given := getattr(options, name)) is not None and not least <= given < math.inf:
            raise SettingsError(f"Expected --{name.replace('_', '-')} of at least {least}; got {given:g}.")
    if options.device is not None:
        require_device(options.device)
    if options.timeout is not None and not 0 < options.timeout < math.inf:
        raise SettingsError(f"Expected --timeout above 0 seconds; got {options.timeout:g}.")


def require_device(name: str) -> None:
    """As torch spells one. Raises SettingsError."""
    try:
        torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"Expected --device as torch spells it (cpu, cuda:1, mps); got {name}.") from error
