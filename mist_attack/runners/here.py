"""This process: one picture after the other at the model, and their files beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..ending import told_to_end
from ..gallery.journal import Say
from ..gallery.task import Model, Outcome, Task, computing
from ..hosts.headless import checkpoints, diffusers, memory
from ..pgd import OnStep, Progress
from . import model
from .bars import bar_for
from .line import Flight, Line
from .model import ModelOptions

T = TypeVar("T")
READ_LOSS_EVERY = 0.5  # seconds: reading a number waits for the device
WINDING_UP = 8.0
"""Seconds that an interrupted gallery has to end in: an upload that hangs takes minutes, and who stops a container
kills it after ten."""


@dataclass(frozen=True)
class HereOptions:
    """bars: show one for the picture at work."""

    model: ModelOptions = field(default_factory=ModelOptions)
    bars: bool = False


class HereRunner:
    """`mist_attack.runners.protocol.Runner` with one model, loaded when the first picture comes.

    The model works in the thread that calls `alongside`: signals and torch's threads are the main thread's. The next
    pictures are read beside it, and files are made of the last ones. Outcomes come in the order of the tasks.
    """

    dies_with_its_worker = True

    def __init__(self, load: Callable[[], Model], *, bars: bool = False) -> None:
        self._load, self._bars = load, bars
        self._model: Model | None = None
        self._line = Line()

    def alongside(self, work: Callable[[], T]) -> T:
        done: Future[T] = Future()
        done.add_done_callback(lambda _: self._line.close())
        gallery = Thread(target=_fulfil, args=(done, work), name="mist-gallery", daemon=True)
        try:
            gallery.start()
            while flight := self._line.next():
                self._compute(flight)
            return done.result()
        except BaseException as error:
            self._line.fail(error)
            patience = None if isinstance(error, Exception) else WINDING_UP
            if gallery.ident is not None and wait([done], patience).done:
                done.result()  # what the gallery has to say of it, or failed with before
            raise

    @property
    def has_room(self) -> bool:
        return self._line.has_room

    def submit(self, task: Task) -> None:
        self._line.add(task)

    def wait(self) -> Outcome:
        return self._line.first_outcome()

    def withdraw(self) -> list[Task]:
        return self._line.withdraw()

    def close(self) -> None:
        self._line.close()

    def _compute(self, flight: Flight) -> None:
        self._model = self._model or self._load()
        with bar_for(flight.task, shown=self._bars) as bar:
            step = _on_step(bar, self._line.is_closed)
            self._line.settle(flight, computing(flight.task, flight.opened.result, self._model, step))


def _fulfil(done: Future[T], work: Callable[[], T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)


def _on_step(bar: Any, is_closed: Callable[[], bool] = lambda: False) -> OnStep:
    due = 0.0

    def on_step(progress: Progress) -> None:
        nonlocal due
        bar.update(1)
        if told_to_end() or is_closed():
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
