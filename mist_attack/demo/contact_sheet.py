"""Lay a protection run out as one picture: `python -m mist_attack.demo.contact_sheet demo/report.json`.

One row per picture: before, after, their difference amplified, what the model reconstructs from each, and an img2img
of each with the same noise; with --real, what autoencoders that nobody made attackable reconstruct from the same files.
Reads the files that `mist protect --report` names, so it shows what was really written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from ..bench import judges
from ..bench.reach import reach
from ..evaluation import amplified, img2img, reconstruct, seen
from ..hosts.headless import diffusers
from ..hosts.headless.checkpoints import find_checkpoint
from ..pictures.reading import read_picture, to_u8
from ..surrogate import Surrogate
from ..views import View

COLUMNS = ("before", "after", "difference x 8", "model sees before", "model sees after", "img2img before", "... after")
NOTE = (
    "The model that sees here is the demo model. It was trained to be attackable: a real one is moved far less. "
    "Pictures protected against it are not protected."
)
WARNING = "#b00020"
AMPLIFY = 8
STRENGTH = 0.5
CELL, MARGIN, LINE = 256, 6, 16
HEADER = 2 * LINE + 4  # the note, and the names of the columns


def row(surrogate: Surrogate, entry: dict[str, Any]) -> list[Image.Image]:
    conditioning = surrogate.conditioning(entry["report"]["settings"]["prompt"])
    pictures = read(entry)
    made = [
        *looks(surrogate, entry, reconstruct),
        *looks(surrogate, entry, lambda model, image: img2img(model, image, conditioning, STRENGTH)),
    ]
    return [_image(x) for x in (*pictures, amplified(pictures[0], pictures[1], AMPLIFY), *made)]


def on_real(model: Surrogate, entry: dict[str, Any]) -> list[Image.Image]:
    """Two more cells, of an autoencoder that nobody made attackable; none without its decoder. Prints how far the
    protection moves it."""
    (_, before), (_, after) = views(model, entry)
    found = reach(model, before, after)
    print(
        f"{Path(entry['input']).name}, protected against the demo model, seen by {model.name}: "
        f"{100 * (1 - found.left):.0f} % off the distance to the target, moved {found.times_noise:.1f} times as far as "
        "by noise of the same size"
    )
    return [] if found.lost_db is None else [_image(x) for x in looks(model, entry, reconstruct)]


def read(entry: dict[str, Any]) -> list[Tensor]:
    """The picture before and after, from the files."""
    return [read_picture(Path(entry[key])).images for key in ("input", "output")]


def views(model: Surrogate, entry: dict[str, Any]) -> list[tuple[View, Tensor]]:
    """Of both, and what the model sees of each."""
    size = entry["report"]["settings"]["working_size"]
    return [seen(model, picture, size) for picture in read(entry)]


def looks(model: Surrogate, entry: dict[str, Any], make: Callable[[Surrogate, Tensor], Tensor]) -> list[Tensor]:
    """What is made of what the model sees of each."""
    return [_unpadded(make(model, image), view) for view, image in views(model, entry)]


def sheet(rows: list[list[Image.Image]], columns: Sequence[str], note: str) -> Image.Image:
    width = MARGIN + len(columns) * (CELL + MARGIN)
    heights = [max(1, round(CELL * min(1.0, row[0].height / row[0].width))) for row in rows]
    canvas = Image.new("RGB", (width, HEADER + sum(heights) + MARGIN * (len(rows) + 1)), "white")
    draw, top = ImageDraw.Draw(canvas), HEADER
    draw.text((MARGIN, 4), note, fill=WARNING)
    for column, title in enumerate(columns):
        draw.text((MARGIN + column * (CELL + MARGIN), 4 + LINE), title, fill="black")
    for cells, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(cells):
            cell.thumbnail((CELL, height))
            canvas.paste(cell, (MARGIN + column * (CELL + MARGIN), top))
        top += height + MARGIN
    return canvas


def _unpadded(image: Tensor, view: View) -> Tensor:
    rows, columns = min(1.0, view.height / view.model_height), min(1.0, view.width / view.model_width)
    return image[:, :, : round(image.shape[2] * rows), : round(image.shape[3] * columns)]


def _image(tensor: Tensor) -> Image.Image:
    return Image.fromarray(to_u8(tensor.cpu()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--real", type=Path, help=f"small autoencoders of others (default: {judges.ENVIRONMENT})")
    parser.add_argument("--out", type=Path, help="default: contact_sheet.png beside the report")
    options = parser.parse_args()
    entries = [entry for entry in json.loads(options.report.read_text("utf-8")) if entry["report"]]
    surrogate = diffusers.load(find_checkpoint(options.checkpoint))
    rows = [
        surrogate.run(lambda ready, entry=entry: row(ready, entry), 1, CELL, CELL)  # type: ignore[misc]
        for entry in entries
    ]
    columns = list(COLUMNS)
    for path in judges.encoders(judges.real_folder(options.real)):
        model = judges.loaded(path, surrogate.device)
        cells = [model.run(lambda ready, entry=entry: on_real(ready, entry), 1, CELL, CELL) for entry in entries]  # type: ignore[misc]
        columns += [f"{model.name.split(' ')[0]} sees before", "... after"] if any(cells) else []
        rows = [[*row, *more] for row, more in zip(rows, cells, strict=True)]
    made = sheet(rows, columns, NOTE if surrogate.is_demo else surrogate.name)
    made.save(options.out or options.report.with_name("contact_sheet.png"))


if __name__ == "__main__":
    main()
