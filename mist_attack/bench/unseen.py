"""The pictures to judge on: those of four kinds that anyone has, or a folder of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import PictureError, SettingsError
from ..pictures.reading import PICTURE_SUFFIXES, from_u8, read_picture, to_u8

SIDE = 256


def pictures(each: int | None = None, side: int = SIDE, folder: Path | None = None) -> dict[str, list[Tensor]]:
    """Kind -> at most `each` pictures, (1, 3, side, side) in [0, 1].

    Without a folder, pictures that neither the demo models were trained on nor any preset was tuned on. A folder has
    one sub-folder for each kind, or pictures of one kind. Raises PictureError; SettingsError without scikit-image."""
    return _generated(each, side) if folder is None else _of(folder, each, side)


def _generated(each: int | None, side: int) -> dict[str, list[Tensor]]:
    try:
        from ..demo import generated
    except ImportError as error:
        raise SettingsError('The photographs come with scikit-image: pip install "mist-protect[demo]"') from error

    return generated.unseen(len(generated.PHOTOGRAPHS) if each is None else each, side)


def _of(folder: Path, each: int | None, side: int) -> dict[str, list[Tensor]]:
    if not folder.is_dir():
        raise PictureError(f"Expected a folder of pictures; {folder} is none.")
    kinds = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    files = {kind.name: _files(kind)[:each] for kind in kinds}
    found = {kind: [_square(path, side) for path in paths] for kind, paths in files.items() if paths}
    if not found:
        raise PictureError(f"{folder} holds no picture, and neither do its sub-folders (a kind of picture each).")
    return found


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURE_SUFFIXES]


def _square(path: Path, side: int) -> Tensor:
    """Shorter side reduced, centre cropped."""
    image = Image.fromarray(to_u8(read_picture(path).images))
    return from_u8(np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)))
