"""An evaluation in words: first what it means, with how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .transforms import SUITE

Figures = Mapping[str, Any]

LOOKS = ((1.0, "next to invisible"), (3.5, "hard to see"), (6.0, "visible"))
"""Mean CIEDE2000 below which a change looks so; 1 is just noticeable on flat colours side by side."""
PLAIN = "plain to see"
FLAT_SHARE, FLAT_NOISE = 0.02, 2.5
"""Flat areas are told of where they are so much of the picture, and change by so many levels."""
NOTHING, LITTLE = 1.0, 1.5
"""Times as far as noise: up to these a shift is no protection, or hardly one."""
HALF = "half"


def visible(figures: Figures) -> str:
    """Of linf_levels, ciede2000_mean, flat_share and flat_noise_levels."""
    look = next((words for limit, words in LOOKS if figures["ciede2000_mean"] < limit), PLAIN)
    noise, flat = figures["flat_noise_levels"], figures["flat_share"]
    shows = look != PLAIN and noise is not None and flat >= FLAT_SHARE and noise >= FLAT_NOISE
    where = f" except in flat areas ({flat:.0%} of it)" if shows else ""
    return f"Changed by at most {figures['linf_levels']:g} levels; {look}{where}."


def moved(times: float | None) -> str:
    """Of the latents' shift over that of noise."""
    if times is None:
        return "How far the model's view of it moved cannot be told against noise."
    return f"The model's view of it moved {number(times)} times as far as noise of that size would do."


def left(share: float | None) -> str:
    return "" if share is None else f"After halving {share:.0%} of that is left."


def short(visibility: Figures, times: float | None, share: float | None) -> str:
    """Three sentences for every face."""
    return " ".join(filter(None, (visible(visibility), moved(times), left(share))))


def verdict(summary: Figures) -> str:
    """One sentence about one model, of `results.summaries`."""
    times, worst = summary["shift_over_noise"], summary["worst"]
    if times is None or worst is None:
        return f"{summary['model']}: nothing could be told against noise."
    pictures = "the protected picture" if summary["pictures"] == 1 else f"{summary['pictures']} protected pictures"
    return (
        f"{_grade(times, worst['over_noise'])}: {summary['model']} sees {pictures} "
        f"{_between(times)} times as far from the original as random noise of the same size would put it, and of that "
        f"{_percent(worst['share_left'])} is left after the worst of {summary['changes']} changes "
        f"({SUITE[worst['name']].words}), {_between(worst['over_noise'])} times what noise leaves."
    )


def _grade(times: Figures, after: Figures) -> str:
    if times["low"] <= NOTHING:
        return "No protection beyond noise on this model"
    if after["low"] <= NOTHING:
        return "Undone by one change"
    if min(times["low"], after["low"]) <= LITTLE:
        return "Weak on this model"
    return "Holds on this model"


def _between(found: Figures) -> str:
    return f"{number(found['value'])} ({number(found['low'])} to {number(found['high'])})"


def _percent(found: Figures) -> str:
    return f"{found['value']:.0%} ({found['low']:.0%} to {found['high']:.0%})"


def number(value: float) -> str:
    """Two digits that count: 0.83, 2.4, 17."""
    return f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.2g}"
