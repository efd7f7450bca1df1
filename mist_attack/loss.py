"""The objective as a function of the whole picture: every view of it goes through the encoder once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .objectives import LatentObjective
from .surrogate import Surrogate
from .turns import Transform, Turns
from .views import View


class PictureLoss:
    """The mean of the objective over the views; see pgd.Loss for the contract.

    Per step and view: one encoder forward, one encoder backward, and what the objective needs at the latents. The model
    sees each step's picture through one of `turns`, and every measured one as it is.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        views: Sequence[View],
        objectives: Sequence[LatentObjective],
        generator: torch.Generator,
        turns: Turns | None = None,
    ) -> None:
        self.surrogate, self.generator, self.turns = surrogate, generator, turns or Turns("none", 0)
        self.pairs = list(zip(views, objectives, strict=True))
        self.deterministic = self.turns.deterministic and all(objective.deterministic for objective in objectives)

    def value(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            losses = [objective.value(self._latents(view, x)).sum() for view, objective in self.pairs]
        return torch.stack(losses).mean()

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        losses, gradient, transform = [], None, self.turns.next()
        for view, objective in self.pairs:
            loss, part = self._one(view, objective, x, transform)
            losses.append(loss)
            if gradient is None and part.shape == x.shape:
                gradient = part  # the view of the whole comes first: no further array of its size
                continue
            gradient = torch.zeros_like(x) if gradient is None else gradient
            view.region(gradient).add_(part)
        assert gradient is not None
        return torch.stack(losses).mean(), gradient

    def measure(self, x: Tensor, seed: int) -> dict[str, float]:
        """The objective's named figures, means over the views."""
        return self.figures(self.latents(x), seed)

    def latents(self, x: Tensor) -> list[Tensor]:
        """Of each view."""
        with torch.no_grad():
            return [self._latents(view, x) for view, _ in self.pairs]

    def figures(self, latents: Sequence[Tensor], seed: int) -> dict[str, float]:
        """`measure` of `latents`."""
        with torch.no_grad():
            rows = [objective.measure(z, seed) for z, (_, objective) in zip(latents, self.pairs, strict=True)]
        return {name: float(torch.stack([row[name] for row in rows]).mean()) for name in rows[0]}

    def _one(self, view: View, objective: LatentObjective, x: Tensor, transform: Transform) -> tuple[Tensor, Tensor]:
        region = view.region(x).detach().requires_grad_()
        latents = self.surrogate.encode(transform(view.look(region)))
        loss, latent_gradient = objective.value_and_gradient(latents.detach(), self.generator)
        (gradient,) = torch.autograd.grad(latents, region, latent_gradient)
        return loss.sum(), gradient.mul_(view.weight(gradient))

    def _latents(self, view: View, x: Tensor) -> Tensor:
        return self.surrogate.encode(view.look(view.region(x)))
