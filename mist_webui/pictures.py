"""Pictures as programs send and get them: base64. Decoded by the rules of the command, limits included."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modules import images
from PIL import Image, PngImagePlugin

from mist_attack.errors import PictureError
from mist_attack.pictures.reading import MAX_BYTES, Picture, as_pil, read_picture
from mist_attack.sets.settings import SetSettings

from . import infotext
from .jobs import Outcome


def decoded(name: str, text: str) -> Picture:
    """A picture in base64, on any number of lines, or as a data: URL. No network is asked, no file is read.

    Raises PictureError, which calls the picture `name`."""
    data = _bytes_of(name, text)
    if not data:
        raise PictureError(f"{name}: expected a picture in base64, found nothing.")
    return read_picture(Path(name), data)


def _bytes_of(name: str, text: str) -> bytes:
    if len(text) * 3 // 4 > MAX_BYTES:
        raise PictureError(f"{name}: expected at most {MAX_BYTES} bytes, found more; reduce it first.")
    header, comma, body = text.partition(",") if text[:5].lower() == "data:" else ("", "", text)
    if header and not (comma and header.lower().endswith(";base64")):
        raise PictureError(f"{name}: expected a data: URL in base64, found another.")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"{name}: expected a picture in base64, found something else.") from error


def parameters_of(picture: Picture) -> str | None:
    """Its generation parameters, as the web UI reads them, of what we have read ourselves.

    Of a picture as it was sent the web UI's reader may take the EXIF for the name of a file, and open it."""
    image = as_pil(picture)
    found = {"parameters": picture.metadata.text.get("parameters"), "exif": picture.metadata.exif}
    image.info = {name: value for name, value in found.items() if value}
    try:
        return images.read_info_from_image(image)[0]
    except Exception:  # it meets what it has not foreseen
        return None


def encoded(image: Image.Image, parameters: str = "", check: Callable[[bytes], None] = lambda data: None) -> str:
    """PNG in base64, whatever format the web UI saves in; `check` is shown the file, and may refuse it."""
    chunks = PngImagePlugin.PngInfo()
    if parameters:
        chunks.add_text("parameters", parameters)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks)
    check(buffer.getvalue())
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def answer(
    outcome: Outcome,
    parameters: str | None,
    notices: Sequence[str],
    of_set: SetSettings | None = None,
    *,
    with_difference: bool,
) -> dict[str, Any]:
    """A protected picture as programs get it. parameters, notices: of the file that they sent."""
    text = infotext.appended(parameters, infotext.keys_of(outcome.report, of_set))
    report = outcome.report.as_dict()
    return {
        "image": encoded(outcome.image, text, outcome.check),
        "difference": encoded(outcome.difference) if with_difference else "",
        "words": outcome.report.words(),
        "report": report | {"notices": [*report["notices"], *notices]},
        "infotext": text,
    }
