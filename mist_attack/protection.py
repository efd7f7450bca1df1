"""The way of a picture, from top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from .attack import Attack, Protected
from .attack import objectives_for as objectives_for
from .errors import PictureError
from .needs import NEEDS
from .objectives import ESTIMATES
from .pgd import OnStep
from .settings import Settings
from .surrogate import Conditioning, Surrogate, out_of_memory
from .views import plan

Result = TypeVar("Result")


def protect(
    images: Tensor,
    surrogate: Surrogate,
    settings: Settings,
    *,
    mask: Tensor | None = None,
    target: Tensor | None = None,
    conditioning: object = None,
    on_step: OnStep | None = None,
) -> Protected:
    """Perturb pictures within `settings.epsilon` so that models like `surrogate` mis-read them.

    images: (B, 3, H, W) in [0, 1]; the budget counts from round(255 * images). mask: (1 or B, 1, H, W) in [0, 1],
    1 = may change, scaling the budget; None allows all. target: (1, 3, h, w), in place of the named pattern.
    conditioning: in place of settings.prompt. on_step: see pgd.Progress; raising Stop keeps what is reached.
    Each picture is treated alone, with its own generator: results do not depend on the batch.
    Where memory runs out a picture is done again in thriftier ways, which its report says; `on_step` starts again.
    Raises PictureError, SettingsError, GradientError, BudgetError, and torch's own error where memory is not enough for
    any way; `images` is never written to.
    """
    mask = check(images, mask, target)
    if conditioning is None:
        conditioning = prompt_for(surrogate, settings)
    settings, notices = _possible(settings, surrogate)
    job = Job(surrogate, settings, target, conditioning, notices)

    def work(attack: Attack, job: Job) -> Protected:
        return attack.protect(on_step, job.notices)

    results = [job.of(images[i : i + 1], mask[i : i + 1], work) for i in range(len(images))]
    return Protected(torch.cat([result.images for result in results]), [r for x in results for r in x.reports])


def _possible(settings: Settings, surrogate: Surrogate) -> tuple[Settings, tuple[str, ...]]:
    """The same request, or with `sds` where the gradient goes through a denoiser that cannot be differentiated."""
    through = NEEDS[settings.objective].denoiser and ESTIMATES[settings.gradient].through
    if surrogate.differentiable or not through:
        return settings, ()
    told = (
        f"gradient {settings.gradient} goes through the model, and nobody has checked the derivative of "
        f"{surrogate.name}: sds took its place"
    )
    return replace(settings, gradient="sds"), (told,)


def prompt_for(surrogate: Surrogate, settings: Settings) -> Conditioning | None:
    """The settings' prompt encoded, where their objective needs it. Raises CheckpointError."""
    return surrogate.conditioning(settings.prompt) if NEEDS[settings.objective].denoiser else None


def check(images: Tensor, mask: Tensor | None = None, target: Tensor | None = None) -> Tensor:
    """Refuse what cannot be protected; the mask for every picture of the batch. Raises PictureError."""
    _check_picture("pictures", images)
    if target is not None:
        _check_picture("a target", target)
    batch, _, height, width = images.shape
    if mask is None:
        return images.new_ones(1, 1, 1, 1, dtype=torch.float32).expand(batch, 1, height, width)
    if mask.ndim != 4 or mask.shape[0] not in (1, batch) or mask.shape[1:] != (1, height, width):
        raise PictureError(
            f"Expected a mask of shape (1 or {batch}, 1, {height}, {width}), as large as the picture; "
            f"got {tuple(mask.shape)}."
        )
    _check_range("a mask", mask)
    return mask.float().expand(batch, 1, height, width)


def _check_picture(name: str, images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise PictureError(f"Expected {name} of shape (B, 3, H, W) with no empty side; got {tuple(images.shape)}.")
    _check_range(name, images)


def _check_range(name: str, values: Tensor) -> None:
    low, high = values.aminmax()
    if not (float(low) >= 0 and float(high) <= 1):
        raise PictureError(f"Expected {name} with values in [0, 1]; got {float(low):g} to {float(high):g}.")


@dataclass(frozen=True)
class Job:
    """What is asked of pictures, and how: thriftier where memory runs out, which `notices` say."""

    surrogate: Surrogate
    settings: Settings
    target: Tensor | None = None
    conditioning: object = None
    notices: tuple[str, ...] = ()

    def of(self, image: Tensor, mask: Tensor, work: Callable[[Attack, Job], Result]) -> Result:
        """`work` with the attack on one picture, within a run of the model, and with the job as it is done."""
        job: Job = self
        thriftier = self._thriftier()
        while True:
            try:
                return job._run(image, mask, work)
            except (RuntimeError, MemoryError) as error:
                if not thriftier or not out_of_memory(error):
                    raise
            job = thriftier.pop(0)  # outside the handler: the error's traceback holds the tensors of the failed way

    def _thriftier(self) -> list[Job]:
        """The low-VRAM way, then tiles of half the side."""
        sparing, side = replace(self.settings, low_vram=True), max(64, self.settings.working_size // 2)
        tiled = replace(sparing, view="tiles", working_size=side)
        told = f"Memory ran out: done in tiles of {side} pixels, so the model saw less of the picture at once."
        tiles = replace(self, settings=tiled, notices=(*self.notices, told))
        if self.settings.low_vram:
            return [tiles]
        told = "Memory ran out: done in the low-VRAM way."
        return [replace(self, settings=sparing, notices=(*self.notices, told)), tiles]

    def _run(self, image: Tensor, mask: Tensor, work: Callable[[Attack, Job], Result]) -> Result:
        height, width = image.shape[2:]
        settings, multiple = self.settings, self.surrogate.spatial_multiple(self.settings.objective)
        views = plan(height, width, settings.view, settings.working_size, multiple)
        return self.surrogate.run(
            lambda ready: work(Attack(ready, image, mask, views, settings, self.target, self.conditioning), self),
            1,
            max(view.model_height for view in views),
            max(view.model_width for view in views),
            low_vram=settings.low_vram,
        )
