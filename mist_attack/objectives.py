"""What the attack minimises, as functions of the scaled latents: textural, semantic, lunet and fused.

Working at the latents is what lets every objective share one pass through the encoder: the gradient is taken here,
at detached latents, and the encoder's backward carries it to the picture (the chain rule cut in two).
Normalisation: both terms are means per image, and fused = textural - (semantic_weight / 16384) * semantic. At
512 x 512 (4 x 64 x 64 = 16384 latents) that is Mist's sum - 10^(w+3) * mean, divided by 16384.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .needs import NEEDS
from .randomness import integers, normal, seeded, uniform
from .settings import Gradient, Settings
from .surrogate import Conditioning, Surrogate

MIST_LATENTS = 16384
GOLDEN = (5**0.5 - 1) / 2
JUDGED_TIMESTEPS = (0.125, 0.375, 0.625, 0.875)  # of the schedule: strata, so that few draws judge it evenly


class LatentObjective(Protocol):
    deterministic: bool

    def value(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B,) loss to minimise. Only where deterministic."""
        ...

    def value_and_gradient(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Detached (B, C, h, w) -> (B,) loss to minimise, and d sum(loss) / d latents."""
        ...

    def measure(self, latents: Tensor, seed: int) -> dict[str, Tensor]:
        """Named scalars for the report; the same seed judges two pictures by the same draws."""
        ...


class Textural:
    """Mean squared distance to the target's latents (Mist, Liang & Wu 2023, arXiv 2305.12683, eq. 7)."""

    deterministic = True

    def __init__(self, target_latents: Tensor) -> None:
        self.target_latents = target_latents

    def value(self, latents: Tensor) -> Tensor:
        return _mean_square(latents - self.target_latents)

    def value_and_gradient(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        distance = latents - self.target_latents
        return _mean_square(distance), distance * (2 / distance[0].numel())

    def measure(self, latents: Tensor, seed: int) -> dict[str, Tensor]:
        return {"target_distance": self.value(latents).mean()}


Draws = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""(B, C, h, w) latents, and the (T,) schedule -> (B,) timesteps, and noise of the latents' shape."""


def random_draws(latents: Tensor, sigmas: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every timestep as likely as any other, each draw by itself (AdvDM, Mist)."""
    return integers(len(sigmas), (len(latents),), generator, latents.device), normal(latents, generator)


class SpreadDraws:
    """Draws of which few do the work of many: timesteps evenly over those whose noise level is in `spread` (from a
    random first one by the golden ratio, whose multiples leave no gap), and every second noise the negative of the one
    before (antithetic). A distilled model's few levels may all lie outside: then the highest below is drawn.
    """

    def __init__(self, spread: tuple[float, float]) -> None:
        self.spread = spread
        self.drawn = 0
        self.first: Tensor | None = None
        self.noise: Tensor | None = None

    def __call__(self, latents: Tensor, sigmas: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.first is None:
            self.first = uniform(latents.new_empty(()), generator)
            self.low, self.high = self._ends(sigmas)
        numbers = torch.arange(self.drawn, self.drawn + len(latents), device=latents.device, dtype=latents.dtype)
        places = self.first + GOLDEN * numbers
        self.drawn += len(latents)
        if self.noise is None or self.noise.shape != latents.shape:
            noise = self.noise = normal(latents, generator)
        else:
            noise, self.noise = -self.noise, None
        return (self.low + (self.high - self.low) * (places % 1)).long(), noise

    def _ends(self, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """The first timestep to be drawn, and the one after the last."""
        low, high = torch.searchsorted(sigmas, sigmas.new_tensor(self.spread))
        return torch.minimum(low, (high - 1).clamp(min=0)), high.clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How the semantic gradient is estimated: three choices that do not depend on each other."""

    through: bool
    """By the derivative of the denoiser. Else its Jacobian is left out (Xue et al. 2024, arXiv 2311.12832):
    g = -(2 / N) * error * slope, both of which `noising` derives."""
    spread: bool
    """Draws that few steps can use (see SpreadDraws), else random_draws."""
    draws: int = 1
    """Whose mean is a gradient."""
    steps: int = 1
    """For which a gradient serves."""


ESTIMATES: dict[Gradient, Estimate] = {
    "exact": Estimate(through=True, spread=False),
    "sds": Estimate(through=False, spread=True),
    "amortised": Estimate(through=False, spread=True, draws=2, steps=3),
}
"""What the words of `Settings.gradient` stand for."""


class Semantic:
    """Minus the denoising loss at a random timestep (AdvDM, Liang et al. 2023, arXiv 2302.04578, eq. 6).

    Of the estimate, what makes a single draw. Direction `descent` minimises the denoising loss instead.
    """

    deterministic = False

    def __init__(
        self,
        surrogate: Surrogate,
        conditioning: Conditioning,
        estimate: Estimate = ESTIMATES["exact"],
        direction: str = "ascent",
    ) -> None:
        self.surrogate, self.conditioning = surrogate, conditioning
        self.sign = -1.0 if direction == "ascent" else 1.0
        self.draw: Draws = SpreadDraws(surrogate.noising.spread) if estimate.spread else random_draws
        self._differentiated = self._through if estimate.through else self._past

    def value(self, latents: Tensor) -> Tensor:
        raise TypeError("the denoising loss is a random draw; two values cannot be compared")

    def value_and_gradient(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        sigmas = self.surrogate.sigmas
        timesteps, noise = self.draw(latents, sigmas, generator)
        sigma = sigmas[timesteps]
        loss, gradient = self._differentiated(latents, noise, sigma)
        return self.sign * loss, self.sign * gradient

    def measure(self, latents: Tensor, seed: int) -> dict[str, Tensor]:
        return {"denoising_loss": torch.stack(self.losses(latents, seed, JUDGED_TIMESTEPS)).mean()}

    def losses(self, latents: Tensor, seed: int, shares: Sequence[float]) -> list[Tensor]:
        """The denoising loss at these shares of the schedule, a draw for each."""
        generator = seeded(latents.device, seed)
        losses = []
        with torch.no_grad():
            for share in shares:
                sigma = self.surrogate.sigmas[int(share * len(self.surrogate.sigmas))].expand(len(latents))
                noise = normal(latents, generator)
                losses.append(_mean_square(self._error(latents, noise, sigma)).mean())
        return losses

    def _through(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        leaf = latents.detach().requires_grad_()
        loss = _mean_square(self._error(leaf, noise, sigma))
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), gradient

    def _past(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            error = self._error(latents, noise, sigma)
        scale = (2 / error[0].numel()) * self.surrogate.noising.slope(sigma)
        return _mean_square(error), error * scale.view(-1, 1, 1, 1)

    def _error(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return prediction_error(self.surrogate, latents, noise, sigma, self.conditioning)


def prediction_error(
    surrogate: Surrogate, latents: Tensor, noise: Tensor, sigma: Tensor, conditioning: Conditioning
) -> Tensor:
    """Of the network's own prediction, of the noise or of the velocity, (B, C, h, w): whose mean square it is trained
    on."""
    denoised = surrogate.denoise(surrogate.noising.noised(latents, noise, sigma), sigma, conditioning)
    return (latents - denoised) / sigma.view(-1, 1, 1, 1)


class Lunet(Semantic):
    """Mean squared distance of the network's prediction to the target's latents (ACE, Zheng et al. 2023, arXiv
    2310.04687): a bias that is the same for every picture, which a LoRA learns.

    Its gradient without the denoiser's derivative takes that derivative, which of an ideal denoiser is symmetric and
    positive, for a multiple of the identity: a direction of descent all the same.
    """

    def __init__(
        self, surrogate: Surrogate, conditioning: Conditioning, estimate: Estimate, target_latents: Tensor
    ) -> None:
        super().__init__(surrogate, conditioning, estimate, direction="descent")
        self.target_latents = target_latents

    def measure(self, latents: Tensor, seed: int) -> dict[str, Tensor]:
        return {"prediction_distance": torch.stack(self.losses(latents, seed, JUDGED_TIMESTEPS)).mean()}

    def _error(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        noised = self.surrogate.noising.noised(latents, noise, sigma)
        denoised = self.surrogate.denoise(noised, sigma, self.conditioning)
        return (noised - denoised) / sigma.view(-1, 1, 1, 1) - self.target_latents


class Amortised:
    """A semantic objective whose gradient is the mean of `draws` (with SpreadDraws, pairs of opposite noise), and
    serves for `steps`.

    It changes more by the draw than by the step: fewer and steadier ones protect better than a new one at each step.
    The encoder's backward, which changes with the step, is always new.
    """

    deterministic = False

    def __init__(self, semantic: Semantic, *, draws: int, steps: int) -> None:
        self.semantic, self.draws, self.steps, self.calls = semantic, draws, steps, 0
        self.kept: tuple[Tensor, Tensor] | None = None

    def value(self, latents: Tensor) -> Tensor:
        return self.semantic.value(latents)

    def value_and_gradient(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self.kept is None or self.calls % self.steps == 0:
            self.kept = self._mean(latents, generator)
        self.calls += 1
        return self.kept

    def measure(self, latents: Tensor, seed: int) -> dict[str, Tensor]:
        return self.semantic.measure(latents, seed)

    def _mean(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        losses, gradients = zip(
            *(self.semantic.value_and_gradient(latents, generator) for _ in range(self.draws)), strict=True
        )
        return torch.stack(losses).mean(0), torch.stack(gradients).mean(0)


class Fused:
    """Textural plus the weighted semantic term; remembers how the norms of their gradients compare."""

    deterministic = False

    def __init__(self, textural: Textural, semantic: Semantic | Amortised, semantic_weight: float) -> None:
        self.textural, self.semantic, self.share = textural, semantic, semantic_weight / MIST_LATENTS
        self.ratios: list[Tensor] = []

    def value(self, latents: Tensor) -> Tensor:
        raise TypeError("the denoising loss is a random draw; two values cannot be compared")

    def value_and_gradient(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        loss_t, gradient_t = self.textural.value_and_gradient(latents, generator)
        loss_s, gradient_s = self.semantic.value_and_gradient(latents, generator)
        gradient_s = gradient_s * self.share
        self.ratios.append(gradient_s.norm() / gradient_t.norm())
        return loss_t + self.share * loss_s, gradient_t + gradient_s

    def measure(self, latents: Tensor, seed: int) -> dict[str, Tensor]:
        return self.textural.measure(latents, seed) | self.semantic.measure(latents, seed)


def build(
    settings: Settings, surrogate: Surrogate, target_latents: Tensor | None, conditioning: Conditioning
) -> LatentObjective:
    """The objective that `settings` name. Target latents may be None for semantic, conditioning for textural."""
    needs, estimate = NEEDS[settings.objective], ESTIMATES[settings.gradient]
    if not needs.denoiser:
        return Textural(_known(target_latents))
    if not needs.loss:
        return _spread(Lunet(surrogate, conditioning, estimate, _known(target_latents)), estimate)
    semantic = _spread(Semantic(surrogate, conditioning, estimate, settings.direction), estimate)
    return Fused(Textural(_known(target_latents)), semantic, settings.semantic_weight) if needs.target else semantic


def _known(target_latents: Tensor | None) -> Tensor:
    assert target_latents is not None
    return target_latents


def _spread(semantic: Semantic, estimate: Estimate) -> Semantic | Amortised:
    if estimate.draws == estimate.steps == 1:
        return semantic
    return Amortised(semantic, draws=estimate.draws, steps=estimate.steps)


def _mean_square(difference: Tensor) -> Tensor:
    return difference.square().mean(dim=(1, 2, 3))
