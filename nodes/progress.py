"""Progress bar, live preview and cancel, between the engine's steps and ComfyUI."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.utils
from PIL import Image

if TYPE_CHECKING:
    from ..mist_attack.pgd import OnStep, Progress

PREVIEW_SECONDS = 0.5  # a preview waits for the device
PREVIEW_SIDE = 512  # pixels


class ProgressBar:
    """One bar over all pictures of a batch, with the picture so far at most twice a second."""

    def __init__(self, pictures: int, steps: int) -> None:
        self._bar = comfy.utils.ProgressBar(pictures * steps)
        self._total = pictures * steps
        self._shown = -PREVIEW_SECONDS

    def of_picture(self, index: int) -> OnStep:
        """The engine's `on_step` for one picture. Raises the host's exception when the user has cancelled."""

        def on_step(progress: Progress) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            self._bar.update_absolute(index * progress.steps + progress.step, self._total, self._preview(progress))

        return on_step

    def _preview(self, progress: Progress) -> tuple[str, Image.Image, int] | None:
        from ..mist_attack.pictures.reading import to_u8

        now = time.monotonic()
        if now - self._shown < PREVIEW_SECONDS:
            return None
        self._shown = now
        return "JPEG", Image.fromarray(to_u8(progress.preview())), PREVIEW_SIDE
