"""Part 1: gradients of the demo model in every precision against the CPU's; low-VRAM, and a second run, the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ...devices.agreement import agreement, agrees, step_gradient
from ...hosts.headless import diffusers
from ...hosts.headless.checkpoints import find_checkpoint
from ...needs import NEEDS
from ...protection import protect
from ...settings import Settings
from .check import Check, Row, row

WAYS = {
    "textural": Settings(objective="textural"),
    "semantic": Settings(objective="semantic"),
    "semantic, sds": Settings(objective="semantic", gradient="sds"),
    "fused": Settings(semantic_weight=4e4),
    "fused, amortised": Settings(gradient="amortised"),
}
DTYPES = torch.float32, torch.bfloat16, torch.float16
LOW_VRAM_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""The same sums in the same order, but for what a library chooses anew at each call."""
STEPS = 5


def rows(check: Check) -> Iterator[Row]:
    side = 64 if check.reduced else 256
    expected = {name: step_gradient(_demo(torch.device("cpu")), _of(way, side), side) for name, way in WAYS.items()}
    for dtype in DTYPES:
        model = _demo(check.device, dtype)
        for name, way in WAYS.items():
            if dtype == torch.float32 or NEEDS[way.objective].denoiser:
                what = f"{name}, UNet in {str(dtype).removeprefix('torch.')}"
                yield row(what, lambda n=name, m=model, d=dtype: _gradient(m, _of(WAYS[n], side), side, d, expected[n]))
    for name in ("textural", "fused"):
        yield row(f"{name}, {STEPS} steps", lambda name=name: _bytes(_demo(check.device), _of(WAYS[name], side), side))


def _demo(device: torch.device, dtype: torch.dtype = torch.float32) -> diffusers.DiffusersSurrogate:
    return diffusers.load(find_checkpoint("demo"), device, dtype)


def _of(settings: Settings, side: int) -> Settings:
    return replace(settings, working_size=side, steps=STEPS)


def _gradient(
    model: diffusers.DiffusersSurrogate, settings: Settings, side: int, dtype: torch.dtype, expected: Tensor
) -> Row:
    def measured(*, low_vram: bool = False) -> Tensor:
        return model.run(lambda ready: step_gradient(ready, settings, side), 1, side, side, low_vram=low_vram)

    found, again, low = measured(), measured(), measured(low_vram=True)
    shown = agreement(found, expected)
    difference = float((low - found).norm() / found.norm())
    return {
        "cosine": shown.cosine,
        "equal_signs": shown.signs,
        "agrees": agrees(shown, dtype),
        "low_vram_difference": difference,
        "low_vram_equal": difference <= LOW_VRAM_DIFFERENCE[dtype],
        "twice_the_same": torch.equal(found, again),
    }


def _bytes(model: diffusers.DiffusersSurrogate, settings: Settings, side: int) -> Row:
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    first, second = (protect(image, model, settings).images for _ in range(2))
    return {"twice_the_same": torch.equal(first, second)}
