"""Where a picture may go: the shapes of a budget, and the promise that each of them makes.

Every shape lies within the box |x - x0| <= epsilon * mask, 0 <= x <= 1. Pictures are (1, 3, H, W) float32 in [0, 1];
levels are uint8, those of the 8-bit file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import BudgetError
from .hiding import hidden_weight
from .randomness import uniform

if TYPE_CHECKING:
    from .settings import Settings

TONE_TOLERANCE = 0.02 / 255
TONE_ROUNDS = 50
SHRINKING_ROUNDS, THRESHOLDS = 16, 26
WIDER = 1.8
FORGIVEN = 1e-3
"""Levels that float rounding may add: of k / 255 * 255, say."""


class Budget:
    """The box alone: what a shape within it changes are `direction`, `nearest`, `rounded` and `check`.

    x0: on the 8-bit grid where `quantize` and `check` are used. epsilon: unit range. mask: (1, 1, H, W) in [0, 1],
    1 = may change. keep_tone: no drift of a channel's mean over the values with room, those that can move by epsilon
    both up and down.
    """

    def __init__(self, x0: Tensor, epsilon: float, mask: Tensor, *, keep_tone: bool) -> None:
        self.x0, self.reach = x0, epsilon * mask
        self.tone = _Tone((x0 >= epsilon) & (x0 <= 1 - epsilon) & (mask > 0)) if keep_tone else None

    @property
    def allowed(self) -> Tensor:
        """(1, 1, H, W): whole grey levels by which a value of the 8-bit file may move."""
        return (self.reach * 255 + FORGIVEN).floor()

    def start(self, generator: torch.Generator | None) -> Tensor:
        """A random member: of the box uniformly, then projected; x0 itself without a generator."""
        if generator is None:
            return self.x0.clone()
        noise = uniform(self.x0, generator)
        return self.project(noise.mul_(2).sub_(1).mul_(self.reach).add_(self.x0))

    def direction(self, gradient: Tensor) -> Tensor:
        """What a step of size 1 subtracts to descend furthest, by this gradient, which is written to."""
        raise NotImplementedError

    def project(self, x: Tensor) -> Tensor:
        """The nearest member after one correction of the tone; works in place."""
        delta = x.sub_(self.x0)
        if self.tone is not None:
            self.tone.correct(delta)
        return self.nearest(delta).add_(self.x0).clamp_(0, 1)

    def nearest(self, delta: Tensor) -> Tensor:
        """Of the allowed changes the one nearest to `delta`, which is written to."""
        return delta.clamp_(-self.reach, self.reach)

    def settle(self, x: Tensor) -> Tensor:
        """Project until the tone is kept to TONE_TOLERANCE, where the budget allows it; works in place."""
        for _ in range(TONE_ROUNDS):
            x = self.project(x)
            if self.tone is None or float(self.tone.shift(x - self.x0).abs().max()) < TONE_TOLERANCE:
                break
        return x

    def quantize(self, x: Tensor) -> Tensor:
        """Levels of x, a member, rounded so that `check` passes, always."""
        original, allowed = to_levels(self.x0), self.allowed
        shift = self.rounded(x.mul(255).sub_(original)).clamp_(-allowed, allowed)
        return shift.add_(original).clamp_(0, 255).to(torch.uint8)

    def rounded(self, shift: Tensor) -> Tensor:
        """A change in levels -> whole ones; works in place."""
        return shift.round_()

    def check(self, levels: Tensor) -> None:
        """Raise BudgetError unless the file with these levels, (1, 3, H, W), keeps the promise: no value moves by more
        than the strength, and where the mask is 0 none moves."""
        original = to_levels(self.x0)
        if levels.shape != original.shape:
            raise BudgetError(_broken(f"its shape is {tuple(levels.shape)} and was {tuple(original.shape)}"))
        moved = levels.to(original.device, torch.int16).sub_(original).abs_()
        if bool((moved > self.allowed).any()):
            raise BudgetError(_broken(f"a value moves by {int(moved.max())} levels, more than was asked for there"))


class Linf(Budget):
    """Mist's: all of the box, by steps along the gradient's sign."""

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign_()


class CappedL2(Budget):
    """A ball within the box: the root mean square of the change is at most `rms`, unit range, scaled by the mask too.

    Steps go along the gradient, at a root mean square of 1 over the picture, from the picture itself: a random start
    would fill the ball with noise.
    """

    def __init__(self, x0: Tensor, epsilon: float, mask: Tensor, *, rms: float, keep_tone: bool) -> None:
        super().__init__(x0, epsilon, mask, keep_tone=keep_tone)
        self.most = rms**2 * _power(mask.expand_as(x0))

    def start(self, generator: torch.Generator | None) -> Tensor:
        return self.x0.clone()

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.div_(_power(gradient).div(gradient.numel()).sqrt().clamp(min=torch.finfo(gradient.dtype).tiny))

    def nearest(self, delta: Tensor) -> Tensor:
        """clip(scale * delta) for the largest scale in the ball (its conditions of optimality), by its active set: the
        clipped values have their share of the ball, the free ones take the rest. From below, so each round is inside.
        """
        low, high = torch.maximum(-self.reach, -self.x0), torch.minimum(self.reach, 1 - self.x0)
        scale = _root(self.most, _power(delta)).clamp(max=1)
        for _ in range(SHRINKING_ROUNDS):
            free = (delta * scale).clamp_(low, high) == delta * scale
            taken = _power(torch.where(delta > 0, high, low) * ~free)
            scale = scale.maximum(_root(self.most - taken, _power(delta * free))).clamp(max=1)
        return delta.mul_(scale).clamp_(low, high)

    def rounded(self, shift: Tensor) -> Tensor:
        """To the nearest, or with as much more towards zero as keeps the ball: cutting fractions off always does."""
        size, least = shift.abs(), shift
        for part in range(THRESHOLDS):
            cut = 0.5 + 0.5 * part / (THRESHOLDS - 1)
            least = (size + 1 - cut).floor_()
            if self._is_in_ball(least):
                break
        return least.mul_(shift.sign_())

    def check(self, levels: Tensor) -> None:
        super().check(levels)
        moved = levels.to(self.x0.device, torch.int16) - to_levels(self.x0)
        if not self._is_in_ball(moved):
            raise BudgetError(_broken("the root mean square of its change is more than was asked for"))

    def _is_in_ball(self, shift: Tensor) -> bool:
        """shift: whole levels."""
        rms = (self.most / shift.numel()).sqrt() * 255
        return bool(_power(shift.float()) <= shift.numel() * (rms + FORGIVEN) ** 2)


class HiddenL2(CappedL2):
    """A ball that is narrow where a change is seen: besides its own root mean square, that of its coordinates u is at
    most WIDER times `rms`. A change is `weight` times u, its colours pressed: chroma * u + (1 - chroma) * the mean of
    u's channels. A picture full of structure is bounded by the first, one of flat parts by the second.

    weight: (1, 1, H, W) in (0, 1], what each pixel bears. chroma: in (0, 1], how far colours may go against lightness.
    """

    def __init__(
        self,
        x0: Tensor,
        epsilon: float,
        mask: Tensor,
        *,
        rms: float,
        weight: Tensor,
        chroma: float,
        keep_tone: bool,
    ) -> None:
        super().__init__(x0, epsilon, mask, rms=rms, keep_tone=keep_tone)
        self.weight, self.chroma = weight * mask, chroma
        if self.tone is not None:  # a shift of all would show in the flat parts
            self.tone = _Tone(self.tone.room, self.weight.square())

    def direction(self, gradient: Tensor) -> Tensor:
        along = _pressed(gradient.mul_(self.weight), self.chroma)
        size = _power(along).div(along.numel()).sqrt().clamp(min=torch.finfo(along.dtype).tiny)
        return _pressed(along, self.chroma).mul_(self.weight).div_(size)

    def nearest(self, delta: Tensor) -> Tensor:
        """Not the nearest, but inside: towards zero into the balls, into the box, and into the balls again."""
        for _ in range(2):
            delta.mul_(self._scale(delta)).clamp_(-self.reach, self.reach)
            delta.add_(self.x0).clamp_(0, 1).sub_(self.x0)
        return delta.mul_(self._scale(delta))

    def _scale(self, delta: Tensor) -> Tensor:
        inverse = torch.where(self.weight > 0, 1 / self.weight, 0)
        hidden = _root(WIDER**2 * self.most, _power(_pressed(delta * inverse, 1 / self.chroma)))
        return torch.minimum(hidden, _root(self.most, _power(delta))).clamp_(max=1)


def _pressed(values: Tensor, chroma: float) -> Tensor:
    """(1, 3, H, W): what the channels have in common stays, the rest becomes `chroma` times as large."""
    if chroma == 1:
        return values
    return values.mean(1, keepdim=True).mul(1 - chroma).add(values, alpha=chroma)


class _Tone:
    """The mean of each channel over the values that may move. room: (1, 3, H, W) bool. weight: (1, 1, H, W) or 1, by
    which a correction goes."""

    def __init__(self, room: Tensor, weight: Tensor | float = 1.0) -> None:
        self.room, self.weight = room, weight
        self.count = room.sum(dim=(2, 3), keepdim=True).clamp(min=1)
        self.held = (room.to(torch.float32) * weight).sum(dim=(2, 3), keepdim=True)

    def shift(self, delta: Tensor) -> Tensor:
        """(1, 3, 1, 1)"""
        return (delta * self.room).sum(dim=(2, 3), keepdim=True) / self.count

    def correct(self, delta: Tensor) -> None:
        """Take the shift away; in place."""
        share = self.shift(delta) * self.count / self.held.clamp(min=torch.finfo(delta.dtype).tiny)
        delta.sub_(share * self.weight)


def budget_for(images: Tensor, mask: Tensor | None, settings: Settings) -> Budget:
    """What `settings` allow a picture (1, 3, H, W) in [0, 1], counted from its nearest levels; no mask allows all."""
    if mask is None:
        mask = images.new_ones(1, 1, 1, 1, dtype=torch.float32).expand(1, 1, *images.shape[2:])
    x0 = to_unit(to_levels(images))
    mask, hidden = mask.to(x0), settings.hiding > 0
    weight = hidden_weight(x0, settings.hiding) if hidden else torch.ones_like(mask)
    if settings.budget == "linf":
        return Linf(x0, settings.epsilon, mask * weight, keep_tone=settings.keep_tone)
    ball = {"rms": settings.rms, "keep_tone": settings.keep_tone}
    if not hidden and settings.chroma == 1:
        return CappedL2(x0, settings.epsilon, mask, **ball)
    return HiddenL2(x0, settings.epsilon, mask, weight=weight, chroma=settings.chroma, **ball)


def to_levels(images: Tensor) -> Tensor:
    """[0, 1] -> uint8 by rounding; truncation would darken by half a level."""
    return images.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def to_unit(levels: Tensor) -> Tensor:
    """uint8 -> [0, 1], float32 whatever torch's default is."""
    return levels.to(torch.float32) / 255


def _power(values: Tensor) -> Tensor:
    return values.square().sum()


def _root(part: Tensor, whole: Tensor) -> Tensor:
    """sqrt(part / whole), of what may be zero or have been rounded below it."""
    return (part.clamp(min=0) / whole.clamp(min=torch.finfo(whole.dtype).tiny)).sqrt()


def _broken(found: str) -> str:
    return f"The protected picture breaks its budget: {found}. It was not saved. Please report this as a fault."
