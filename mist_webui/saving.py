"""The tab's own files: lossless, with infotext; the picture's colour profile, EXIF and text are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from modules import images
from PIL import Image

from mist_attack.pictures import metadata
from mist_attack.pictures.metadata import Metadata
from mist_attack.pictures.reading import Picture, from_u8
from mist_attack.pictures.writing import write_picture

from . import infotext
from .jobs import Outcome


def metadata_of(image: Image.Image, notices: list[str]) -> Metadata:
    """Of a picture as gradio hands it over: converted, but with its `info`. What is left out is told in `notices`."""
    return metadata.metadata_of(image, notices)[0]


def new_path(folder: Path) -> Path:
    """The next free number, as the web UI counts."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{images.get_next_sequence_number(str(folder), ''):05}.png"


def save(path: Path, outcome: Outcome, kept: Metadata, source: Path | None = None) -> str:
    """Write the protected picture; its infotext. Never over `source`. Raises OutputError and BudgetError."""
    levels = np.asarray(outcome.image)
    alpha = levels[..., 3] if levels.shape[2] == 4 else None
    pixels = from_u8(levels[..., :3])
    text = infotext.appended(kept.text.get("parameters"), infotext.keys_of(outcome.report))
    picture = Picture(source or path.with_suffix(".source"), pixels, alpha, kept, ())
    write_picture(path, pixels, picture, text={"parameters": text}, check=outcome.check)
    return text
