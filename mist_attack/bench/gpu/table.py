"""What a card showed, as Markdown."""

from __future__ import annotations

from typing import Any

from .check import Row

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
