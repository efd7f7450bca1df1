"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083).

Knows a loss over pictures and a budget, neither a diffusion model nor the budget's shape. Pictures are (1, 3, H, W)
float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .budget import Budget
from .errors import GradientError, MistError, Stop


class Loss(Protocol):
    """What the loop minimises."""

    deterministic: bool
    """The same picture always has the same loss, so losses of two pictures can be compared."""

    def value(self, x: Tensor) -> Tensor:
        """(1, 3, H, W) -> scalar."""
        ...

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, H, W) -> scalar, and d loss / d x up to a positive factor for each pixel."""
        ...


class Progress(NamedTuple):
    """One finished step. Everything is on the device and detached: reading a number waits for the device."""

    step: int
    """Steps finished, from 1."""
    steps: int
    loss: Tensor
    """Scalar: the loss before this step."""
    preview: Callable[[], Tensor]
    """The picture so far, (1, 3, H, W) in [0, 1], when asked for."""


OnStep = Callable[[Progress], None]
Stops = tuple[type[BaseException], ...]


def pgd(
    loss: Loss,
    budget: Budget,
    *,
    step_size: float,
    steps: int,
    decay: bool = False,
    momentum: float = 0.0,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
    start: Tensor | None = None,
    part: range | None = None,
    stops: Stops = (Stop,),
) -> tuple[Tensor, int]:
    """Minimise `loss` within `budget` by steps in its direction; the picture reached and the steps done.

    start: a member of the budget to go on from. part: of the steps, those that are done now; the count is of these.

    A deterministic loss gives the best iterate, a noisy one the last: its luckiest draw is not the best picture.
    `decay`: the k-th of n steps has size step_size * (1 - k / n). `momentum`: what each gradient, at unit mean absolute
    value, keeps of the ones before (Dong et al. 2018, arXiv 1710.06081, eq. 6), which averages a noisy loss.
    `generator` draws the random start; None starts at x0. `on_step` may raise Stop to keep what is reached, and so may
    anything raise what is in `stops`; any other exception passes through.
    Raises GradientError when a gradient is not finite, or the first one is zero everywhere.
    """
    x = budget.start(generator) if start is None else start.clone()
    best = _Best(x) if loss.deterministic else None
    average, watch, done = _Momentum(momentum), _Watch(x.device), 0
    try:
        for step in range(steps) if part is None else part:
            value, gradient = loss.value_and_gradient(x)
            watch.see(gradient)
            if best is not None:
                best.offer(x, value)
            size = step_size * (1 - step / steps) if decay else step_size
            x.sub_(budget.direction(average(gradient)), alpha=size)
            del gradient  # before the projection's own temporary: a large picture's arrays are counted
            x = budget.project(x)
            done += 1
            if on_step is not None:
                on_step(Progress(step + 1, steps, value.detach(), x.clone))
    except stops:
        pass
    except MistError:  # a preview of pixels that are not finite fails, too; the gradient is why
        watch.end()
        raise
    watch.end()
    if best is not None:
        best.offer(x, loss.value(x))
        x = best.x
    return budget.settle(x), done


class _Momentum:
    """Keeps an array of the picture's size where it has something to keep."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.kept: Tensor | None = None

    def __call__(self, gradient: Tensor) -> Tensor:
        """What to descend along, which may be written to; so is the gradient."""
        if self.share == 0:
            return gradient
        gradient.div_(gradient.abs().mean().clamp(min=torch.finfo(gradient.dtype).tiny))
        self.kept = gradient if self.kept is None else self.kept.mul_(self.share).add_(gradient)
        return self.kept.clone()


class _Watch:
    """Refuses gradients of no use: the first at once, later ones at the end, as a look waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.first, self.finite = True, torch.ones((), dtype=torch.bool, device=device)

    def see(self, gradient: Tensor) -> None:
        self.finite &= gradient.sum().isfinite()  # a sum hides no NaN or infinity, and needs no copy
        if self.first:
            self.end()
            _require_some(gradient)
        self.first = False

    def end(self) -> None:
        """Raises GradientError where a gradient was not finite."""
        if not bool(self.finite):
            raise GradientError(
                "The model's gradient is not finite, so nothing was changed. "
                "Run it in full precision (float32), at least the VAE, or choose another checkpoint."
            )


class _Best:
    """The picture with the least loss so far, kept without waiting for the device."""

    def __init__(self, x: Tensor) -> None:
        self.x = x.clone()
        self.value = torch.full((), torch.inf, device=x.device, dtype=x.dtype)

    def offer(self, x: Tensor, value: Tensor) -> None:
        better = value < self.value
        self.value = torch.where(better, value, self.value)
        self.x.lerp_(x, better.to(x.dtype))


def _require_some(gradient: Tensor) -> None:
    if not bool(gradient.any()):
        raise GradientError(
            "The model's gradient is zero everywhere, so nothing was changed. Either the picture is the target "
            "already, or something before the loss has no derivative: choose another checkpoint, or full precision."
        )
