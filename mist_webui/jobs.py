"""One picture of the web UI through the engine: PIL in, PIL out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from mist_attack.attack import Protected
from mist_attack.budget import budget_for
from mist_attack.controls import BY_NAME
from mist_attack.errors import PictureError, SettingsError, quoted
from mist_attack.evaluation import amplified
from mist_attack.hosts.detect import loaded_model
from mist_attack.pictures.checking import check_saved
from mist_attack.pictures.masks import as_mask
from mist_attack.pictures.reading import MAX_PIXELS, from_u8, to_u8
from mist_attack.protection import protect
from mist_attack.report import Report
from mist_attack.settings import Settings

from . import made, progress

OUTPUT_SIZES = (8, 8192)
"""Pixels of the longer side, both ends allowed: at most MAX_PIXELS in a square."""
PLAIN_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"}


@dataclass(frozen=True)
class Outcome:
    original: Image.Image
    """What was protected, of the same size: RGB, or RGBA where there is transparency."""
    image: Image.Image
    """RGB, or RGBA with the picture's own alpha."""
    difference: Image.Image
    """What changed, amplified around grey."""
    report: Report
    check: Callable[[bytes], None]
    """Of a PNG of `image`. Raises BudgetError for pixels that break the promise."""


def protect_picture(
    image: Image.Image,
    settings: Settings,
    *,
    mask: Image.Image | None = None,
    target: Image.Image | None = None,
    output_size: float = 0,
    keep_extra_networks: bool = False,
) -> Outcome:
    """Protect one picture on the model now loaded. Call it inside the web UI's queue lock.

    mask: white = may change, grey is a softer budget, transparent is black; stretched to the picture. target: in place
    of the named pattern. output_size: pixels of the longer side; 0 keeps the picture's size.
    Raises MistError; an interrupt gives what was reached, and `report.stopped`.
    """
    colour = resized(in_colour(image), output_size)
    allowed = None if mask is None else as_mask(in_colour(mask), colour.height, colour.width)
    takes_small, notices = small(settings)
    surrogate = loaded_model(keep_extra_networks=keep_extra_networks, small=takes_small)
    with progress.shown(settings.steps) as on_step:
        result = protect(
            unit(colour),
            surrogate,
            settings,
            mask=allowed,
            target=None if target is None else unit(in_colour(target)),
            on_step=on_step,
        )
    return outcome_of(result, colour, allowed, settings, notices)


def outcome_of(
    result: Protected, colour: Image.Image, allowed: Tensor | None, settings: Settings, notices: list[str]
) -> Outcome:
    """Of one picture, as it was protected within its mask, in PIL."""
    report = replace(result.reports[0], notices=[*notices, *result.reports[0].notices])
    protected = Image.fromarray(to_u8(result.images))
    if colour.mode == "RGBA":
        protected.putalpha(colour.getchannel("A"))
    if not report.stopped and report.budget_used_levels:
        made.remember(protected)
    difference = Image.fromarray(to_u8(amplified(unit(colour), result.images)))
    return Outcome(colour, protected, difference, report, partial(_check, colour, allowed, settings))


def unit(colour: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1] of RGB or RGBA."""
    return from_u8(np.asarray(colour)[..., :3])


def alpha_of(colour: Image.Image) -> np.ndarray | None:
    """(H, W) uint8."""
    return np.asarray(colour.getchannel("A")) if colour.mode == "RGBA" else None


def small(settings: Settings) -> tuple[bool, list[str]]:
    """Whether the small autoencoder is to be used, and what to say where it was asked for in vain."""
    if settings.autoencoder != "small":
        return False, []
    if settings.objective in BY_NAME["autoencoder"].uses:
        return True, []
    return False, [f"autoencoder small is for the textural mode alone: {settings.objective} used the model's own"]


def _check(before: Image.Image, mask: Tensor | None, settings: Settings, data: bytes) -> None:
    check_saved("protected.png", data, budget_for(unit(before), mask, settings), alpha_of(before))


def in_colour(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where there is transparency. Raises PictureError for more than 8 bits, or too many pixels."""
    if image.width * image.height > MAX_PIXELS:
        found = f"{image.width} x {image.height}"
        raise PictureError(f"Expected at most {MAX_PIXELS} pixels, found {found}; reduce the picture first.")
    if image.mode not in PLAIN_MODES:
        raise PictureError(f"Expected a picture of 8 bits per channel, found mode {image.mode}; save it as RGB PNG.")
    transparent = image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")


def resized(image: Image.Image, output_size: float) -> Image.Image:
    """The longer side made `output_size` pixels; 0 keeps the size. Raises SettingsError."""
    size = checked_size(output_size)
    if not size:
        return image
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def checked_size(size: Any) -> int:
    """An output size as somebody asks for it. Raises SettingsError."""
    low, high = OUTPUT_SIZES
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not (size == 0 or low <= size <= high):
        expected = f"Expected output size 0, which keeps the picture's, or from {low} to {high} pixels"
        raise SettingsError(f"{expected}; got {quoted(size)}.")
    return int(size)
