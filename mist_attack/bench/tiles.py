"""A large picture in tiles against one of a tile's size, on the demo model: cost by covered area, and memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..budget import Linf
from ..hosts.headless import diffusers
from ..hosts.headless.checkpoints import find_checkpoint
from ..pgd import pgd
from ..settings import Settings
from ..views import plan
from .asked import Asked, Figures, Say
from .cost import Variant, our_step, our_steps, seconds
from .meters import Clock, peak_bytes
from .ratios import ratio

SMALL, LARGE = 512, 2048
TIMED = {SMALL: 5, LARGE: 1}
"""Steps at once; one of a small picture is soon over."""
SETTINGS = Settings(view="tiles", working_size=SMALL, gradient="sds")


class NoModel:
    """A loss that asks no model: what the loop itself takes."""

    deterministic = False

    def value(self, x: Tensor) -> Tensor:
        return x.new_zeros(())

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_zeros(()), torch.ones_like(x)


def figures(asked: Asked, say: Say) -> Figures:
    """cost_per_covered_pixel_2048_over_512 and model_memory_2048_over_512."""
    model = diffusers.load(find_checkpoint("demo"), asked.device)
    return model.run(lambda ready: _figures(ready, asked.rounds, say), 1, SMALL, SMALL)


def _figures(ready: Any, rounds: int, say: Say) -> Figures:
    views = len(plan(LARGE, LARGE, "tiles", SMALL, ready.spatial_multiple("fused")))
    found = {str(side): _variant(ready, side, steps) for side, steps in TIMED.items()}
    taken = seconds(found, rounds, Clock(ready.device))
    covered = ratio([value / views for value in taken[str(LARGE)]], taken[str(SMALL)])
    say(f"demo model, {LARGE} px in {views} tiles over {SMALL} px: {covered} per covered pixel")
    result: Figures = {
        "cost_per_covered_pixel_2048_over_512": covered.median,
        "cost_per_covered_pixel_2048_over_512_interval": [covered.low, covered.high],
    }
    small, large = (_of_the_model(ready, side) for side in (SMALL, LARGE))
    if small is not None and large is not None:
        result["model_memory_2048_over_512"] = large / small
        say(f"  memory of the model: {large / 2**20:.0f} MiB over {small / 2**20:.0f} MiB")
    return result


def _variant(ready: Any, side: int, steps: int) -> Variant:
    return Variant(partial(our_steps(ready, side, SETTINGS), steps), steps=steps)


def _of_the_model(ready: Any, side: int) -> int | None:
    """Bytes that a step holds at most, less what the loop holds without a model."""
    device, step = ready.device, our_step(ready, side, SETTINGS)
    image = torch.rand(1, 3, side, side, device=device)
    budget = Linf(image, SETTINGS.epsilon, torch.ones(1, 1, side, side, device=device), keep_tone=True)
    alone = peak_bytes(device, lambda: pgd(NoModel(), budget, step_size=SETTINGS.step_size, steps=1))
    with_model = peak_bytes(device, step)
    return None if alone is None or with_model is None else with_model - alone
