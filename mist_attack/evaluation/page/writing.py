"""The page from what was found. Everything that comes from people is escaped; no name of theirs becomes code or a
path."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..effect import Pictures
from ..results import Pair
from ..transforms import SUITE, NotMeasuredError
from ..words import number
from .plots import plots, require_matplotlib

HERE = Path(__file__).parent
SHOWN_PIXELS = 2**20
"""Of a picture; a larger one is shown reduced, and its middle at its own scale."""
CROP = 512  # pixels
SHOWN_PAIRS = 12
"""A page that goes by mail has pictures and plots of so many, and the figures of all."""
MADE = {
    "reconstruction": "What the autoencoder keeps",
    "img2img_0.3": "img2img at strength 0.3",
    "img2img_0.7": "img2img at strength 0.7",
    "inpainting": "The middle painted anew",
}
LABELS = {
    "linf_levels": "Largest change of any value, levels",
    "rms_levels": "Root mean square of the change, levels",
    "psnr_db": "PSNR, dB",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "ciede2000_mean": "CIEDE2000, mean",
    "ciede2000_p95": "CIEDE2000, 95th percentile",
    "flat_share": "Share of the picture that is flat",
    "flat_noise_levels": "Change in flat areas, rms in levels",
    "power_below_16th": "Power of the change below 1/16 cycle per pixel",
    "power_16th_to_8th": "... from 1/16 to 1/8",
    "power_8th_to_4th": "... from 1/8 to 1/4",
    "power_above_4th": "... above 1/4",
    "latent_shift": "Latents' shift, rms",
    "latent_shift_of_noise": "Latents' shift by random noise of the same size",
    "shift_over_noise": "Times as far as noise",
    "target_distance_before": "Mean squared distance to the target, original",
    "target_distance_after": "Mean squared distance to the target, protected",
    "target_distance_left": "Share of it that is left",
    "reconstruction_psnr_db_before": "Reconstruction of the original, PSNR in dB",
    "reconstruction_psnr_db_after": "Reconstruction of the protected picture against the original",
    "reconstruction_psnr_db_of_noise": "Reconstruction of the noisy original against the original",
}


@dataclass(frozen=True)
class Shown:
    """A picture inside the page."""

    uri: str
    width: int
    height: int


def page(found: Mapping[str, Any], pairs: Sequence[Pair], *, embed: bool = True) -> str:
    """HTML of all that `results.results` found of `pairs`, which are in the same order. embed: with the pictures."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = (HERE / "page.js").read_text("utf-8")
    missing, draws = {}, True
    try:
        require_matplotlib()
    except NotMeasuredError as error:
        missing, draws = {"plots": str(error)}, False
    return environment.get_template("page.html").render(
        found={**found, "not_measured": found["not_measured"] | missing},
        sections=[
            _section(pair, figures, embed=embed and i < SHOWN_PAIRS, draws=draws and i < SHOWN_PAIRS, number=i)
            for i, (pair, figures) in enumerate(zip(pairs, found["pairs"], strict=True))
        ],
        embedded=embed,
        labels=LABELS,
        suite=SUITE,
        number=number_of,
        style=Markup((HERE / "page.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )


def _section(pair: Pair, figures: Mapping[str, Any], *, embed: bool, draws: bool, number: int) -> dict[str, Any]:
    from markupsafe import Markup

    models = []
    for i, (found, made) in enumerate(zip(figures["models"], pair.pictures, strict=True)):
        drawn = plots(figures, found, f"{number} {i}") if draws else {}
        shown = _made(made) if embed else []
        models.append({"figures": found, "made": shown, "plots": {title: Markup(svg) for title, svg in drawn.items()}})
    return {"pair": figures, "compared": _compared(pair) if embed else [], "models": models}


def _compared(pair: Pair) -> list[dict[str, Any]]:
    before, after = (_image(levels) for levels in (pair.before, pair.after))
    pixels = before.width * before.height
    if pixels <= SHOWN_PIXELS:
        return [_pair("The picture", before, after)]
    scale = (SHOWN_PIXELS / pixels) ** 0.5
    size = (round(before.width * scale), round(before.height * scale))
    left, top = ((side - CROP) // 2 for side in before.size)
    box = (max(0, left), max(0, top), min(before.width, left + CROP), min(before.height, top + CROP))
    reduced = [image.resize(size, Image.Resampling.LANCZOS) for image in (before, after)]
    return [
        _pair(f"The picture, shown reduced to {size[0]} x {size[1]} pixels", *reduced),
        _pair("Its middle, at its own scale", before.crop(box), after.crop(box)),
    ]


def _made(pictures: Pictures) -> list[dict[str, Any]]:
    return [
        _pair(title, _image(pictures[f"{name}_before"]), _image(pictures[f"{name}_after"]))
        for name, title in MADE.items()
        if f"{name}_before" in pictures
    ]


def _pair(title: str, before: Image.Image, after: Image.Image) -> dict[str, Any]:
    return {"title": title, "before": _shown(before), "after": _shown(after)}


def _shown(image: Image.Image) -> Shown:
    """Lossless: what is looked at with a loupe is what there is."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return Shown(
        f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", image.width, image.height
    )


def _image(levels: Tensor) -> Image.Image:
    return Image.fromarray(levels[0].permute(1, 2, 0).contiguous().cpu().numpy())


def number_of(value: float) -> str:
    """As in sentences, but with a digit more for what is compared: 0.834, 31.5, 172."""
    return f"{value:.3g}" if value else number(0)
