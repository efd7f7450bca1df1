"""Figures under one name each: METHOD.FIGURE.MODEL, and the ends of its 95 % interval under _low and _high."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...evaluation.intervals import Interval, interval

METHODS = ("mist", "default", "invisible", "robust")
ENDS = ("median", "low", "high")
Flat = dict[str, float]


def key(method: str, figure: str, model: str) -> str:
    return f"{method}.{figure}.{model}"


def told(method: str, model: str, figures: Mapping[str, Mapping[str, Any]]) -> Flat:
    """figures: name -> median, low, high."""
    return {
        key(method, name, model) + ("" if end == "median" else f"_{end}"): float(found[end])
        for name, found in figures.items()
        for end in ENDS
    }


def medians(method: str, model: str, rows: Sequence[Mapping[str, float]]) -> Flat:
    """Over rows of the same names."""
    return told(method, model, {name: interval([row[name] for row in rows])._asdict() for name in rows[0]})


def read(flat: Mapping[str, float], method: str, figure: str, model: str) -> Interval | None:
    """None where it was not measured."""
    name = key(method, figure, model)
    return Interval(flat[name], flat[f"{name}_low"], flat[f"{name}_high"]) if name in flat else None


def models(flat: Iterable[str], figure: str) -> list[str]:
    """Those that this figure was measured on, in the order of the results."""
    parts = [name.split(".", 2) for name in flat]
    found = [rest[1] for _, *rest in parts if rest[:1] == [figure]]
    return list(dict.fromkeys(model for model in found if not model.endswith(("_low", "_high"))))
