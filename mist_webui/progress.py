"""The web UI's progress bar, preview and interrupt, as the engine's `on_step`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modules import shared
from PIL import Image
from torch import Tensor

from mist_attack.errors import Stop
from mist_attack.pgd import OnStep, Progress
from mist_attack.pictures.reading import to_u8
from mist_attack.sets.alternation import OnSetStep, SetProgress

PREVIEW_EVERY = 0.5  # seconds: a preview waits for the device
STOPPED = "The set was interrupted before a picture was changed."
BORROWED = ("sampling_step", "sampling_steps", "textinfo", "current_latent")


def stopped() -> bool:
    """The user wants no more of it."""
    state = shared.state
    return state.interrupted or state.skipped or getattr(state, "stopping_generation", False)


@contextmanager
def shown(steps: int, text: str = "Mist") -> Iterator[OnStep]:
    """The state as a job of `steps`; its callback raises Stop when the user interrupts. As before afterwards."""
    state = shared.state
    before = {name: getattr(state, name) for name in BORROWED}
    # A latent left by sampling would be decoded for a preview, by the autoencoder that is at work here.
    state.current_latent, state.sampling_step, state.sampling_steps, state.textinfo = None, 0, steps, text
    try:
        yield _follower()
    finally:
        for name, value in before.items():
            setattr(state, name, value)


@contextmanager
def shown_of_set() -> Iterator[OnSetStep]:
    """The same over all rounds of a set."""
    with shown(0):
        yield _set_follower()


def _follower() -> OnStep:
    show = _previews()

    def on_step(progress: Progress) -> None:
        shared.state.sampling_step = progress.step
        if stopped():
            raise Stop
        show(progress.preview)

    return on_step


def _set_follower() -> OnSetStep:
    show = _previews()

    def on_step(progress: SetProgress) -> None:
        state, at_work = shared.state, progress.picture or "the LoRA learns"
        state.textinfo = f"Mist: round {progress.round} of {progress.rounds}, {at_work}"
        state.sampling_step, state.sampling_steps = progress.done, progress.steps
        if stopped():
            raise Stop(STOPPED)
        if progress.preview is not None:
            show(progress.preview)

    return on_step


def _previews() -> Callable[[Callable[[], Tensor]], None]:
    due = 0.0

    def show(preview: Callable[[], Tensor]) -> None:
        nonlocal due
        if shared.opts.live_previews_enable and time.monotonic() >= due:
            shared.state.assign_current_image(Image.fromarray(to_u8(preview())))
            due = time.monotonic() + PREVIEW_EVERY

    return show
