"""`mist bench`: what a step costs and how few are needed, against Mist v1's own loop, as ratios within one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch

from ..devices import available_bytes
from ..hosts.headless import diffusers
from ..hosts.headless.checkpoints import demo_models, find_checkpoint
from ..settings import Settings, resolve
from ..surrogate import Objective, Surrogate
from . import cost, gallery, halving, machines, quality, real, tiles, unseen
from .asked import Asked, Figures, Part, Say
from .evidence import collecting as evidence
from .evidence import tables
from .meters import Clock
from .models import TextEncoder, random_sd_v1
from .ratios import ratio

SIDES = (256, 512)
MIST_NEEDS = {256: 11, 512: 18}  # GiB
SCALED = {256: 6, 1024: 14}
PRESET = "quick"


def run(asked: Asked, out: Path, parts: Sequence[str]) -> Figures:
    """This machine's figures of `parts` (of PARTS), beside those that `out` holds of it and of others; written to it
    after each.

    A part has a process of its own: what an earlier one leaves in the allocator would serve the next, and most of all
    the baseline, which by itself has the system clear new pages at every step.
    """
    known = machines.read(out)
    figures = machines.figures_of(machines.machine(asked.device, asked.dtype), known)
    say: Say = partial(print, flush=True)
    for name in parts:
        begun = time.monotonic()
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found = process.submit(_measured, name, asked, torch.get_num_threads()).result()
        figures["measured"][name] = {"on": date.today().isoformat(), "seconds": round(time.monotonic() - begun)}
        figures.update(found)
        for follows in TOGETHER:
            figures.pop(follows, None)
        figures.update(together(figures))
        machines.write(out, known)
    if {"visibility", "survival"} & set(parts):
        say(tables.first_table(figures))
    return figures


def _measured(name: str, asked: Asked, threads: int) -> Figures:
    torch.set_num_threads(threads)
    return PARTS[name](asked, partial(print, flush=True))


def costs(side: int) -> Part:
    """Seconds and memory of a fused step on SD v1's full architecture."""
    return _of_sd_v1(side, _costs)


def peaks(side: int) -> Part:
    """The memory alone."""
    return _of_sd_v1(side, _peaks)


def _of_sd_v1(
    side: int, measured: Callable[[diffusers.DiffusersSurrogate, int, TextEncoder, int, Say], Figures]
) -> Part:
    def part(asked: Asked, say: Say) -> Figures:
        if _lacks_memory(asked.device, side, MIST_NEEDS[side], say):
            return {}
        model, text = random_sd_v1(asked.device, asked.dtype)
        model.conditioning("a painting")
        text.drop()
        say(f"{model.name}, {side} px")
        return measured(model, side, text, asked.rounds, say)

    return part


def _costs(model: diffusers.DiffusersSurrogate, side: int, text: TextEncoder, rounds: int, say: Say) -> Figures:
    held = cost.peaks(model, side, text.states, cost.HOLDING_OURS)
    of_mist: list[int] = []

    def job(ready: Surrogate) -> dict[str, list[float]]:
        found = {name: make() for name, make in cost.variants(model, side, text.states).items()}
        found["mist"] = cost.metered(found["mist"], ready.device, of_mist)
        return cost.seconds(found, rounds, Clock(ready.device))

    figures = _seconds(model.run(job, 1, side, side), side, say)
    return figures | _held(held | {"mist": min(of_mist, default=None)}, side, say)


def _peaks(model: diffusers.DiffusersSurrogate, side: int, text: TextEncoder, rounds: int, say: Say) -> Figures:
    del rounds
    return _held(cost.peaks(model, side, text.states), side, say)


def _seconds(taken: dict[str, list[float]], side: int, say: Say) -> Figures:
    for name, seconds in taken.items():
        say(f"  {name}: {median(seconds):.3g} s a step")
    figures: Figures = {f"seconds_{name}_{side}": median(seconds) for name, seconds in taken.items()}
    for name in cost.OURS:
        figures |= _with_interval(f"step_ratio_{name}_{side}", taken["mist"], taken[name])
    for name in ("exact", "sds"):
        figures |= _with_interval(f"{name}_over_modules_{side}", taken[name], taken[f"bare_{name}"])
    return figures


def _held(found: Mapping[str, int | None], side: int, say: Say) -> Figures:
    held = {name: value / 2**30 for name, value in found.items() if value is not None}
    for name, value in held.items():
        say(f"  {name}: {value:.2f} GiB at most, weights included")
    shares = {f"peak_ratio_{name}_{side}": value / held["mist"] for name, value in held.items() if name != "mist"}
    return shares | {f"peak_gib_{name}_{side}": value for name, value in held.items()}


