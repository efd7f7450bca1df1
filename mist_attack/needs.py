"""What each objective needs and reports. Faces read it, so it imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Objective = Literal["textural", "semantic", "lunet", "fused"]


@dataclass(frozen=True, kw_only=True)
class Needs:
    target: bool
    """Latents to pull to."""
    denoiser: bool
    """The whole model and a prompt, not the autoencoder alone."""
    figures: tuple[str, ...]
    """Names in `Report.before` and `Report.after`."""
    loss: bool = False
    """The denoising loss is a part of it, and goes one way or the other."""

    @property
    def semantic_weight(self) -> bool:
        """It has two terms to weigh."""
        return self.target and self.loss


NEEDS: dict[str, Needs] = {
    "textural": Needs(target=True, denoiser=False, figures=("target_distance",)),
    "semantic": Needs(target=False, denoiser=True, loss=True, figures=("denoising_loss",)),
    "lunet": Needs(target=True, denoiser=True, figures=("prediction_distance",)),
    "fused": Needs(target=True, denoiser=True, loss=True, figures=("target_distance", "denoising_loss")),
}
"""By the name of the objective; the one that asks most of the model comes last."""


def possible(*, denoiser: bool) -> list[Objective]:
    """The objectives that a model can serve, the one that asks most of it last."""
    return [name for name in get_args(Objective) if denoiser or not NEEDS[name].denoiser]
