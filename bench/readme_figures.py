"""The README's, docs/evidence.md's and docs/sets.md's figures from evidence/results.json, bench/results.json,
bench/results-gpu.json and bench/results-sets.json: `python bench/readme_figures.py` writes them there, each between its
marks.
"""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mist_attack.bench.evidence.tables import first_table, page_section
from mist_attack.bench.gpu.table import table as card_table
from mist_attack.bench.halving import LADDER
from mist_attack.bench.judged_tables import judged_section
from mist_attack.bench.machines import read as machines_in
from mist_attack.bench.sets_table import section as sets_section

ROOT = Path(__file__).parents[1]
README, EVIDENCE_PAGE = ROOT / "README.md", ROOT / "docs" / "evidence.md"
EVIDENCE = ROOT / "evidence" / "results.json"
SETS_PAGE, SETS = ROOT / "docs" / "sets.md", ROOT / "bench" / "results-sets.json"
RESULTS, CARD_RESULTS = ROOT / "bench" / "results.json", ROOT / "bench" / "results-gpu.json"
MARKS = "<!-- from bench/results.json -->\n", "<!-- end -->"
JUDGED_MARKS = "<!-- judged, from bench/results.json -->\n", "<!-- end of judged -->"
EVIDENCE_MARKS = "<!-- from evidence/results.json -->\n", "<!-- end of evidence/results.json -->"
SETS_MARKS = "<!-- from bench/results-sets.json -->\n", "<!-- end of bench/results-sets.json -->"
CARD_MARKS = "<!-- from bench/results-gpu.json -->\n", "<!-- end of bench/results-gpu.json -->"
NO_CARD = """\
It has not run on a card with this version. What is known was measured by hand, at an earlier state (one NVIDIA H200,
torch 2.11, CUDA 13, Stable Diffusion v1's architecture at 512 px): the bare encoder, forward and backward, 29 ms in
float32, the UNet 82 ms in float16, of which 20 ms are its kernels; a picture in ten fused steps 1.59 s headless (`sds`
0.96 s); a fused step in ComfyUI 0.33 231 ms, and generation bit-identical before and after it.
"""
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


def halved(name: str) -> Callable[[Figures], str]:
    def cell(figures: Figures) -> str:
        tried = figures[name].values()
        after, before = (
            ", ".join(f"{one[figure]['median']:.2f}" for one in tried)
            for figure in ("off_over_mist", "plainly_over_mist")
        )
        more = ", ".join(f"{one['psnr_db_more']:.1f}" for one in tried)
        return f"{after} times; {before} times; {more} dB"

    return cell


TRIED = ", ".join(map(str, LADDER))
KINDS = "drawings, line drawings, paintings, photographs; the second model's"
ROWS: list[tuple[str, str, Callable[[str], Callable[[Figures], str]]]] = [
    ("a fused step of 512 px is faster than Mist's, exact gradient", "step_ratio_exact_512", times),
    ("... score distillation (`sds`)", "step_ratio_sds_512", times),
    ("... `amortised`", "step_ratio_amortised_512", times),
    ("a step costs over the bare modules, worst upper end of the intervals", "loop_over_modules", times),
    ("peak memory against Mist's at 512 px, weights included: exact", "peak_ratio_exact_512", share),
    ("... `sds`", "peak_ratio_sds_512", share),
    ("... low-VRAM", "peak_ratio_lowvram_512", share),
    ("cost of a pixel at 1024 px, against 256 px (`sds`, the whole picture at once)", "cost_per_pixel_by_side", last),
    ("memory of the model for 2048 px in tiles, against 512 px", "model_memory_2048_over_512", times),
    ("cost per covered pixel of 2048 px in tiles, against 512 px", "cost_per_covered_pixel_2048_over_512", times),
    ("wall time outside the model, gallery of pictures of 512 px", "gallery_outside_model", share),
    ("... one picture after the other", "gallery_waiting_in_turn", share),
    ("steps (preset `quick`) as strong as Mist's 100 within 1 %, on each demo model", "steps_to_mist_100", count),
    (f"... their distance to the target over Mist's: {KINDS}", "strength_by_kind_fused", by_kind("target_distance")),
    (f"... their denoising loss over Mist's: {KINDS}", "strength_by_kind_fused", by_kind("denoising_loss")),
    ("time to equal protection against Mist's, 512 px, `quick`'s gradient", "time_ratio_to_equal_protection", times),
    (f"`sprint` after a halving over Mist's 100 steps, in {TRIED}; before it; PSNR more", "halved_by_steps", halved),
    ("`sprint`'s steps as strong as Mist's 100 after a halving, no more visible", "steps_to_mist_100_halved", count),
    ("... time to that against Mist's, 512 px", "time_ratio_to_equal_halved", times),
]  # fmt: skip


