"""How visible the presets are and what they take off, as Markdown, from bench/results.json."""

from __future__ import annotations

from typing import Any

Figures = dict[str, Any]
NOT_MEASURED = "not measured"
WAYS = {"mist 16": "Mist, 16 levels", "default": "`default`", "invisible": "`invisible`", "robust": "`robust`"}
SEEN = {"psnr_db": ("PSNR, dB", "{:.1f}"), "ssim": ("SSIM", "{:.3f}"), "ciede2000_mean": ("CIEDE2000, mean", "{:.2f}")}
OFF = {
    "plain": "taken off",
    "half": "... after a halving",
    "jpeg75": "... after JPEG 75",
    "jpeg50": "... after JPEG 50",
}


def balance_section(figures: Figures) -> str:
    """What is seen, what is taken off, and that over what Mist's loop takes off where it is as visible."""
    found = figures.get("balance")
    if not found:
        return f"{NOT_MEASURED.capitalize()}.\n"
    rows = [[words, *(_value(found[way].get(key), form) for way in WAYS)] for key, (words, form) in SEEN.items()]
    rows += [[words, *(_share(found[way].get(key)) for way in WAYS)] for key, words in OFF.items()]
    rows += [
        [f"{words}, over Mist's at equal PSNR", *(_times(found[way].get(f"{key}_over_equal")) for way in WAYS)]
        for key, words in OFF.items()
    ]
    worst = figures.get("survival_worst", {})
    rows.append(["worst of all transforms", *(_worst(worst.get(way)) for way in WAYS)])
    lines = [["", *WAYS.values()], ["---"] * (len(WAYS) + 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _value(found: Figures | None, form: str) -> str:
    return NOT_MEASURED if found is None else form.format(found["median"])


def _share(found: Figures | None) -> str:
    if found is None:
        return NOT_MEASURED
    low, middle, high = (100 * found[end] for end in ("low", "median", "high"))
    return f"{middle:.0f} % ({low:.0f} to {high:.0f})"


def _times(found: Figures | None) -> str:
    return "" if found is None else f"{found['median']:.2f} times ({found['low']:.2f} to {found['high']:.2f})"


def _worst(found: Figures | None) -> str:
    return NOT_MEASURED if found is None else f"{100 * found['median']:.0f} % ({found['transform']})"
