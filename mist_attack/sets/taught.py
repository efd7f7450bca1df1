"""A model with a LoRA that has learned from the pictures: as an imitator would have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from torch import Tensor

from ..surrogate import Conditioning, Result, Surrogate
from .learning import State, put


class Taught:
    """A surrogate whose every prediction is that of the next one of a LoRA's states, in turns: means over predictions
    are means over states, at the price of none (a pool as MetaCloak's, Liu et al. 2024, arXiv 2311.13127)."""

    def __init__(self, surrogate: Surrogate, rank: int, states: Sequence[State]) -> None:
        self.surrogate, self.rank, self.states = surrogate, rank, states

    def __getattr__(self, name: str) -> Any:
        return getattr(self.surrogate, name)

    def run(
        self, job: Callable[[Any], Result], batch: int, height: int, width: int, *, low_vram: bool = False
    ) -> Result:
        def within(ready: Surrogate) -> Result:
            with ready.lora(self.rank, 0) as weights:
                for weight in weights:
                    weight.requires_grad_(False)
                return job(_Within(ready, weights, self.states))

        return self.surrogate.run(within, batch, height, width, low_vram=low_vram)


class _Within:
    """The surrogate of a run, with the weights of its LoRA."""

    def __init__(self, ready: Surrogate, weights: Sequence[Tensor], states: Sequence[State]) -> None:
        self.ready, self.weights, self.turns = ready, weights, cycle(states)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ready, name)

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        put(next(self.turns), self.weights)
        return self.ready.denoise(noised_latents, sigma, conditioning)
