"""What was found of one pair of pictures or several, as one JSON object and as a table of one figure a line."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..flat import flat_figures
from ..words import visible
from .effect import Pictures
from .intervals import Interval, interval, worst_median
from .judging import NEVER, Judgement, notices_of
from .metrics import spectrum, visibility
from .survival import NEAREST, WORST
from .transforms import SUITE
from .words import HALF, imitated, verdict

FORMAT = 1
COLUMNS = ("original", "protected", "model", "view", "figure", "value", "low", "high")
MADE = {
    "reconstruction": "What the autoencoder keeps",
    "img2img_0.3": "img2img at strength 0.3",
    "img2img_0.7": "img2img at strength 0.7",
    "inpainting": "The middle painted anew",
}
"""What a model makes of both pictures, by the names of `Judgement.pictures`, with titles."""

TOLD = "model", "is_demo", "about"
"""Of a summary, beside its verdict."""
MEDIANS = ("shift_over_noise", "after_half", WORST, NEAREST)
NATIVE_TIMES = "native_shift_over_noise"
"""Of a summary: as shift_over_noise, but in the crops of those pictures that the model sees reduced."""
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet computes what begins so."""


@dataclass(frozen=True)
class Pair:
    """One picture before and after, judged by each model. before, after: (1, 3, H, W) uint8."""

    original: str
    protected: str
    before: Tensor
    after: Tensor
    judgements: list[Judgement]
    notices: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        seen = visibility(self.before, self.after)
        ends, shares = spectrum(self.before, self.after)
        return {
            "original": self.original,
            "protected": self.protected,
            "width": self.before.shape[3],
            "height": self.before.shape[2],
            "notices": [*self.notices, *notices_of(self.before, self.after)],
            "words": visible(seen, flat_figures(self.before, self.after)["flat_place"]),
            "visibility": seen,
            "spectrum": {"cycles_per_pixel": ends, "share_of_power": shares},
            "models": [judgement.figures for judgement in self.judgements],
        }

    @property
    def pictures(self) -> list[Pictures]:
        return [judgement.pictures for judgement in self.judgements]

    def sheet(self) -> Tensor:
        """`sheet` of the first model; where it has no decoder, the two pictures themselves."""
        made = self.judgements[0].pictures
        return sheet(made) if made else torch.cat([self.before, self.after], dim=3)

    def sheet_words(self) -> str:
        """What is where on it."""
        rows = [title for name, title in MADE.items() if f"{name}_before" in self.judgements[0].pictures]
        if not rows:
            return "Left the original, right the protected picture: this model has no decoder to show what it keeps."
        return f"Left from the original, right from the protected picture; from above: {'; '.join(rows)}."


