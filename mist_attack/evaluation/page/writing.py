"""The page from what was found. Everything that comes from people is escaped; no name of theirs becomes code or a
path."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ...words import figure
from ..effect import Pictures
from ..imitating import UNTAUGHT
from ..mimicry import ORIGINALS, SHOWN, Mimicry
from ..results import MADE, Pair
from ..transforms import SUITE, NotMeasuredError
from ..words import DEMO, LABELS
from .plots import plots, require_matplotlib

HERE = Path(__file__).parent
SHOWN_PIXELS = 2**20
"""Of a picture; a larger one is shown reduced, and its middle at its own scale."""
CROP = 512  # pixels
SHOWN_PAIRS = 12
"""A page that goes by mail has pictures and plots of so many, and the figures of all."""

GRID = 6  # pictures in a row
ROWS = {
    SHOWN: "The originals",
    ORIGINALS: "By a LoRA of the originals",
    UNTAUGHT: "By the model without a LoRA",
}


@dataclass(frozen=True)
class Shown:
    """A picture inside the page."""

    uri: str
    width: int
    height: int


def page(
    found: Mapping[str, Any], pairs: Sequence[Pair], mimicries: Sequence[Mimicry] = (), *, embed: bool = True
) -> str:
    """HTML of all that `results.results` found of `pairs` and `mimicries`, each in the same order. embed: with the
    pictures."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = (HERE / "page.js").read_text("utf-8")
    missing, draws = {}, True
    try:
        require_matplotlib()
    except NotMeasuredError as error:
        missing, draws = {"plots": str(error)}, False
    return environment.get_template("page.html").render(
        found={**found, "not_measured": found["not_measured"] | missing},
        sections=[
            _section(pair, figures, embed=embed and i < SHOWN_PAIRS, draws=draws and i < SHOWN_PAIRS, number=i)
            for i, (pair, figures) in enumerate(zip(pairs, found["pairs"], strict=True))
        ],
        grids=[_grid(made.pictures) if embed else [] for made in mimicries],
        title=_title,
        embedded=embed,
        labels=LABELS,
        demo_words=DEMO,
        suite=SUITE,
        number=figure,
        style=Markup((HERE / "page.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )


def _section(pair: Pair, figures: Mapping[str, Any], *, embed: bool, draws: bool, number: int) -> dict[str, Any]:
    from markupsafe import Markup

    models = []
    for i, (found, made) in enumerate(zip(figures["models"], pair.pictures, strict=True)):
        drawn = plots(figures, found, f"{number} {i}") if draws else {}
        shown = _made(made) if embed else []
        models.append({"figures": found, "made": shown, "plots": {title: Markup(svg) for title, svg in drawn.items()}})
    return {"pair": figures, "compared": _compared(pair) if embed else [], "models": models}


def _grid(sets: Mapping[str, Sequence[Tensor]]) -> list[dict[str, Any]]:
    """A row for each set of a `Mimicry`: the originals, what LoRAs made, what the model makes without one."""
    names = sorted(sets, key=lambda name: (name != SHOWN, name != ORIGINALS, name == UNTAUGHT))
    return [{"title": _title(name), "pictures": [_shown(_image(x)) for x in sets[name][:GRID]]} for name in names]


def _title(name: str) -> str:
    return ROWS.get(name, f"By a LoRA of the {name} pictures")


def _compared(pair: Pair) -> list[dict[str, Any]]:
    before, after = (_image(levels) for levels in (pair.before, pair.after))
    pixels = before.width * before.height
    if pixels <= SHOWN_PIXELS:
        return [_pair("The picture", before, after)]
    scale = (SHOWN_PIXELS / pixels) ** 0.5
    size = (round(before.width * scale), round(before.height * scale))
    left, top = ((side - CROP) // 2 for side in before.size)
    box = (max(0, left), max(0, top), min(before.width, left + CROP), min(before.height, top + CROP))
    reduced = [image.resize(size, Image.Resampling.LANCZOS) for image in (before, after)]
    return [
        _pair(f"The picture, shown reduced to {size[0]} x {size[1]} pixels", *reduced),
        _pair(f"Its middle, {box[2] - box[0]} x {box[3] - box[1]} pixels", before.crop(box), after.crop(box)),
    ]


def _made(pictures: Pictures) -> list[dict[str, Any]]:
    return [
        _pair(title, _image(pictures[f"{name}_before"]), _image(pictures[f"{name}_after"]))
        for name, title in MADE.items()
        if f"{name}_before" in pictures
    ]


def _pair(title: str, before: Image.Image, after: Image.Image) -> dict[str, Any]:
    return {"title": title, "before": _shown(before), "after": _shown(after)}


def _shown(image: Image.Image) -> Shown:
    """Lossless: what is looked at with a loupe is what there is."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return Shown(
        f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", image.width, image.height
    )


def _image(levels: Tensor) -> Image.Image:
    return Image.fromarray(levels[0].permute(1, 2, 0).contiguous().cpu().numpy())
