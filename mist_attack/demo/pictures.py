"""Write three real, freely licensed pictures at 256 px into a folder: `python -m mist_attack.demo.pictures FOLDER`.

They come with scikit-image: an astronaut (NASA, public domain), a cup of coffee and a cat (both CC0).
"""

from __future__ import annotations

import sys
from pathlib import Path

import skimage.data
from PIL import Image, ImageOps

NAMES = ("astronaut", "coffee", "chelsea")
SIDE = 256


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        picture = Image.fromarray(getattr(skimage.data, name)())
        ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.LANCZOS).save(Path(folder) / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1])
