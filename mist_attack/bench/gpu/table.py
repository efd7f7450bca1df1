"""What a card showed, as Markdown, and the README's section of it: `python -m mist_attack.bench.gpu.table`."""

from __future__ import annotations

import json
from typing import Any

from .check import ROOT, Row

RESULTS, README = ROOT / "bench" / "results-gpu.json", ROOT / "README.md"
BEGIN, END = "<!-- from bench/results-gpu.json -->\n", "<!-- end of bench/results-gpu.json -->"
NONE = """\
It has not run on a card with this version. What is known was measured by hand, at an earlier state (one NVIDIA H200,
torch 2.11, CUDA 13, Stable Diffusion v1's architecture at 512 px): the bare encoder, forward and backward, 29 ms in
float32, the UNet 82 ms in float16, of which 20 ms are its kernels; a picture in ten fused steps 1.59 s headless (`sds`
0.96 s); a fused step in ComfyUI 0.33 231 ms, and generation bit-identical before and after it.
"""
Figures = dict[str, Any]


def table(parts: dict[str, Figures]) -> str:
    """A table for each part, with a column for each figure that one of its rows has."""
    return "\n".join(f"{name} ({part.get('seconds', '?')} s)\n\n{_table(part['rows'])}" for name, part in parts.items())


def _table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = [column.replace("_", " ") for column in columns]
    lines = [head, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    return f"{value:.5g}" if isinstance(value, float) else str(value).replace("|", "/")


def section(figures: Figures | None) -> str:
    """Of the README; None where no card has been measured."""
    if figures is None:
        return NONE
    facts = figures["machine"]
    made = f"{facts['device']}, torch {facts['torch']}, CUDA or ROCm {facts['cuda']}, UNet in {facts['dtype']}:"
    return f"{made}\n\n{table(figures['parts'])}"


def written(readme: str, figures: Figures | None) -> str:
    """The README with the section between its marks."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + section(figures) + END + rest.split(END, 1)[1]


def results() -> Figures | None:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else None


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8"), results()), encoding="utf-8")
