"""The README's performance table from bench/results.json: `python -m mist_attack.bench.table` writes it there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS, README = ROOT / "bench" / "results.json", ROOT / "README.md"
BEGIN, END = "<!-- from bench/results.json -->\n", "<!-- end -->"
Figures = dict[str, Any]


def times(name: str) -> Callable[[Figures], str]:
    def cell(figures: Figures) -> str:
        low, high = figures.get(f"{name}_interval", (None, None))
        spread = f" ({low:.2f} to {high:.2f})" if low is not None else ""
        return f"{figures[name]:.2f} times{spread}"

    return cell


def share(name: str) -> Callable[[Figures], str]:
    return lambda figures: f"{100 * figures[name]:.0f} %"


def count(name: str) -> Callable[[Figures], str]:
    return lambda figures: str(figures[name])


def last(name: str) -> Callable[[Figures], str]:
    return lambda figures: f"{list(figures[name].values())[-1]:.2f} times"


def by_kind(measure: str) -> Callable[[str], Callable[[Figures], str]]:
    def model(kinds: Figures) -> str:
        return ", ".join(f"{kind[measure]:.2f}" for kind in kinds.values())

    return lambda name: lambda figures: "; ".join(map(model, figures[name].values()))


KINDS = "drawings, line drawings, paintings, photographs; the second model's"
ROWS: list[tuple[str, str, Callable[[str], Callable[[Figures], str]]]] = [
    ("a fused step is faster than Mist's, exact gradient, 256 px", "step_ratio_exact_256", times),
    ("... 512 px", "step_ratio_exact_512", times),
    ("... score distillation (`sds`), 256 px", "step_ratio_sds_256", times),
    ("... 512 px", "step_ratio_sds_512", times),
    ("... `amortised`, 512 px", "step_ratio_amortised_512", times),
    ("a step costs over the bare modules, worst upper end of the intervals", "loop_over_modules", times),
    ("Mist's step over the bare modules, 512 px, neither keeping memory", "baseline_over_modules_512", times),
    ("peak memory against Mist's at 512 px, weights included: exact", "peak_ratio_exact_512", share),
    ("... `sds`", "peak_ratio_sds_512", share),
    ("... low-VRAM", "peak_ratio_lowvram_512", share),
    ("cost of a pixel at 1024 px, against 256 px (`sds`, the whole picture at once)", "cost_per_pixel_by_side", last),
    ("memory of the model for 2048 px in tiles, against 512 px", "model_memory_2048_over_512", times),
    ("cost per covered pixel of 2048 px in tiles, against 512 px", "cost_per_covered_pixel_2048_over_512", times),
    ("steps (preset `quick`) as strong as Mist's 100, on each demo model", "steps_to_mist_100", count),
    (f"... their distance to the target over Mist's: {KINDS}", "strength_by_kind_fused", by_kind("target_distance")),
    (f"... their denoising loss over Mist's: {KINDS}", "strength_by_kind_fused", by_kind("denoising_loss")),
    ("time to equal protection against Mist's, 512 px, `quick`'s gradient", "time_ratio_to_equal_protection", times),
]  # fmt: skip


def table(figures: Figures) -> str:
    """Markdown; figures that were not measured are left out."""
    rows = [f"| {words} | {kind(name)(figures)} |" for words, name, kind in ROWS if figures.get(name) is not None]
    return "\n".join(["| figure | measured |", "|---|---|", *rows]) + "\n"


def written(readme: str, figures: Figures) -> str:
    """The README with the table between its marks."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table(figures) + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    figures = json.loads(RESULTS.read_text(encoding="utf-8"))
    README.write_text(written(README.read_text(encoding="utf-8"), figures), encoding="utf-8")
