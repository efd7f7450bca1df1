"""One picture of the web UI through the engine: PIL in, PIL out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mist_attack.errors import PictureError
from mist_attack.evaluation import amplified
from mist_attack.hosts.detect import loaded_model
from mist_attack.images import from_u8, to_u8
from mist_attack.protect import protect
from mist_attack.report import Report
from mist_attack.settings import Settings

from . import progress

PLAIN_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"}


@dataclass(frozen=True)
class Outcome:
    image: Image.Image
    """RGB, or RGBA with the picture's own alpha."""
    difference: Image.Image
    """What changed, amplified around grey."""
    report: Report


def protect_picture(
    image: Image.Image,
    settings: Settings,
    *,
    mask: Image.Image | None = None,
    target: Image.Image | None = None,
    output_size: int = 0,
    keep_extra_networks: bool = False,
) -> Outcome:
    """Protect one picture on the model now loaded. Call it inside the web UI's queue lock.

    mask: white = may change, grey is a softer budget, transparent is black; stretched to the picture. target: in place
    of the named pattern. output_size: pixels of the longer side; 0 keeps the picture's size.
    Raises MistError; an interrupt gives what was reached, and `report.stopped`.
    """
    colour = resized(in_colour(image), output_size)
    levels = np.asarray(colour)
    images = from_u8(levels[..., :3])
    surrogate = loaded_model(keep_extra_networks=keep_extra_networks)
    with progress.shown(settings.steps) as on_step:
        result = protect(
            images,
            surrogate,
            settings,
            mask=None if mask is None else mask_of(mask, colour.size),
            target=None if target is None else from_u8(np.asarray(in_colour(target))[..., :3]),
            on_step=on_step,
        )
    protected = Image.fromarray(to_u8(result.images))
    if colour.mode == "RGBA":
        protected.putalpha(colour.getchannel("A"))
    difference = Image.fromarray(to_u8(amplified(images, result.images)))
    return Outcome(protected, difference, result.reports[0])


def in_colour(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where there is transparency. Raises PictureError for more than 8 bits."""
    if image.mode not in PLAIN_MODES:
        raise PictureError(f"Expected a picture of 8 bits per channel, found mode {image.mode}; save it as RGB PNG.")
    transparent = image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")


def resized(image: Image.Image, output_size: int) -> Image.Image:
    """The longer side made `output_size` pixels; 0 keeps the size."""
    if not output_size:
        return image
    scale = output_size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def mask_of(mask: Image.Image, size: tuple[int, int]) -> Tensor:
    """(1, 1, H, W) in [0, 1]: luminance times alpha."""
    alpha = mask.convert("RGBA").getchannel("A")
    luminance, alpha = (part.resize(size, Image.Resampling.BILINEAR) for part in (mask.convert("L"), alpha))
    levels = np.asarray(luminance, dtype=np.float32) * np.asarray(alpha, dtype=np.float32)
    return torch.from_numpy(levels / 255**2)[None, None]
