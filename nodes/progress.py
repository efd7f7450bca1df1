"""Progress bar, live preview and cancel, between the engine's steps and ComfyUI."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ..mist_attack.pgd import OnStep, Progress
    from ..mist_attack.sets.alternation import SetProgress

PREVIEW_SECONDS = 0.5  # a preview waits for the device
PREVIEW_SIDE = 512  # pixels


class ProgressBar:
    """One bar over all pictures of a batch, with the picture so far at most twice a second."""

    def __init__(self, pictures: int, steps: int) -> None:
        self._bar = comfy.utils.ProgressBar(pictures * steps)
        self._total = pictures * steps
        self._previews = _Previews()

    def of_picture(self, index: int) -> OnStep:
        """The engine's `on_step` for one picture. Raises the host's exception when the user has cancelled."""

        def on_step(progress: Progress) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            done = index * progress.steps + progress.step
            self._bar.update_absolute(done, self._total, self._previews.next(progress.preview))

        return on_step


class SetBar:
    """One bar over all rounds of a set."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._previews = _Previews()

    def on_step(self, progress: SetProgress) -> None:
        """Raises the host's exception when the user has cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar = self._bar or comfy.utils.ProgressBar(progress.steps)
        preview = None if progress.preview is None else self._previews.next(progress.preview)
        self._bar.update_absolute(progress.done, progress.steps, preview)


class _Previews:
    """At most twice a second."""

    def __init__(self) -> None:
        self._shown = -PREVIEW_SECONDS

    def next(self, preview: Callable[[], Tensor]) -> tuple[str, Image.Image, int] | None:
        from ..mist_attack.pictures.reading import to_u8

        now = time.monotonic()
        if now - self._shown < PREVIEW_SECONDS:
            return None
        self._shown = now
        return "JPEG", Image.fromarray(to_u8(preview())), PREVIEW_SIDE
