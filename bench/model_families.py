"""The table of families in docs/models.md from bench/families.json, which host tests write (MIST_FAMILIES):
`python -m bench.model_families` puts it there between its marks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from mist_attack.controls import Gradient

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "models.md", ROOT / "bench" / "families.json"
MARKS = "<!-- from bench/families.json -->\n", "<!-- end -->"
HEAD = "| family | textural | semantic, fused: gradients | tested in |\n| --- | --- | --- | --- |\n"
ORDER = get_args(Gradient)


def table(found: dict[str, Any]) -> str:
    """Markdown: families with more gradients first, each by its label."""
    rows = sorted(found.values(), key=lambda row: (-len(row["gradients"]), row["label"]))
    return HEAD + "".join(map(_row, rows))


def _row(row: dict[str, Any]) -> str:
    gradients = ", ".join(f"`{word}`" for word in ORDER if word in row["gradients"])
    label = row["label"] if row["by_detection"] else f"{row['label']} *"
    return f"| {label} | yes | {gradients} | {', '.join(row['tested'])} |\n"


def page(text: str, found: dict[str, Any]) -> str:
    """The page with the table between its marks."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}{table(found)}{MARKS[1]}{after}"


def main() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