def results(
    pairs: Sequence[dict[str, Any]],
    failed: dict[str, str],
    not_measured: dict[str, str],
    mimicries: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Everything that is written. pairs: `Pair.figures` of one or more; failed: names and why; mimicries:
    `Mimicry.figures` of each model that was fine-tuned on all of them."""
    found, never = summaries(pairs), {name: why for name, why in NEVER.items() if name != "mimicry" or not mimicries}
    return _finite(
        {
            "format": FORMAT,
            "mist": __version__,
            "verdicts": [{name: row[name] for name in TOLD} | {"words": verdict(row)} for row in found],
            "summary": found,
            "mimicry": [
                {**figures, "words": [imitated(figures, style) for style in figures["styles"]]} for figures in mimicries
            ],
            "not_measured": never | not_measured,
            "failed": failed,
            "pairs": list(pairs),
        }
    )


def _finite(found: Any) -> Any:
    """What overflowed was not measured: no JSON holds it."""
    if isinstance(found, dict):
        return {name: _finite(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def summaries(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each model, of the whole pictures: MEDIANS, each with value, low and high; and NATIVE_TIMES, or None.

    Of one pair they are its own, with intervals over the regions of the picture; of several, medians with intervals
    over the pictures."""
    by_model = zip(*(pair["models"] for pair in pairs), strict=True)
    return [
        (_of_one(model) if len(pairs) == 1 else _of_several(model)) | {NATIVE_TIMES: _native_times(model)}
        for model in by_model
    ]


def _native_times(judgements: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    views = [found["views"]["native"] for found in judgements if "native" in found["views"]]
    times = [times for view in views if (times := view["effect"]["shift_over_noise"])]
    if len(judgements) == 1:
        return times[0] if times else None
    return _as_dict(interval([found["value"] for found in times])) if times else None


def _of_one(judgements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (found,) = judgements
    whole = found["views"]["whole"]
    survival = {name: row for name, row in whole["survival"].items() if name in SUITE}
    return _summary(found, 1, "16 regions of the picture", survival) | {
        "shift_over_noise": whole["effect"]["shift_over_noise"],
        "after_half": survival[HALF]["share_left"],
        WORST: whole["survival"].get(WORST),
        NEAREST: whole["survival"].get(NEAREST),
    }


def _of_several(judgements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    wholes = [found["views"]["whole"] for found in judgements]
    names = [name for name in SUITE if all(_is_known(whole, name) for whole in wholes)]
    times = [whole["effect"]["shift_over_noise"] for whole in wholes]
    if not names or None in times:
        return _summary(judgements[0], len(judgements), "", ()) | dict.fromkeys(MEDIANS)
    tables = {
        key: {name: [whole["survival"][name][key]["value"] for whole in wholes] for name in names}
        for key in ("share_left", "over_noise")
    }
    (worst, left), (nearest, over) = worst_median(tables["share_left"]), worst_median(tables["over_noise"])
    return _summary(judgements[0], len(judgements), f"{len(judgements)} pictures", names) | {
        "shift_over_noise": _as_dict(interval([found["value"] for found in times])),
        "after_half": _as_dict(interval(tables["share_left"][HALF])),
        WORST: {"name": worst, "share_left": _as_dict(left)},
        NEAREST: {"name": nearest, "over_noise": _as_dict(over)},
    }


def _summary(found: dict[str, Any], pictures: int, over: str, survival: Any) -> dict[str, Any]:
    return {
        "model": found["model"],
        "is_demo": found["is_demo"],
        "about": found["about"],
        "pictures": pictures,
        "intervals_over": over,
        "changes": len(survival),
    }


def _is_known(whole: dict[str, Any], name: str) -> bool:
    row = whole["survival"].get(name, {})
    return bool(row.get("share_left") and row.get("over_noise"))


def _as_dict(found: Interval) -> dict[str, float]:
    return {"value": found.median, "low": found.low, "high": found.high}


def sheet(pictures: Pictures) -> Tensor:
    """One (1, 3, H, W) uint8 picture of what the model made, which is not nothing: a row for each of MADE, left of the
    original, right of the protected picture."""
    rows = [
        torch.cat([pictures[f"{name}_before"], pictures[f"{name}_after"]], dim=3)
        for name in MADE
        if f"{name}_before" in pictures
    ]
    return torch.cat(rows, dim=2)


def as_json(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)


def as_csv(found: dict[str, Any]) -> str:
    """A figure a line; what a spreadsheet would compute is quoted."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair in found["pairs"]:
        for row in _rows(pair):
            writer.writerow([_inert(pair[key]) for key in ("original", "protected")] + [_inert(cell) for cell in row])
    for figures in found["mimicry"]:
        writer.writerows(["", "", *map(_inert, row)] for row in _mimicry_rows(figures))
    return table.getvalue()


def _rows(pair: dict[str, Any]) -> Iterator[list[Any]]:
    """model, view, figure, value, low, high."""
    for name, value in pair["visibility"].items():
        yield ["", "", name, value, None, None]
    for found in pair["models"]:
        for view, figures in found["views"].items():
            yield from _flat(found["model"], view, "", figures["effect"])
            for name, row in figures["survival"].items():
                yield from _flat(found["model"], view, f"{name}.", row)
        for row in found["denoising"] or ():
            yield from _flat(found["model"], "whole", f"denoising.{row['timestep']}.", row)
        for row in found["img2img"] or ():
            yield from _flat(found["model"], "whole", f"img2img.{row['strength']:g}.", row)
        yield from _flat(found["model"], "whole", "inpainting.", found["inpainting"] or {})


def _mimicry_rows(found: dict[str, Any]) -> Iterator[list[Any]]:
    for style in found["styles"]:
        view = f"mimicry, as {style['eye']} sees it"
        yield from _flat(found["model"], view, "distance.", style["distances"])
        yield from _flat(found["model"], view, "", {"originals_over_model": style["originals_over_model"]})
        for name, ratios in style["protected"].items():
            yield from _flat(found["model"], view, f"{name}_", ratios)


def _flat(model: str, view: str, prefix: str, figures: dict[str, Any]) -> Iterator[list[Any]]:
    for name, value in figures.items():
        if name in ("timestep", "strength"):
            continue
        ends = [value["value"], value["low"], value["high"]] if isinstance(value, dict) else [value, None, None]
        yield [model, view, f"{prefix}{name}", *ends]


def _inert(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell
