"""This process, one picture after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..ending import told_to_end
from ..gallery.journal import Say
from ..gallery.task import Model, Outcome, Task, attempt
from ..hosts.headless import checkpoints, diffusers, memory
from ..pgd import OnStep, Progress
from . import model
from .bars import bar_for
from .model import ModelOptions

READ_LOSS_EVERY = 0.5  # seconds: reading a number waits for the device


@dataclass(frozen=True)
class HereOptions:
    """bars: show one for the picture at work."""

    model: ModelOptions = field(default_factory=ModelOptions)
    bars: bool = False


class HereRunner:
    """`mist_attack.runners.protocol.Runner` with one model, loaded when the first picture comes."""

    dies_with_its_worker = True

    def __init__(self, load: Callable[[], Model], *, bars: bool = False) -> None:
        self._load, self._bars = load, bars
        self._model: Model | None = None
        self._task: Task | None = None

    @property
    def has_room(self) -> bool:
        return self._task is None

    def submit(self, task: Task) -> None:
        self._task = task

    def wait(self) -> Outcome:
        assert self._task is not None
        self._model = self._model or self._load()
        task, self._task = self._task, None
        with bar_for(task, shown=self._bars) as bar:
            return attempt(task, self._model, _on_step(bar))

    def close(self) -> None:
        self._model = self._task = None


def _on_step(bar: Any) -> OnStep:
    due = 0.0

    def on_step(progress: Progress) -> None:
        nonlocal due
        bar.update(1)
        if told_to_end():
            raise KeyboardInterrupt
        if not bar.disable and time.monotonic() >= due:
            bar.set_postfix_str(f"loss {float(progress.loss):.4g}")
            due = time.monotonic() + READ_LOSS_EVERY

    return on_step


def loader(options: ModelOptions, target: Tensor | None, say: Say, complain: Say) -> Callable[[], Model]:
    """Loads the model into this process when called. Raises at once what can be known at once: CheckpointError,
    DeviceError and SettingsError."""
    checkpoint = checkpoints.find_checkpoint(options.checkpoint)
    diffusers.pick_device(options.device)
    model.set_threads(options.threads, complain)

    def load() -> Model:
        if taken := memory.in_words(checkpoint, getattr(torch, options.dtype)):
            say(taken)
        surrogate = model.load(options)
        say(f"{surrogate.name} on {surrogate.device}")
        if surrogate.is_demo:
            complain(model.DEMO_WARNING)
        return Model(surrogate, target)

    return load
