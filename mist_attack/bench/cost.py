"""Seconds and memory of a step: ours, Mist v1's and the bare modules', on one model, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from ..hosts.diffusers import DiffusersSurrogate
from ..loss import PictureLoss
from ..objectives import REUSED
from ..pgd import Budget, pgd
from ..protect import objectives_for
from ..settings import Settings
from ..surrogate import Surrogate
from ..targets import pattern
from ..views import plan
from .baseline import MistV1, Prompt, as_published, mist_v1
from .meters import Clock, peak_bytes

OURS = {
    "exact": {},
    "sds": {"gradient": "sds"},
    "amortised": {"gradient": "amortised"},
}
"""Our ways of a fused step, as settings."""


class Variant(NamedTuple):
    """One way of doing `steps` steps; `around` is entered before them and left after them, untimed."""

    step: Callable[[], object]
    steps: int = 1
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


def variants(ready: DiffusersSurrogate, side: int, prompt: Prompt) -> dict[str, Variant]:
    """Within `Surrogate.run`: ours by name, "mist", and "bare_exact" and "bare_sds"."""
    ours = {name: Variant(our_step(ready, side, Settings(working_size=side, **how))) for name, how in OURS.items()}
    ours["amortised"] = ours["amortised"]._replace(steps=REUSED)
    return ours | {
        "mist": Variant(mist_step(ready, side, prompt), around=lambda: as_published(ready)),
        "bare_exact": Variant(bare_step(ready, side, exact=True)),
        "bare_sds": Variant(bare_step(ready, side, exact=False)),
    }


def our_step(ready: Surrogate, side: int, settings: Settings) -> Callable[[], object]:
    """Of the engine's loop, as `protect` sets it up."""
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(ready.device)
    views = plan(side, side, settings.view, settings.working_size, ready.spatial_multiple(settings.objective))
    objectives, _ = objectives_for(ready, settings, views, side, side, None, ready.conditioning(settings.prompt))
    loss = PictureLoss(ready, views, objectives, torch.Generator(ready.device).manual_seed(0))
    budget = Budget(image, settings.epsilon, torch.ones(1, 1, side, side, device=image.device), keep_tone=True)
    return lambda: pgd(loss, budget, step_size=settings.step_size, steps=1)


def bare_step(ready: DiffusersSurrogate, side: int, *, exact: bool) -> Callable[[], object]:
    """The modules alone, forward and backward; sds has no backward of the UNet."""
    x = (torch.rand(1, 3, side, side, device=ready.device) * 2 - 1).requires_grad_()
    prompt, t = ready.conditioning("a painting"), torch.tensor([500], device=ready.device)
    vae, unet = ready.vae, ready.unet
    assert unet is not None

    def step() -> None:
        latents = vae.encode(x).latent_dist.mean
        z = latents.detach().to(unet.dtype).requires_grad_(exact)
        with torch.set_grad_enabled(exact):
            predicted = unet(z, t, prompt).sample
        gradient = torch.autograd.grad(predicted, z, torch.ones_like(predicted))[0] if exact else predicted
        torch.autograd.grad(latents, x, gradient.to(latents.dtype))

    return step


def mist_step(ready: DiffusersSurrogate, side: int, prompt: Prompt) -> Callable[[], object]:
    image = torch.rand(1, 3, side, side, device=ready.device) * 2 - 1
    loss = MistV1(ready, pattern("lattice", side, side).to(ready.device) * 2 - 1, prompt)
    return lambda: mist_v1(loss, image, epsilon=16, steps=1)


def seconds(found: dict[str, Variant], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Per step, by variant, one number for each round; a first round warms up and is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in found}
    for number in range(rounds + 1):
        for name, variant in found.items():
            with variant.around():
                cost = clock.time(lambda variant=variant: [variant.step() for _ in range(variant.steps)])
            if number:
                taken[name].append(cost / variant.steps)
    return taken


def peaks(found: dict[str, Variant], names: Sequence[str], device: torch.device) -> dict[str, int | None]:
    """Bytes, weights included, by variant."""
    result = {}
    for name in names:
        with found[name].around():
            result[name] = peak_bytes(device, found[name].step)
    return result
