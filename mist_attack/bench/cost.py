"""Seconds and memory of a step: ours, Mist v1's and the bare modules', on one model, in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch

from ..budget import Linf
from ..hosts.headless.diffusers import DiffusersSurrogate
from ..loss import PictureLoss
from ..objectives import ESTIMATES
from ..pgd import pgd
from ..protection import objectives_for, prompt_for
from ..settings import Gradient, Settings
from ..surrogate import Surrogate
from ..targets import pattern
from ..views import View, plan
from .baseline import MistV1, Prompt, as_published, mist_v1
from .meters import Clock, peak, peak_bytes

OURS: tuple[Gradient, ...] = "exact", "sds", "amortised"
"""Our ways of a fused step."""

LOW_VRAM = "lowvram"
"""sds in the low-VRAM way."""
HOLDING_OURS = LOW_VRAM, "sds", "exact"
HOLDING = *HOLDING_OURS, "mist"
"""Whose memory is measured."""


class Variant(NamedTuple):
    """One way of doing `steps` steps; `around` is entered before them and left after them, untimed."""

    step: Callable[[], object]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    steps: int = 1


def variants(ready: DiffusersSurrogate, side: int, prompt: Prompt) -> dict[str, Callable[[], Variant]]:
    """Within `Surrogate.run`: ours by name, "bare_exact" and "bare_sds", each right after ours, and "mist". Each is
    made when it is asked for, which takes a pass or two."""
    return {
        "exact": lambda: our_cycle(ready, side, "exact"),
        "bare_exact": lambda: Variant(bare_step(ready, side, exact=True)),
        "sds": lambda: our_cycle(ready, side, "sds"),
        "bare_sds": lambda: Variant(bare_step(ready, side, exact=False)),
        "amortised": lambda: our_cycle(ready, side, "amortised"),
        "mist": lambda: Variant(mist_step(ready, side, prompt), around=lambda: as_published(ready)),
    }


def our_cycle(ready: Surrogate, side: int, gradient: Gradient) -> Variant:
    """Of the engine's loop, so many steps as one gradient of the UNet serves at most: each cycle costs the same."""
    steps = ESTIMATES[gradient].steps
    loop = our_steps(ready, side, Settings(working_size=side, gradient=gradient))
    return Variant(partial(loop, steps), steps=steps)


def our_step(ready: Surrogate, side: int, settings: Settings) -> Callable[[], object]:
    """Of the engine's loop, as `protect` sets it up."""
    return partial(our_steps(ready, side, settings), 1)


def our_steps(ready: Surrogate, side: int, settings: Settings) -> Callable[[int], object]:
    """So many in one loop."""
    return _steps(ready, side, settings, _objectives(ready, side, settings))


def _objectives(ready: Surrogate, side: int, settings: Settings) -> list[Any]:
    views = _views(ready, side, settings)
    return objectives_for(ready, settings, views, side, side, None, prompt_for(ready, settings))[0]


def _views(ready: Surrogate, side: int, settings: Settings) -> list[View]:
    return plan(side, side, settings.view, settings.working_size, ready.spatial_multiple(settings.objective))


def _steps(ready: Surrogate, side: int, settings: Settings, objectives: list[Any]) -> Callable[[int], object]:
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(ready.device)
    views, generator = _views(ready, side, settings), torch.Generator(ready.device).manual_seed(0)
    loss = PictureLoss(ready, views, objectives, generator)
    budget = Linf(image, settings.epsilon, torch.ones(1, 1, side, side, device=image.device), keep_tone=True)
    return lambda steps: pgd(loss, budget, step_size=settings.step_size, steps=steps)


def bare_encoder(ready: DiffusersSurrogate, side: int) -> Callable[[], object]:
    """The autoencoder's encoder alone, forward and backward."""
    x = (torch.rand(1, 3, side, side, device=ready.device) * 2 - 1).requires_grad_()

    def step() -> None:
        latents = ready.vae.encode(x).latent_dist.mean
        torch.autograd.grad(latents, x, torch.ones_like(latents))

    return step


def bare_step(ready: DiffusersSurrogate, side: int, *, exact: bool, pictures: int = 1) -> Callable[[], object]:
    """The modules alone, forward and backward; sds has no backward of the UNet. pictures: in one pass."""
    x = (torch.rand(pictures, 3, side, side, device=ready.device) * 2 - 1).requires_grad_()
    prompt: Any = ready.conditioning("a painting")
    prompt, t = prompt.expand(pictures, -1, -1), torch.full((pictures,), 500, device=ready.device)
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
    return partial(mist_steps(ready, side, prompt), 1)


def mist_steps(ready: DiffusersSurrogate, side: int, prompt: Prompt) -> Callable[[int], object]:
    image = torch.rand(1, 3, side, side, device=ready.device) * 2 - 1
    loss = MistV1(ready, pattern("lattice", side, side).to(ready.device) * 2 - 1, prompt)
    return lambda steps: mist_v1(loss, image, epsilon=16, steps=steps)


def seconds(found: dict[str, Variant], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Of a step by variant, one number for each round. The last one gives memory back, so every round begins with an
    uncounted step, after which there is memory to use again."""
    taken: dict[str, list[float]] = {name: [] for name in found}
    first = next(iter(found.values()))
    for _ in range(rounds):
        first.step()
        for name, variant in found.items():
            with variant.around():
                taken[name].append(clock.time(variant.step) / variant.steps)
    return taken


def metered(variant: Variant, device: torch.device, held: list[int]) -> Variant:
    """The same, which adds to `held` the bytes that it held at most, weights included."""

    @contextmanager
    def around() -> Iterator[None]:
        with variant.around(), peak(device, held):
            yield

    return variant._replace(around=around)


def peaks(
    model: DiffusersSurrogate, side: int, prompt: Prompt, names: Sequence[str] = HOLDING
) -> dict[str, int | None]:
    """Bytes, weights included, of some of HOLDING: each in a run of its own."""
    return {name: _peak(model, side, prompt, name) for name in names}


def _peak(model: DiffusersSurrogate, side: int, prompt: Prompt, name: str) -> int | None:
    def job(ready: Surrogate) -> int | None:
        variant = variants(model, side, prompt)["sds" if name == LOW_VRAM else name]()
        with variant.around():
            return peak_bytes(ready.device, variant.step)

    return model.run(job, 1, side, side, low_vram=name == LOW_VRAM)
