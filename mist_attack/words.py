"""What was done to a picture, in words: what one sees of it, and what a model makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]

NOTHING_CHANGED = "Nothing was changed."
LOOKS = ((1.0, "next to invisible"), (3.5, "hard to see"), (6.0, "visible"))
"""Mean CIEDE2000 below which a change looks so; 1 is just noticeable on flat colours side by side."""
PLAIN = "plain to see"
FLAT_SHARE, FLAT_NOISE = 0.02, 2.5
"""Flat areas are told of where they are so much of the picture, and change by so many levels."""


def visible(figures: Figures, place: str | None = None) -> str:
    """Of linf_levels, ciede2000_mean, flat_share and flat_noise_levels; place: see flat.flat_figures."""
    difference = figures["ciede2000_mean"]
    if difference is None:
        return f"Changed by at most {figures['linf_levels']:g} levels."
    look = next((words for limit, words in LOOKS if difference < limit), PLAIN)
    noise, flat = figures["flat_noise_levels"], figures["flat_share"]
    shows = look != PLAIN and noise is not None and flat >= FLAT_SHARE and noise >= FLAT_NOISE
    mostly = f", mostly {place}" if place else ""
    where = f" except in flat areas ({flat:.0%} of it{mostly})" if shows else ""
    return f"Changed by at most {figures['linf_levels']:g} levels; {look}{where}."


def moved(times: float | None) -> str:
    """Of the latents' shift over that of noise."""
    if times is None:
        return "How far the model's view of it moved cannot be told against noise."
    return f"The model's view of it moved {number(times)} times as far as noise of that size would do."


def reached(before: Figures, after: Figures) -> str:
    """Of an objective's figures before and after."""
    ratios = {name: after[name] / value for name, value in before.items() if value}
    told = []
    if "target_distance" in ratios:
        told.append(f"distance to the target is {ratios['target_distance']:.0%} of the original's")
    if "prediction_distance" in ratios:
        told.append(f"prediction's distance to the target is {ratios['prediction_distance']:.0%} of the original's")
    if "denoising_loss" in ratios:
        told.append(f"denoising loss {number(ratios['denoising_loss'])} times the original's")
    return f"Its {', its '.join(told)}." if told else ""


def number(value: float) -> str:
    """Two digits that count, for sentences: 0.83, 1.0, 2.4, 17."""
    digits = f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.2g}"
    return f"{value:.1f}" if len(digits) == 1 else digits


def figure(value: float) -> str:
    """Three digits that count, so that columns can be compared: 0.900, 31.5, 172; whole numbers as they are."""
    return f"{value:g}" if float(value).is_integer() else f"{value:#.3g}".rstrip(".")
