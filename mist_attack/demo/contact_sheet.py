"""Lay a protection run out as one picture: `python -m mist_attack.demo.contact_sheet demo/report.json`.

One row per picture: before, after, their difference amplified, what the model reconstructs from each, and an img2img
of each with the same noise. Reads the files that `mist protect --report` names, so it shows what was really written.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from ..evaluation import amplified, img2img, reconstruct, seen
from ..hosts.headless import diffusers
from ..hosts.headless.checkpoints import find_checkpoint
from ..pictures.reading import read_picture, to_u8
from ..surrogate import Surrogate

COLUMNS = ("before", "after", "difference x 8", "model sees before", "model sees after", "img2img before", "... after")
AMPLIFY = 8
STRENGTH = 0.5
CELL, MARGIN, HEADER = 256, 6, 20


def row(surrogate: Surrogate, entry: dict[str, Any]) -> list[Image.Image]:
    settings = entry["report"]["settings"]
    conditioning = surrogate.conditioning(settings["prompt"])
    pictures = [read_picture(Path(entry[key])).images for key in ("input", "output")]
    views = [seen(surrogate, picture, settings["working_size"]) for picture in pictures]
    view = views[0][0]
    share = (min(1.0, view.height / view.model_height), min(1.0, view.width / view.model_width))
    made = [
        *(reconstruct(surrogate, image) for _, image in views),
        *(img2img(surrogate, image, conditioning, STRENGTH) for _, image in views),
    ]
    difference = amplified(pictures[0], pictures[1], AMPLIFY)
    return [_image(x) for x in (*pictures, difference)] + [_image(_unpadded(x, *share)) for x in made]


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    width = MARGIN + len(COLUMNS) * (CELL + MARGIN)
    heights = [max(1, round(CELL * min(1.0, row[0].height / row[0].width))) for row in rows]
    canvas = Image.new("RGB", (width, HEADER + sum(heights) + MARGIN * (len(rows) + 1)), "white")
    draw, top = ImageDraw.Draw(canvas), HEADER
    for column, title in enumerate(COLUMNS):
        draw.text((MARGIN + column * (CELL + MARGIN), 4), title, fill="black")
    for cells, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(cells):
            cell.thumbnail((CELL, height))
            canvas.paste(cell, (MARGIN + column * (CELL + MARGIN), top))
        top += height + MARGIN
    return canvas


def _unpadded(image: Tensor, rows: float, columns: float) -> Tensor:
    return image[:, :, : round(image.shape[2] * rows), : round(image.shape[3] * columns)]


def _image(tensor: Tensor) -> Image.Image:
    return Image.fromarray(to_u8(tensor.cpu()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--out", type=Path, help="default: contact_sheet.png beside the report")
    options = parser.parse_args()
    entries = [entry for entry in json.loads(options.report.read_text("utf-8")) if entry["report"]]
    surrogate = diffusers.load(find_checkpoint(options.checkpoint))
    rows = [
        surrogate.run(lambda ready, entry=entry: row(ready, entry), 1, CELL, CELL)  # type: ignore[misc]
        for entry in entries
    ]
    sheet(rows).save(options.out or options.report.with_name("contact_sheet.png"))


if __name__ == "__main__":
    main()
