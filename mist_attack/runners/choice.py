"""The runner that the options describe, and what tells its model from others."""

from __future__ import annotations

from typing import TypeAlias

from ..gallery.journal import Say
from ..gallery.request import Request
from . import model
from .comfyui_remote.options import RemoteOptions
from .here import HereOptions, HereRunner, loader
from .protocol import Runner
from .ray import RayOptions, RayRunner

RunnerOptions: TypeAlias = HereOptions | RayOptions | RemoteOptions


def runner_for(options: RunnerOptions, request: Request, say: Say, complain: Say) -> Runner:
    """Raises SettingsError, and CheckpointError where no model is found; nothing is loaded or reached yet."""
    if isinstance(options, HereOptions):
        return HereRunner(loader(options.model, request.target, say, complain), bars=options.bars)
    if isinstance(options, RayOptions):
        return RayRunner(options, request.target, say, complain)
    options.require_packages()
    from .comfyui_remote.runner import RemoteRunner

    return RemoteRunner(options, request.target, complain)


def model_key(options: RunnerOptions) -> str:
    """Another one for another model; the same on every machine."""
    if isinstance(options, RemoteOptions):
        return f"comfyui {options.checkpoint}"
    return model.key(options.model)
