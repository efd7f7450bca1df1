"""Part 3: whole pictures by preset and size, on Stable Diffusion v1's full architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from ...hosts.headless.diffusers import DiffusersSurrogate
from ...protection import protect
from ...settings import Settings, preset_descriptions, resolve
from ..meters import peak_bytes, waited
from ..models import random_sd_v1
from .check import Check, Row, give_back, row

SIDES = {False: (512, 1024, 2048), True: (64, 96)}
WHOLE = 20
"""Steps up to which a picture is done to its end; one of more is reckoned from fewer of its steps."""
FEW, MANY = {False: 3, True: 1}, {False: 9, True: 4}


def rows(check: Check) -> Iterator[Row]:
    model, text = random_sd_v1(check.device, check.dtype, narrow=check.reduced)
    model.conditioning("a painting")
    text.drop()
    presets = {name: resolve(name) for name in preset_descriptions()}
    for name, settings in sorted(presets.items(), key=lambda item: item[1].steps):
        for side in SIDES[check.reduced]:
            if check.reduced:
                settings = replace(settings, working_size=min(SIDES[True]))
            yield row(f"{name}, {side} px", partial(_measured, check, model, settings, side))


def _measured(check: Check, model: DiffusersSurrogate, settings: Settings, side: int) -> Row:
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    give_back()

    def seconds(steps: int) -> float:
        wanted = replace(settings, steps=steps)
        return waited(model.device, lambda: protect(image, model, wanted))

    few, many = FEW[check.reduced], MANY[check.reduced]
    first: list[float] = []
    peak = peak_bytes(model.device, lambda: first.append(seconds(few)))
    if settings.steps <= WHOLE and not check.reduced:
        done, whole = settings.steps, seconds(settings.steps)
    else:
        more = seconds(many)
        done, whole = many, more + (more - seconds(few)) / (many - few) * (settings.steps - many)
    return {
        "seconds": whole,
        "of_steps": f"{done} of {settings.steps}",
        "hours_for_100": whole / 36,
        "peak_GiB": peak and peak / 2**30,
    }
