"""Projected gradient descent under an L-infinity budget (Madry et al. 2018, arXiv 1706.06083).

Knows a loss over pictures, not a diffusion model. Pictures are (1, 3, H, W) float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .errors import GradientError, Stop
from .randomness import uniform

TONE_TOLERANCE = 0.02 / 255
TONE_ROUNDS = 50


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


class Budget:
    """Where a picture may go: |x - x0| <= reach, 0 <= x <= 1, and with `keep_tone` no drift of a channel's mean.

    x0: (1, 3, H, W) in [0, 1]. epsilon: unit range. mask: (1, 1, H, W) in [0, 1], 1 = may change.
    The mean is kept over the values with room: those that can move by epsilon both up and down.
    """

    def __init__(self, x0: Tensor, epsilon: float, mask: Tensor, *, keep_tone: bool) -> None:
        self.x0, self.reach = x0, epsilon * mask
        self.tone = _Tone((x0 >= epsilon) & (x0 <= 1 - epsilon) & (mask > 0)) if keep_tone else None

    def start(self, generator: torch.Generator | None) -> Tensor:
        """A uniformly random member; x0 itself without a generator."""
        if generator is None:
            return self.x0.clone()
        noise = uniform(self.x0, generator)
        return self.project(noise.mul_(2).sub_(1).mul_(self.reach).add_(self.x0))

    def project(self, x: Tensor) -> Tensor:
        """The nearest member of the box after one correction of the tone; works in place."""
        delta = x.sub_(self.x0)
        if self.tone is not None:
            delta.sub_(self.tone.shift(delta))
        return delta.clamp_(-self.reach, self.reach).add_(self.x0).clamp_(0, 1)

    def settle(self, x: Tensor) -> Tensor:
        """Project until the tone is kept to TONE_TOLERANCE, where the budget allows it; works in place."""
        for _ in range(TONE_ROUNDS):
            x = self.project(x)
            if self.tone is None or float(self.tone.shift(x - self.x0).abs().max()) < TONE_TOLERANCE:
                break
        return x


class _Tone:
    """The mean of each channel over the values that may move. room: (1, 3, H, W) bool."""

    def __init__(self, room: Tensor) -> None:
        self.room = room
        self.count = room.sum(dim=(2, 3), keepdim=True).clamp(min=1)

    def shift(self, delta: Tensor) -> Tensor:
        """(1, 3, 1, 1)"""
        return (delta * self.room).sum(dim=(2, 3), keepdim=True) / self.count


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
) -> tuple[Tensor, int]:
    """Minimise `loss` within `budget` by sign steps; the picture reached and the steps done.

    A deterministic loss gives the best iterate, a noisy one the last: its luckiest draw is not the best picture.
    `decay`: the k-th of n steps has size step_size * (1 - k / n). `momentum`: what each gradient, at unit mean absolute
    value, keeps of the ones before (Dong et al. 2018, arXiv 1710.06081, eq. 6), which averages a noisy loss.
    `generator` draws the random start; None starts at x0. `on_step` may raise Stop to keep what is reached; any other
    exception passes through.
    Raises GradientError when a gradient is not finite, or the first one is zero everywhere.
    """
    x = budget.start(generator)
    best = _Best(x) if loss.deterministic else None
    direction = _Momentum(momentum)
    done, finite = 0, torch.ones((), dtype=torch.bool, device=x.device)
    try:
        for step in range(steps):
            value, gradient = loss.value_and_gradient(x)
            finite &= gradient.sum().isfinite()  # a sum hides no NaN or infinity, and needs no copy
            if step == 0:  # later steps are looked at once, at the end: a look waits for the device
                _require_finite(finite)
                _require_some(gradient)
            if best is not None:
                best.offer(x, value)
            size = step_size * (1 - step / steps) if decay else step_size
            x.sub_(direction.sign(gradient), alpha=size)
            del gradient  # before the projection's own temporary: a large picture's arrays are counted
            x = budget.project(x)
            done = step + 1
            if on_step is not None:
                on_step(Progress(done, steps, value.detach(), x.clone))
    except Stop:
        pass
    _require_finite(finite)
    if best is not None:
        best.offer(x, loss.value(x))
        x = best.x
    return budget.settle(x), done


class _Momentum:
    """Keeps an array of the picture's size where it has something to keep."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.kept: Tensor | None = None

    def sign(self, gradient: Tensor) -> Tensor:
        """Of the direction with this gradient, which is written to."""
        if self.share == 0:
            return gradient.sign_()
        gradient.div_(gradient.abs().mean().clamp(min=torch.finfo(gradient.dtype).tiny))
        self.kept = gradient if self.kept is None else self.kept.mul_(self.share).add_(gradient)
        return self.kept.sign()


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


def _require_finite(finite: Tensor) -> None:
    if not bool(finite):
        raise GradientError(
            "The model's gradient is not finite, so nothing was changed. "
            "Run it in full precision (float32), at least the VAE, or choose another checkpoint."
        )
