"""The way of a picture, from top to bottom."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .budget import FORGIVEN, Budget, budget_for, to_levels, to_unit
from .errors import PictureError
from .loss import PictureLoss
from .needs import NEEDS
from .objectives import ESTIMATES, Fused, LatentObjective, build
from .pgd import OnStep, pgd
from .randomness import noise_like, seeded
from .report import Report, latent_figures, pixel_figures
from .settings import Settings
from .surrogate import Conditioning, Surrogate, out_of_memory
from .targets import PatternTarget, PictureTarget
from .turns import Turns
from .views import View, plan


@dataclass(frozen=True)
class Protected:
    """images: (B, 3, H, W) float32; changed values lie on the 8-bit grid, masked-out ones are those given."""

    images: Tensor
    reports: list[Report]


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
    job = _Job(surrogate, settings, target, conditioning, on_step, notices)
    results = [job.protect(images[i : i + 1], mask[i : i + 1]) for i in range(len(images))]
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
class _Job:
    surrogate: Surrogate
    settings: Settings
    target: Tensor | None
    conditioning: object
    on_step: OnStep | None
    notices: tuple[str, ...] = ()

    def protect(self, image: Tensor, mask: Tensor) -> Protected:
        job: _Job = self
        thriftier = self._thriftier()
        while True:
            try:
                return job._run(image, mask)
            except (RuntimeError, MemoryError) as error:
                if not thriftier or not out_of_memory(error):
                    raise
            job = thriftier.pop(0)  # outside the handler: the error's traceback holds the tensors of the failed way

    def _thriftier(self) -> list[_Job]:
        """The low-VRAM way, then tiles of half the side."""
        sparing, side = replace(self.settings, low_vram=True), max(64, self.settings.working_size // 2)
        tiled = replace(sparing, view="tiles", working_size=side)
        told = f"Memory ran out: done in tiles of {side} pixels, so the model saw less of the picture at once."
        tiles = replace(self, settings=tiled, notices=(*self.notices, told))
        if self.settings.low_vram:
            return [tiles]
        told = "Memory ran out: done in the low-VRAM way."
        return [replace(self, settings=sparing, notices=(*self.notices, told)), tiles]

    def _run(self, image: Tensor, mask: Tensor) -> Protected:
        height, width = image.shape[2:]
        multiple = self.surrogate.spatial_multiple(self.settings.objective)
        views = plan(height, width, self.settings.view, self.settings.working_size, multiple)
        return self.surrogate.run(
            lambda ready: self._attack(ready, image, mask, views),
            1,
            max(view.model_height for view in views),
            max(view.model_width for view in views),
            low_vram=self.settings.low_vram,
        )

    def _attack(self, ready: Surrogate, image: Tensor, mask: Tensor, views: list[View]) -> Protected:
        begun, settings = time.perf_counter(), self.settings
        generator = seeded(ready.device, settings.seed)
        source = image.to(ready.device, torch.float32)
        budget = budget_for(source, mask, settings)
        original = to_levels(budget.x0)
        height, width = image.shape[2:]
        objectives, target_name = objectives_for(ready, settings, views, height, width, self.target, self.conditioning)
        loss = PictureLoss(ready, views, objectives, generator, Turns(settings.transforms, settings.seed))

        first = loss.latents(budget.x0)
        movable = bool(budget.allowed.any())
        protected, done = self._descend(loss, budget, generator) if movable else (original, 0)
        last = loss.latents(to_unit(protected))
        noisy = loss.latents(to_unit(noise_like(original, protected, settings.seed)))

        report = Report(
            model=ready.name,
            settings=settings.as_dict(),
            target=target_name,
            width=width,
            height=height,
            steps_done=done,
            stopped=movable and done < settings.steps,
            seconds=round(time.perf_counter() - begun, 3),
            before=loss.figures(first, settings.seed),
            after=loss.figures(last, settings.seed),
            gradient_ratio=_gradient_ratio(objectives),
            notices=[*self.notices, *_of_no_strength(settings)],
            **latent_figures(first, last, noisy),
            **pixel_figures(original.cpu(), protected.cpu(), settings.epsilon * 255),
        )
        result = torch.where(budget.reach > 0, to_unit(protected), source)
        budget.check(to_levels(result))
        return Protected(result.to(image.device), [report])

    def _descend(self, loss: PictureLoss, budget: Budget, generator: torch.Generator) -> tuple[Tensor, int]:
        """The protected picture in levels, and the steps done."""
        settings = self.settings
        x, done = pgd(
            loss,
            budget,
            step_size=settings.step_size,
            steps=settings.steps,
            decay=settings.step_decay,
            momentum=settings.momentum,
            generator=generator if settings.random_start else None,
            on_step=self.on_step,
        )
        return budget.quantize(x), done


def objectives_for(
    ready: Surrogate,
    settings: Settings,
    views: list[View],
    height: int,
    width: int,
    target: Tensor | None = None,
    conditioning: object = None,
) -> tuple[list[LatentObjective], str | None]:
    """One per view of a (height, width) picture, and the target's name: target latents once per distinct crop of the
    target. Within `Surrogate.run`; target as in `protect`, conditioning as the surrogate made it."""
    if not NEEDS[settings.objective].target:
        return [build(settings, ready, None, conditioning) for _ in views], None
    pulled = PatternTarget(settings.target) if target is None else PictureTarget(target, height, width)
    latents: dict[object, Tensor] = {}
    for view in views:
        if pulled.key(view) not in latents:
            with torch.no_grad():
                latents[pulled.key(view)] = ready.encode(pulled.seen(view).to(ready.device, torch.float32))
    return [build(settings, ready, latents[pulled.key(view)], conditioning) for view in views], pulled.name


def _of_no_strength(settings: Settings) -> list[str]:
    if settings.strength_levels + FORGIVEN >= 1:
        return []
    return [f"strength {settings.strength_levels:g} changes nothing: the pixels are the original's"]


def _gradient_ratio(objectives: list[LatentObjective]) -> float | None:
    ratios = [ratio for objective in objectives if isinstance(objective, Fused) for ratio in objective.ratios]
    mean = float(torch.stack(ratios).mean()) if ratios else math.inf
    return mean if math.isfinite(mean) else None
