"""Pictures of four kinds that no demo model was trained on, for whoever has this repository alone.

Photographs come with scikit-image (astronaut: NASA, public domain; coffee and chelsea: CC0; rocket: SpaceX, CC0) and
were kept out of the training. Paintings are those photographs again, as brush strokes; drawings are flat shapes with
outlines, line drawings thin curves. At 256 px unless another side is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

Drawing = Callable[[ImageDraw.ImageDraw, np.random.Generator, int], None]
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
SIDE, SCALE = 256, 4  # drawn at SCALE times the side, then reduced: smooth edges


def unseen(each: int = 4, side: int = SIDE) -> dict[str, list[Tensor]]:
    """Kind -> `each` pictures (4 at most of photographs and paintings), (1, 3, side, side) in [0, 1]."""
    photographs = [_photograph(name, side) for name in PHOTOGRAPHS[:each]]
    return {
        "drawing": [tensor(drawn(shapes, seed, side=side)) for seed in range(each)],
        "lineart": [tensor(drawn(curves, seed, side=side)) for seed in range(each)],
        "painting": [tensor(painted(photograph, seed)) for seed, photograph in enumerate(photographs)],
        "photograph": [tensor(photograph) for photograph in photographs],
    }


def style(count: int = 12, side: int = SIDE) -> list[Tensor]:
    """Pictures of one manner: pale concentric arcs in two colours on dark blue."""
    return [tensor(drawn(arcs, seed, "#101840", side)) for seed in range(count)]


def _photograph(name: str, side: int) -> Image.Image:
    return ImageOps.fit(Image.fromarray(getattr(skimage.data, name)()), (side, side), Image.Resampling.LANCZOS)


def tensor(image: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def drawn(draw: Drawing, seed: int, ground: str = "white", side: int = SIDE) -> Image.Image:
    """By what draws on a canvas of SCALE times the side (shapes, curves, arcs)."""
    canvas = Image.new("RGB", (side * SCALE, side * SCALE), ground)
    draw(ImageDraw.Draw(canvas), np.random.default_rng(seed), side * SCALE)
    return canvas.resize((side, side), Image.Resampling.LANCZOS)


def shapes(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    """Flat colours inside dark outlines."""
    for _ in range(9):
        colour = tuple(int(value) for value in rng.integers(30, 255, 3))
        centre, radius = rng.uniform(0.15, 0.85, 2) * side, rng.uniform(0.08, 0.25) * side
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        outline = [tuple(centre + radius * np.array([np.cos(angle), np.sin(angle)])) for angle in angles]
        if rng.random() < 0.5:
            draw.ellipse([*(centre - radius), *(centre + radius)], colour, "black", 10)
        else:
            draw.polygon(outline, colour, "black", 10)


def curves(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    """Thin black curves: sums of a few waves along a circle."""
    angles = np.linspace(0, 2 * np.pi, 400)
    for _ in range(5):
        centre, radius = rng.uniform(0.25, 0.75, 2) * side, rng.uniform(0.08, 0.3) * side
        waves = sum(rng.normal(0, 0.12) * np.sin(k * angles + rng.uniform(0, 6)) for k in range(2, 7))
        points = centre + radius * (1 + waves)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        draw.line([tuple(point) for point in points], "black", 10, "curve")


def arcs(draw: ImageDraw.ImageDraw, rng: np.random.Generator, side: int) -> None:
    centres = rng.uniform(0, 1, (5, 2)) * side
    for centre in centres:
        for ring in range(4, 20):
            radius, start = ring * side / 50, rng.uniform(0, 360)
            box = [*(centre - radius), *(centre + radius)]
            draw.arc(box, start, start + rng.uniform(60, 240), ("#f0d890", "#90c8f0")[ring % 2], 22)


def painted(photograph: Image.Image, seed: int) -> Image.Image:
    """A square photograph as thick strokes along its edges' directions, large ones first (after Hertzmann 1998)."""
    rng, side = np.random.default_rng(seed), photograph.width * SCALE
    pixels = np.asarray(photograph).astype(float)
    vertical, horizontal = np.gradient(pixels.mean(2))
    canvas = photograph.resize((16, 16), Image.Resampling.BOX).resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for length, width, number in ((28, 12, 700), (14, 6, 2500), (8, 3, 6000)):
        for y, x in rng.integers(0, photograph.width, (number, 2)):
            colour = tuple(int(value) for value in np.clip(pixels[y, x] + rng.normal(0, 9, 3), 0, 255))
            along = np.arctan2(vertical[y, x], horizontal[y, x]) + np.pi / 2 + rng.normal(0, 0.25)
            reach = SCALE * length / 2 * np.array([np.cos(along), np.sin(along)])
            centre = SCALE * np.array([x, y])
            draw.line([tuple(centre - reach), tuple(centre + reach)], colour, SCALE * width)
    return canvas.resize(photograph.size, Image.Resampling.LANCZOS)
