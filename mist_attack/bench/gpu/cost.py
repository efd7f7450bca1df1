"""Part 2: what a step costs on Stable Diffusion v1's full architecture, in every way, over the bare modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch

from ...hosts.borrowing.lean import spread_norm
from ...hosts.headless.diffusers import DiffusersSurrogate
from ...settings import Settings
from ..baseline import as_published
from ..cost import bare_encoder, bare_step, mist_steps, our_steps
from ..meters import Clock, peak_bytes
from ..models import TextEncoder, random_sd_v1
from .check import Check, Row, give_back, row
from .kernels import busy_share, replayed, synchronisations

SIDES = {False: (512, 1024), True: (64,)}
STEPS = {False: (3, 9), True: (1, 4)}
"""A step costs what more of them cost more: loops begin and end with work of their own. Apart by a multiple of three,
the steps for which an amortised gradient serves."""
TOGETHER = 4
"""Pictures in one pass: what a gallery could gain, were they protected together."""
OURS = {
    "textural": ({"objective": "textural"}, "encoder"),
    "sds": ({"gradient": "sds"}, "sds"),
    "amortised": ({"gradient": "amortised"}, None),
    "exact": ({}, "exact"),
}
"""Ways of a fused step, or another, as settings; and the bare modules that it is to be compared with."""
Loop = Callable[[int], object]


class Way(NamedTuple):
    loop: Callable[[DiffusersSurrogate], Loop]
    over: str | None = None
    low_vram: bool = False
    around: Callable[[DiffusersSurrogate], AbstractContextManager[Any]] = lambda _: nullcontext()


def rows(check: Check) -> Iterator[Row]:
    model, text = random_sd_v1(check.device, check.dtype, narrow=check.reduced)
    model.conditioning("a painting")
    for side in SIDES[check.reduced]:
        yield row(f"the encoder's largest norms, {side} px", partial(_norms, model, side))
        bare: dict[str, float] = {}
        for name, step in _bare(side).items():
            found = row(f"bare {name}, {side} px", partial(_measured_bare, model, side, step))
            bare[name] = found.get("ms", float("nan"))
            yield found
        if side == min(SIDES[check.reduced]):
            yield row(f"bare exact, {TOGETHER} pictures, {side} px", partial(_measured_together, model, side))
        for name, way in _ways(side, text).items():
            yield row(f"{name}, {side} px", partial(_measured, check, model, side, way, bare))


def _norms(model: DiffusersSurrogate, side: int) -> Row:
    """By the card's own kernel and as `lean` has them."""
    norm = model.vae.encoder.down_blocks[0].resnets[0].norm1
    groups, channels, clock = norm.num_groups, norm.num_channels, Clock(model.device)
    x = torch.randn(1, channels, side, side, device=model.device)
    weight, bias = x.new_ones(channels), x.new_zeros(channels)
    ways = {
        "own_ms": partial(torch.native_group_norm, x, weight, bias, 1, channels, side**2, groups, norm.eps),
        "spread_ms": partial(spread_norm, x, weight, bias, groups, norm.eps),
    }
    for call in ways.values():
        call()
    return {name: 1000 * min(clock.time(call) for _ in range(3)) for name, call in ways.items()}


def _bare(side: int) -> dict[str, Callable[[DiffusersSurrogate], Callable[[], object]]]:
    return {
        "encoder": lambda ready: bare_encoder(ready, side),
        "sds": lambda ready: bare_step(ready, side, exact=False),
        "exact": lambda ready: bare_step(ready, side, exact=True),
    }


def _ways(side: int, text: TextEncoder) -> dict[str, Way]:
    """The largest come last, where memory or time may be over."""
    ours = {name: Way(_ours(side, settings), over) for name, (settings, over) in OURS.items()}
    return ours | {
        "exact, low-VRAM": Way(_ours(side, {}), "exact", low_vram=True),
        "Mist's loop": Way(lambda ready: mist_steps(ready, side, text.states), "exact", around=as_published),
    }


def _ours(side: int, settings: dict[str, Any]) -> Callable[[DiffusersSurrogate], Loop]:
    return lambda ready: our_steps(ready, side, Settings(working_size=side, **settings))


def _measured_bare(
    model: DiffusersSurrogate, side: int, make: Callable[[DiffusersSurrogate], Callable[[], object]]
) -> Row:
    def job(_: object) -> Row:
        step, clock = make(model), Clock(model.device)
        step()
        found: Row = {"ms": 1000 * min(clock.time(step) for _ in range(3))}
        graph = replayed(model.device, step)
        if graph is not None:
            found["graph_ms"] = 1000 * min(clock.time(graph) for _ in range(3))
        return found

    return model.run(job, 1, side, side)


def _measured_together(model: DiffusersSurrogate, side: int) -> Row:
    found = _measured_bare(model, side, lambda ready: bare_step(ready, side, exact=True, pictures=TOGETHER))
    give_back()
    return {f"{name}_a_picture": value / TOGETHER for name, value in found.items()}


def _measured(check: Check, model: DiffusersSurrogate, side: int, way: Way, bare: dict[str, float]) -> Row:
    few, many = STEPS[check.reduced]

    def job(_: object) -> Row:
        with way.around(model):
            loop, clock = way.loop(model), Clock(model.device)
            peak = peak_bytes(model.device, lambda: loop(1))
            each = 1000 * (clock.time(lambda: loop(many)) - clock.time(lambda: loop(few))) / (many - few)
            fewer, more = (synchronisations(model.device, lambda n=number: loop(n)) for number in (few, many))
            return {
                "ms": each,
                "over_bare": each / bare[way.over] if way.over else None,
                "peak_GiB": peak and peak / 2**30,
                "busy": busy_share(model.device, lambda: loop(few)),
                "syncs_a_step": None if fewer is None or more is None else (more - fewer) / (many - few),
            }

    give_back()
    return model.run(job, 1, side, side, low_vram=way.low_vram)
