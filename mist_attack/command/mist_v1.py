"""The rules that Mist's own flags bring with them (the flags themselves are in flags.py).

The rules are those of Mist v1's `mist_v3.py` (the picture is resized to --input_size, results are named after the
settings), with its defects repaired: rounding, lossless files, every kind of picture, pictures that are not square.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import PictureError, SettingsError
from ..gallery.naming import Work, inside, works_for
from ..gallery.request import Request
from ..gallery.selection import Passed, selection_in
from ..pictures.reading import MAX_PIXELS, Picture, from_u8, require_readable, to_u8
from ..settings import Settings, resolve
from .flags import SHARED_CONTROLS

MODES = {0: "semantic", 1: "textural", 2: "fused"}  # as its code has them; its README swaps the first two
DEFAULTS: dict[str, Any] = {
    "input_image_path": "test/sample.png",
    "output_name": "misted_sample",
    "output_dir": "vangogh",
    "input_dir_path": None,
    "epsilon": 16.0,
    "input_size": 512,
    "block_num": 1,
    "mode": 2,
    "rate": 1.0,
    "mask": False,
    "mask_path": "test/processed_mask.png",
    "non_resize": False,
}


RANGES = {"block_num": (1, 64), "input_size": (64, 8192)}


def request_for(options: argparse.Namespace) -> Request:
    """What Mist would have done. Raises SettingsError."""
    chosen = {name: _or(getattr(options, name), default) for name, default in DEFAULTS.items()}
    for name, (low, high) in RANGES.items():
        if not low <= chosen[name] <= high:
            raise SettingsError(f"Expected --{name} from {low} to {high}; got {chosen[name]}.")
    settings = _settings(chosen, options)
    masked = chosen["mask"]
    if masked and chosen["input_dir_path"]:
        raise SettingsError("--mask works on one picture (--input_image_path): every picture needs its own mask.")
    mask = Path(chosen["mask_path"]) if masked else None
    if mask:
        require_readable(mask)
    works, passed = _works(chosen, settings.steps)
    return Request(
        works=works,
        passed=passed,
        settings=settings,
        mask=mask,
        prepare=Resized(chosen["input_size"], chosen["block_num"], chosen["non_resize"]),
    )


def _settings(chosen: dict[str, Any], options: argparse.Namespace) -> Settings:
    asked = {name: getattr(options, name) for name in SHARED_CONTROLS}
    asked |= {"strength": chosen["epsilon"], "objective": MODES[chosen["mode"]], "fusion_weight": chosen["rate"]}
    return resolve("mist", asked)


def _works(chosen: dict[str, Any], steps: int) -> tuple[list[Work], list[Passed]]:
    tail = "_".join(
        f"{value:g}"
        for value in (
            chosen["epsilon"],
            steps,
            chosen["input_size"],
            chosen["block_num"],
            chosen["mode"],
            chosen["rate"],
            int(chosen["mask"]),
            int(chosen["non_resize"]),
        )
    )
    if not chosen["input_dir_path"]:
        name = inside(f"{chosen['output_name']}_{tail}.png", "--output_name")
        return [Work(Path(chosen["input_image_path"]), Path("outputs/images") / name)], []
    folder = Path(chosen["input_dir_path"])
    if not folder.is_dir():
        raise SettingsError(f"--input_dir_path: {folder} is not a folder. For one picture use --input_image_path.")
    found = selection_in(folder)
    sources = [replace(source, named=True) for source in found.sources]
    name = inside(f"{chosen['output_dir']}_{tail}", "--output_dir")
    return works_for(sources, Path("outputs/dirs") / name), found.passed


@dataclass(frozen=True)
class Resized:
    """Resized as Mist does; seen at once, or in tiles of a block's size."""

    size: int
    blocks: int
    keeps_aspect: bool

    def __call__(self, picture: Picture, settings: Settings) -> tuple[Picture, Settings]:
        height, width = picture.images.shape[2:]
        if self.keeps_aspect:
            step, scale = 8 * self.blocks, self.size / min(height, width)
            width, height = (max(step, int(side * scale) // step * step) for side in (width, height))
        else:
            width = height = self.size
        if width * height > MAX_PIXELS:
            raise PictureError(f"{picture.path}: --non_resize makes it {width} x {height} pixels; choose fewer")
        if self.blocks > 1:
            settings = replace(settings, view="tiles", working_size=max(64, self.size // self.blocks))
        else:
            settings = replace(settings, working_size=min(4096, math.ceil(math.sqrt(width * height))))
        return resized(picture, width, height), settings


def resized(picture: Picture, width: int, height: int) -> Picture:
    """Pixels and alpha, bicubic as in Mist."""

    def resize(levels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC))

    alpha = None if picture.alpha is None else resize(picture.alpha)
    return replace(picture, images=from_u8(resize(to_u8(picture.images))), alpha=alpha)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
