"""Part 3: whole pictures by preset and size, and a set of two, on Stable Diffusion v1's full architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from ...attack import Protected
from ...budget import to_levels
from ...hosts.headless.diffusers import DiffusersSurrogate
from ...protection import protect
from ...sets.alternation import Member, SetProtection
from ...sets.settings import SetSettings
from ...settings import Settings, preset_descriptions, resolve
from ..meters import peak_bytes, waited
from ..models import random_sd_v1
from .check import Check, Row, give_back, row

SIDES = {False: (512, 1024, 2048), True: (64, 96)}
WHOLE = 20
"""Steps up to which a picture is done to its end; one of more is reckoned from fewer of its steps."""
ROUNDS = 2
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
    side = min(SIDES[check.reduced])
    yield row(f"a set of two, {side} px", partial(_as_set, check, model, side))


def _measured(check: Check, model: DiffusersSurrogate, settings: Settings, side: int) -> Row:
    image = _noise(side)
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


def _as_set(check: Check, model: DiffusersSurrogate, side: int) -> Row:
    """Two rounds, each of a step of every picture and two of the LoRA."""
    images = [_noise(side, seed) for seed in (0, 1)]
    members = [Member(str(i), side, side, lambda x=x: (x, None), "a painting") for i, x in enumerate(images)]
    settings = replace(resolve("default"), working_size=side, steps=ROUNDS)
    chosen = SetSettings(rounds=ROUNDS, lora_steps=2, lora_states=1)
    give_back()
    before, made = _sums(model), list[Protected]()

    def work() -> None:
        made.extend(protected for _, protected in SetProtection(members, model, settings, chosen).run())

    first: list[float] = []
    peak = peak_bytes(model.device, lambda: first.append(waited(model.device, work)))
    kept = [to_levels(one.images).int() - to_levels(x).int() for one, x in zip(made, images, strict=True)]
    return {
        "seconds": first[0],
        "of_steps": f"{ROUNDS} of {ROUNDS}",
        "peak_GiB": peak and peak / 2**30,
        "changed_within_budget": all(0 < int(change.abs().max()) <= round(255 * settings.epsilon) for change in kept),
        "model_unchanged": torch.equal(before, _sums(model)),
    }


def _noise(side: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(seed))


def _sums(model: DiffusersSurrogate) -> torch.Tensor:
    """Of each weight of the denoiser, on the CPU."""
    assert model.unet is not None
    return torch.stack([weight.detach().double().sum() for weight in model.unet.parameters()]).cpu()