def scaling(asked: Asked, say: Say) -> Figures:
    """A fused step by score distillation on SD v1's full architecture: cost of a pixel over that at the first side."""
    if any(_lacks_memory(asked.device, side, needed, say) for side, needed in SCALED.items()):
        return {}
    model, text = random_sd_v1(asked.device, asked.dtype)
    model.conditioning("a painting")
    text.drop()
    found = {
        str(side): model.run(lambda ready, side=side: _of_a_pixel(ready, side, asked.rounds), 1, side, side)
        for side in SCALED
    }
    shares = {side: value / next(iter(found.values())) for side, value in found.items()}
    say(
        f"{model.name}, sds, cost of a pixel: " + ", ".join(f"{side} px x{share:.2f}" for side, share in shares.items())
    )
    return {"cost_per_pixel_by_side": shares}


def _of_a_pixel(ready: Surrogate, side: int, rounds: int) -> float:
    step = cost.our_step(ready, side, Settings(working_size=side, gradient="sds"))
    repeats = rounds if side < max(SCALED) else 1  # the largest takes a minute
    if repeats > 1:
        step()
    return median(Clock(ready.device).time(step) for _ in range(repeats)) / side**2


def _lacks_memory(device: torch.device, side: int, needed: int, say: Say) -> bool:
    """Whether fewer than `needed` GiB are free, which is then said."""
    available = available_bytes(device)
    lacks = available is not None and available < needed * 2**30
    if lacks:
        say(f"{side} px left out: it needs {needed} GiB of free memory")
    return lacks


def _with_interval(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Figures:
    found = ratio(ours, theirs)
    return {name: found.median, f"{name}_interval": [found.low, found.high]}


def steps(asked: Asked, say: Say) -> Figures:
    """How few of the quick preset's steps are as strong as Mist v1's hundred, on every demo model."""
    figures: Figures = {}
    for objective in ("fused", "textural"):
        say(f"{objective}: Mist v1's {quality.MIST_STEPS} steps, then ours, on every demo model")
        matched = _matched(objective, asked)
        for model, found in matched.items():
            say(f"  {model}")
            rows = {f"{tried} steps": values for tried, values in found.strength.items()}
            for tried, values in (rows | found.kinds).items():
                say(f"    {tried}: " + ", ".join(f"{name} x{value:.3f}" for name, value in values.items()))
        enough = [found.steps for found in matched.values()]
        figures[f"steps_to_mist_100_{objective}"] = None if None in enough else max(filter(None, enough))
        figures[f"strength_by_steps_{objective}"] = {name: found.strength for name, found in matched.items()}
        figures[f"strength_by_kind_{objective}"] = {name: found.kinds for name, found in matched.items()}
    return figures


def _matched(objective: Objective, asked: Asked) -> dict[str, quality.Matched]:
    """By model. On a CPU one process for each: such small models leave most of a second core idle."""
    names = demo_models()
    workers = len(names) if asked.device.type == "cpu" else 1
    threads = max(1, torch.get_num_threads() // workers)
    with ProcessPoolExecutor(workers, get_context("spawn")) as processes:
        found = [processes.submit(_matched_on, name, objective, asked, threads) for name in names]
        return dict(future.result() for future in found)


def _matched_on(checkpoint: str, objective: Objective, asked: Asked, threads: int) -> tuple[str, quality.Matched]:
    torch.set_num_threads(threads)
    model = diffusers.load(find_checkpoint(checkpoint), asked.device)
    return model.name, quality.steps_to_match(model, unseen.pictures(asked.each), PRESET, objective)


PARTS: dict[str, Part] = {"visibility": evidence.visibility, "survival": evidence.survival, "real": real.figures}
PARTS |= {
    "steps": steps,
    "halving": halving.figures,
    "tiles": tiles.figures,
    "gallery": gallery.figures,
    "scaling": scaling,
}
PARTS |= {f"{name}{side}": part(side) for side in SIDES for name, part in (("costs", costs), ("peaks", peaks))}


TOGETHER = "loop_over_modules", "steps_to_mist_100", "time_ratio_to_equal_protection", "time_ratio_to_equal_halved"


def together(figures: Figures) -> Figures:
    """Of TOGETHER what follows from several parts, where they have been measured."""
    found: Figures = {}
    over = [figures.get(f"{name}_over_modules_{side}_interval") for name in ("exact", "sds") for side in SIDES]
    if any(over):
        found["loop_over_modules"] = max(interval[1] for interval in over if interval)
    matched = [figures.get(f"steps_to_mist_100_{objective}") for objective in ("fused", "textural")]
    if all(matched):
        found["steps_to_mist_100"] = max(number for number in matched if number)
        step_ratio = figures.get(f"step_ratio_{resolve(PRESET).gradient}_512")
        if step_ratio is not None:
            found["time_ratio_to_equal_protection"] = step_ratio * quality.MIST_STEPS / found["steps_to_mist_100"]
    halved = figures.get("steps_to_mist_100_halved")
    step_ratio = figures.get(f"step_ratio_{resolve(halving.PRESET).gradient}_512")
    if halved is not None and step_ratio is not None:
        found["time_ratio_to_equal_halved"] = step_ratio * quality.MIST_STEPS / halved
    return found
