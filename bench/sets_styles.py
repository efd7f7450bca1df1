"""Three sets of twelve pictures, one manner each, and one to tune on, which is never judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import skimage.data
from PIL import Image
from torch import Tensor

from mist_attack.demo import generated

SIDE, COUNT = 128, 12
PALETTE = (28, 38, 84), (176, 96, 40), (250, 226, 150)
"""The painter's, from dark to light."""


@dataclass(frozen=True)
class Style:
    words: str
    prompt: str
    pictures: list[Tensor]
    """(1, 3, SIDE, SIDE) in [0, 1]."""


def styles() -> dict[str, Style]:
    """Those that are judged."""
    return {
        "drawing": Style("pale arcs on dark blue", "a drawing", generated.style(COUNT, SIDE)),
        "lineart": Style("thin black curves", "line art", [_drawn(generated.curves, 300 + i) for i in range(COUNT)]),
        "painter": Style("brush strokes of one palette", "a painting", _painted()),
    }


def tuning() -> Style:
    """For the imitator's training and for the protections; none of its pictures is judged."""
    return Style(
        "flat shapes on cream", "a drawing", [_drawn(generated.shapes, 500 + i, "#f4e4c0") for i in range(COUNT)]
    )


def _drawn(draw: generated.Drawing, seed: int, ground: str = "white") -> Tensor:
    return generated.tensor(generated.drawn(draw, seed, ground, SIDE))


def _painted() -> list[Tensor]:
    """Three parts of each photograph, as brush strokes."""
    parts = [part for name in generated.PHOTOGRAPHS for part in _parts(getattr(skimage.data, name)())]
    return [generated.tensor(generated.painted(_in_palette(part), seed)) for seed, part in enumerate(parts)]


def _parts(photograph: np.ndarray) -> list[Image.Image]:
    """From its upper left to its lower right."""
    side = min(photograph.shape[:2]) * 2 // 3
    corners = [tuple((length - side) * step // 2 for length in photograph.shape[:2]) for step in range(3)]
    parts = [photograph[top : top + side, left : left + side] for top, left in corners]
    return [Image.fromarray(part).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for part in parts]


def _in_palette(part: Image.Image) -> Image.Image:
    pixels = np.asarray(part).astype(float)
    lightness = pixels.mean(2) / 255
    ends = np.linspace(0, 1, len(PALETTE))
    toned = np.stack([np.interp(lightness, ends, channel) for channel in np.array(PALETTE, float).T], axis=2)
    return Image.fromarray((0.8 * toned + 0.2 * pixels).astype(np.uint8))
