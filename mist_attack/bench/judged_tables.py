"""What Mist's loop and ours reach on real autoencoders and on the demo models, as Markdown, from bench/results.json."""

from __future__ import annotations

from typing import Any

PUBLISHED = {"TAEF2": 1.68, "TAESANA": 1.72}
"""How far Mist's own published example (test/sample.png and test/misted_sample_16_100_512_1_2_1.png in its repository:
fused, 16 levels, 100 steps, SD v1.4, 512 px) moves the latents of each, over noise of the same size. Measured by
`reach` on 2026-11-28; the pictures are no part of this repository."""
NOT_MEASURED = "not measured"
Figures = dict[str, Any]


def judged_section(figures: Figures) -> str:
    """A table of what is reached and one of what is left on another model. The autoencoders of PUBLISHED have a column
    where they were not measured too, which says so."""
    judged: Figures = figures.get("judged", {})
    models = [*(name for name in PUBLISHED if name not in map(_short, judged)), *judged]
    reached = _reached(judged, models) if judged else f"{NOT_MEASURED.capitalize()}.\n"
    return f"{reached}\n{_transferred(figures.get('transfer', {}), models)}"


def _reached(judged: Figures, models: list[str]) -> str:
    told = [judged[model]["ways"] if model in judged else {} for model in models]
    ways = dict.fromkeys(way for measured in told for way in measured)
    rows = [[f"{way} levels", *(_cell(measured.get(way)) for measured in told)] for way in ways]
    return _table("way, strength", models, rows)


def _transferred(transfer: dict[str, Figures], models: list[str]) -> str:
    rows = [[_short(source), *(_cell(seen.get(model)) for model in models)] for source, seen in transfer.items()]
    published = [PUBLISHED.get(_short(model)) for model in models]
    cells = [NOT_MEASURED if times is None else f"{times:.1f} times" for times in published]
    return _table("attacked on", models, [*rows, ["SD v1.4: Mist's published picture", *cells]])


def _cell(measured: Figures | None) -> str:
    """Off the distance with its interval; times noise; decibels."""
    if not measured:
        return NOT_MEASURED
    low, middle, high = (100 * (1 - measured["left"][end]) for end in ("high", "median", "low"))
    lost = f"; {measured['lost_db']['median']:.1f} dB" if measured["lost_db"] else ""
    return f"{middle:.0f} % ({low:.0f} to {high:.0f}); {measured['times_noise']['median']:.1f} times{lost}"


def _short(model: str) -> str:
    """Without its file's name."""
    return model.split(" (")[0]


def _table(first: str, models: list[str], rows: list[list[str]]) -> str:
    head = [first, *map(_short, models)]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
