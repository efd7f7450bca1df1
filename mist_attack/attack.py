"""One picture within a run of the model: its budget, its loss, the steps, and what came of them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .budget import FORGIVEN, budget_for, to_levels, to_unit
from .errors import Stop
from .loss import PictureLoss
from .needs import NEEDS
from .objectives import Fused, LatentObjective, build
from .pgd import OnStep, Stops, pgd
from .randomness import noise_like, seeded
from .report import Report, latent_figures, pixel_figures
from .settings import Settings
from .surrogate import Surrogate
from .targets import PatternTarget, PictureTarget
from .turns import Turns
from .views import View


@dataclass(frozen=True)
class Protected:
    """images: (B, 3, H, W) float32; changed values lie on the 8-bit grid, masked-out ones are those given."""

    images: Tensor
    reports: list[Report]


class Attack:
    """image: (1, 3, H, W) in [0, 1], mask: (1, 1, H, W); target and conditioning as in `protect`. Made, and used,
    within `Surrogate.run`, in which `ready` is what the model is asked through."""

    def __init__(
        self,
        ready: Surrogate,
        image: Tensor,
        mask: Tensor,
        views: list[View],
        settings: Settings,
        target: Tensor | None = None,
        conditioning: object = None,
    ) -> None:
        self.begun = time.perf_counter()
        self.ready, self.settings, self.home = ready, settings, image.device
        self.generator = seeded(ready.device, settings.seed)
        self.source = image.to(ready.device, torch.float32)
        self.budget = budget_for(self.source, mask, settings)
        self.original = to_levels(self.budget.x0)
        height, width = image.shape[2:]
        self.objectives, self.target_name = objectives_for(ready, settings, views, height, width, target, conditioning)
        turns = Turns(settings.transforms, settings.seed)
        self.loss = PictureLoss(ready, views, self.objectives, self.generator, turns)

    @property
    def is_movable(self) -> bool:
        return bool(self.budget.allowed.any())

    def protect(self, on_step: OnStep | None = None, notices: Sequence[str] = ()) -> Protected:
        """All steps, and the report."""
        first = self.loss.latents(self.budget.x0)
        levels, done = self._descended(on_step) if self.is_movable else (self.original, 0)
        return self.finished(levels, done, first, notices)

    def _descended(self, on_step: OnStep | None) -> tuple[Tensor, int]:
        x, done = self.descend(on_step=on_step)
        return self.budget.quantize(x), done

    def descend(
        self,
        start: Tensor | None = None,
        part: range | None = None,
        on_step: OnStep | None = None,
        stops: Stops = (Stop,),
    ) -> tuple[Tensor, int]:
        """The picture reached, (1, 3, H, W) within the budget, and the steps done; see `pgd`."""
        settings = self.settings
        return pgd(
            self.loss,
            self.budget,
            step_size=settings.step_size,
            steps=settings.steps,
            decay=settings.step_decay,
            momentum=settings.momentum,
            generator=self.generator if settings.random_start else None,
            on_step=on_step,
            start=start,
            part=part,
            stops=stops,
        )

    def finished(
        self, protected: Tensor, done: int, first: list[Tensor] | None = None, notices: Sequence[str] = ()
    ) -> Protected:
        """What is handed on of these levels, which so many steps reached: checked, and with its report. first: the
        original's latents, where they are known."""
        settings = self.settings
        first = self.loss.latents(self.budget.x0) if first is None else first
        last = self.loss.latents(to_unit(protected))
        noisy = self.loss.latents(to_unit(noise_like(self.original, protected, settings.seed)))
        report = Report(
            model=self.ready.name,
            settings=settings.as_dict(),
            target=self.target_name,
            width=protected.shape[3],
            height=protected.shape[2],
            steps_done=done,
            stopped=self.is_movable and done < settings.steps,
            seconds=round(time.perf_counter() - self.begun, 3),
            before=self.loss.figures(first, settings.seed),
            after=self.loss.figures(last, settings.seed),
            gradient_ratio=_gradient_ratio(self.objectives),
            notices=[*notices, *_of_no_strength(settings)],
            **latent_figures(first, last, noisy),
            **pixel_figures(self.original.cpu(), protected.cpu(), settings.epsilon * 255),
        )
        result = torch.where(self.budget.reach > 0, to_unit(protected), self.source)
        self.budget.check(to_levels(result))
        return Protected(result.to(self.home), [report])


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
