"""docs/sets.md's tables, from bench/results-sets.json; see bench/sets.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from ..evaluation.imitating import UNTAUGHT
from ..evaluation.intervals import Interval, interval
from ..evaluation.words import REACHED

CLEAN, SINGLE, MIST, SET, LUNET, V2 = "clean", "single", "mist", "set", "set_lunet", "mist_v2"
SINGLE_ROBUST, SET_ROBUST = "single_robust", "set_robust"
SINGLE_ASCENT, SET_ASCENT = "single_ascent", "set_ascent"
PLAIN, MIXED, OTHER, SHARED = "plain", "mixed", "other", "shared"
WORDS = {
    SINGLE: "`mist protect`, each by itself, `default`",
    SINGLE_ASCENT: "`mist protect --direction ascent --fusion-weight 1.5`, each by itself",
    MIST: "Mist v1, each by itself, 100 steps, as visible",
    SET: "`mist protect-set`",
    SET_ASCENT: "`mist protect-set --set-direction ascent --fusion-weight 1.5`",
    LUNET: "`mist protect-set --objective lunet`",
    V2: "Mist v2's recipe, 150 steps, as visible",
    SINGLE_ROBUST: "`mist protect --preset robust`, each by itself",
    SET_ROBUST: "`mist protect-set --preset robust`",
}
BESIDE = dict.fromkeys((SINGLE_ASCENT, MIST, SET, SET_ASCENT, LUNET, V2), SINGLE) | {SET_ROBUST: SINGLE_ROBUST}
"""The protection of single pictures that is as visible."""
VARIANTS = {
    PLAIN: "as they were protected",
    MIXED: "every second picture unprotected",
    OTHER: "a LoRA of the other demo model",
    SHARED: "after a halving and JPEG 75",
}
MODELS = {"demo0": "demo model 0", "demo1": "demo model 1", "taef2_denoiser": "TAEF2 with our denoiser"}
Results = Mapping[str, Any]
Cell = tuple[str, int]
"""A set and an imitator's seed."""


def distances(results: Results, model: str, way: str, variant: str) -> dict[Cell, float]:
    found = {}
    for key, value in results["distances"].items():
        of, style, by, seen, seed = key.split("/")
        if (of, by, seen) == (model, way, variant):
            found[style, int(seed)] = value
    return found


def ratios(some: Mapping[Cell, float], others: Mapping[Cell, float]) -> Interval | None:
    """Cell by cell, of those that both have; None where there is none."""
    both = [value / others[cell] for cell, value in some.items() if cell in others]
    return interval(both) if both else None


def section(results: Results) -> str:
    """Markdown: a table for each model and each change on the way to the imitator that was measured."""
    found = list(dict.fromkeys(key.split("/")[0] for key in results.get("distances", {})))
    parts = [part for model in found for variant in VARIANTS if (part := _part(results, model, variant))]
    return "\n".join([*parts, *_peaks(results)]) or "Not measured.\n"


def _part(results: Results, model: str, variant: str) -> str:
    clean = distances(results, model, CLEAN, variant if variant in (OTHER, SHARED) else PLAIN)
    rows = [row for way in WORDS if (row := _row(results, model, way, variant, clean))]
    if not rows:
        return ""
    head = [
        "",
        "style distance over clean",
        "over single pictures'",
        "LoRAs, sets",
        "PSNR, dB",
        "denoiser passes",
        "seconds",
    ]
    lines = [head, ["---"] * len(head), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    told = f"Pictures protected on {MODELS[model]}, {VARIANTS[variant]}. {_reached(results, model, variant, clean)}"
    return f"{told}\n\n{table}{_over_v2(results, model) if variant == PLAIN else ''}"


def _over_v2(results: Results, model: str) -> str:
    """What a set costs beside Mist v2's recipe, over the sets that both have protected."""
    costs, theirs = (_costs_of(results, model, way) for way in (SET, V2))
    both = [(costs[style], theirs[style]) for style in costs if style in theirs]
    if not both:
        return ""
    passes = median(_passes(ours) / _passes(v2) for ours, v2 in both)
    seconds = median(ours["seconds"] / v2["seconds"] for ours, v2 in both)
    return f"\nA set over Mist v2's recipe: {passes:.2f} times its passes, {seconds:.2f} times its time.\n"


def _costs_of(results: Results, model: str, way: str) -> dict[str, Mapping[str, Any]]:
    """By set."""
    split = {tuple(key.split("/")): cost for key, cost in results["protections"].items()}
    return {style: cost for (of, style, by), cost in split.items() if (of, by) == (model, way)}


def _passes(cost: Mapping[str, Any]) -> float:
    return cost["forward"] + cost["backward"]


def _reached(results: Results, model: str, variant: str, clean: Mapping[Cell, float]) -> str:
    """Whether a LoRA of the clean pictures learns the style at all."""
    found = ratios(clean, distances(results, model, UNTAUGHT, variant if variant in (OTHER, SHARED) else PLAIN))
    if found is None:
        return "Nothing is known of clean pictures."
    bad = "" if found.high < REACHED else " That is no imitation, so the table says nothing of one."
    return f"A LoRA of the clean ones: {_times(found)} the distance of the model without one.{bad}"


def _row(results: Results, model: str, way: str, variant: str, clean: Mapping[Cell, float]) -> list[str]:
    own = distances(results, model, way, variant)
    over = ratios(own, clean)
    if over is None:
        return []
    costs = list(_costs_of(results, model, way).values())
    single = ratios(own, distances(results, model, BESIDE[way], variant)) if way in BESIDE else None
    sets = len({style for style, _ in own})
    return [WORDS[way], _times(over), _times(single), f"{len(own)}, {sets}", *_costs(costs)]


def _costs(costs: Sequence[Mapping[str, Any]]) -> list[str]:
    """PSNR, and of a picture: passes forward and backward, and seconds of the processor."""
    each = [cost["pictures"] for cost in costs]
    passes = [_passes(cost) / count for cost, count in zip(costs, each, strict=True)]
    seconds = [cost["seconds"] / count for cost, count in zip(costs, each, strict=True)]
    return [f"{mean(cost['psnr_db'] for cost in costs):.1f}", f"{median(passes):.0f}", f"{median(seconds):.1f}"]


def _peaks(results: Results) -> list[str]:
    peaks = results.get("peaks")
    if not peaks:
        return []
    share, held, alone = peaks[SET] / peaks[SINGLE], peaks[SET] / 2**30, peaks[SINGLE] / 2**30
    where = f"Stable Diffusion 1's architecture, {peaks['side']} px, weights included"
    return [f"Memory at most ({where}): {held:.2f} GiB, of single pictures {alone:.2f}: {share:.2f} times.\n"]


def _times(found: Interval | None) -> str:
    return "" if found is None else f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"
