"""The tab's own files: lossless, with infotext; the picture's colour profile, EXIF and text are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from modules import images
from PIL import Image

from mist_attack.images import Picture, from_u8
from mist_attack.metadata import XMP_TEXT, Metadata, dpi_of, exif_of, profile_of, xmp_of
from mist_attack.saving import write_picture

from . import infotext
from .jobs import Outcome


def metadata_of(image: Image.Image) -> Metadata:
    """Of a picture as gradio hands it over: converted, but with its `info`."""
    text = {key: value for key, value in image.info.items() if isinstance(value, str) and key not in XMP_TEXT}
    exif, _ = exif_of(image, [])
    return Metadata(profile_of(image, []), exif, dpi_of(image), xmp_of(image), text)


def new_path(folder: Path) -> Path:
    """The next free number, as the web UI counts."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{images.get_next_sequence_number(str(folder), ''):05}.png"


def save(path: Path, outcome: Outcome, metadata: Metadata, source: Path | None = None) -> str:
    """Write the protected picture; its infotext. Never over `source`. Raises OutputError."""
    levels = np.asarray(outcome.image)
    alpha = levels[..., 3] if levels.shape[2] == 4 else None
    pixels = from_u8(levels[..., :3])
    text = infotext.appended(metadata.text.get("parameters"), infotext.keys_of(outcome.report))
    picture = Picture(source or path.with_suffix(".source"), pixels, alpha, metadata, ())
    write_picture(path, pixels, picture, text={"parameters": text})
    return text