HIGHER_IS_BETTER = "step_ratio", "time_ratio"


def table(machines: Sequence[Figures]) -> str:
    """Markdown: each figure on every machine and, of several, the worst one first, which is what is claimed; figures
    that none has measured are left out."""
    columns = [f"{told['device']}; {told['threads']} threads" for told in (each["machine"] for each in machines)]
    head = ["figure", *(["claimed"] if len(machines) > 1 else []), *columns]
    rows = [row for row in (_row(*kind, machines) for kind in ROWS) if row]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *rows))


def _row(
    words: str, name: str, kind: Callable[[str], Callable[[Figures], str]], machines: Sequence[Figures]
) -> list[str]:
    known = [figures for figures in machines if figures.get(name) is not None]
    if not known:
        return []
    cell, worst = kind(name), min if name.startswith(HIGHER_IS_BETTER) else max
    claimed = [cell(worst(known, key=lambda figures: _size(figures[name])))] if len(machines) > 1 else []
    return [words, *claimed, *(cell(figures) if figures in known else "" for figures in machines)]


def _size(value: Any) -> float:
    """Of what `last` shows the last number; of what no machine changes, none."""
    value = list(value.values())[-1] if isinstance(value, dict) else value
    return 0 if isinstance(value, dict) else value


def card_section(figures: Figures | None) -> str:
    """Markdown; None where no card has been measured."""
    if figures is None:
        return NO_CARD
    facts = figures["machine"]
    made = f"{facts['device']}, torch {facts['torch']}, CUDA or ROCm {facts['cuda']}, UNet in {facts['dtype']}:"
    return f"{made}\n\n{card_table(figures['parts'])}"


def between(marks: tuple[str, str], text: str, readme: str) -> str:
    """The README with `text` between the marks."""
    begin, end = marks
    before, rest = readme.split(begin)
    return before + begin + text + end + rest.split(end, 1)[1]


def written(readme: str, machines: Sequence[Figures], card: Figures | None, evidence: Figures) -> str:
    """The README with all sections. What was judged does not depend on the machine: the last one that did is shown."""
    sections = {
        EVIDENCE_MARKS: first_table(evidence),
        JUDGED_MARKS: judged_section(dict(ChainMap(*reversed(machines)))),
        MARKS: table(machines),
        CARD_MARKS: card_section(card),
    }
    for marks, text in sections.items():
        readme = between(marks, text, readme)
    return readme


def read(path: Path) -> Figures | None:
    """None where nothing has been measured."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


if __name__ == "__main__":
    readme = README.read_text(encoding="utf-8")
    evidence = read(EVIDENCE) or {}
    README.write_text(written(readme, machines_in(RESULTS), read(CARD_RESULTS), evidence), encoding="utf-8")
    page = EVIDENCE_PAGE.read_text(encoding="utf-8")
    EVIDENCE_PAGE.write_text(between(EVIDENCE_MARKS, page_section(evidence), page), encoding="utf-8")
    page = SETS_PAGE.read_text(encoding="utf-8")
    SETS_PAGE.write_text(between(SETS_MARKS, sets_section(read(SETS) or {}), page), encoding="utf-8")
