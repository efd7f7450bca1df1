"""docs/presets.jpg: originals, Mist at 16 levels, `default` and `invisible`, four kinds at 100 %, a part at 200 %.

python bench/presets_sheet.py FOLDER     # of a small autoencoder, against which they are protected (textural)
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mist_attack.bench import judges, unseen
from mist_attack.bench.ways import by_mist, by_preset
from mist_attack.pictures.reading import to_u8

OUT = Path(__file__).parents[1] / "docs" / "presets.jpg"
SIDE, HEAD = 256, 20
COLUMNS = ("original", "Mist, 16 levels", "default", "invisible")


def main(folder: str) -> None:
    checkpoint = judges.encoders(Path(folder))[0]
    pictures = [of[0] for of in unseen.pictures(1, SIDE).values()]
    sheet = Image.new("RGB", (2 * len(COLUMNS) * SIDE, HEAD + len(pictures) * SIDE), "white")
    for column, name in enumerate(COLUMNS):
        ImageDraw.Draw(sheet).text((column * SIDE + 4, 4), name, "black")
        ImageDraw.Draw(sheet).text(((column + len(COLUMNS)) * SIDE + 4, 4), f"{name}, 200 %", "black")
    for row, picture in enumerate(pictures):
        for column, image in enumerate(map(Image.fromarray, map(to_u8, ways(checkpoint, picture)))):
            part = image.crop((64, 64, 64 + SIDE // 2, 64 + SIDE // 2)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(image, (column * SIDE, HEAD + row * SIDE))
            sheet.paste(part, ((column + len(COLUMNS)) * SIDE, HEAD + row * SIDE))
    sheet.save(OUT, quality=90, subsampling="4:4:4")


def ways(checkpoint: Path, picture: Tensor) -> list[Tensor]:
    model = judges.loaded(checkpoint, torch.device("cpu"))
    mist = by_mist(model, picture, "textural", 16)
    return [picture, mist, *(by_preset(model, picture, "textural", name) for name in COLUMNS[2:])]


if __name__ == "__main__":
    main(sys.argv[1])
