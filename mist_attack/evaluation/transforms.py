"""What happens to pictures on their way, as tests of what is left of a protection: one named suite.

Each changes (1, 3, H, W) uint8 levels into levels of the same size, the same each time. They judge: nothing here
writes a picture, and no command does.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from ..budget import to_levels, to_unit
from ..errors import CheckpointError, MistError
from ..needs import possible
from ..randomness import normal, seeded
from ..surrogate import Conditioning, Surrogate
from .comparison import img2img, reconstruct

NOISE_LEVELS = 0.05 * 255
CROPPED = 0.75  # of each side is left, and enlarged again
LOW_STRENGTH, LOW_STEPS = 0.1, 8


class NotMeasuredError(MistError):
    """Something that this needs is not there: a part of the model, or a library. Never filled in."""


@dataclass(frozen=True)
class Transform:
    name: str
    words: str
    change: Callable[[Tensor], Tensor] | None = None
    """Without a model."""
    through: Callable[[Surrogate, Tensor, Conditioning], Tensor] | None = None
    """By the model, within `Surrogate.run`: (1, 3, H, W) in [0, 1], sides its multiples."""
    denoiser: bool = False
    """It needs the whole model."""


def transformed(
    name: str, levels: Tensor, surrogate: Surrogate | None = None, conditioning: Conditioning = None
) -> Tensor:
    """The picture after the transform of this name (see SUITE), on its own device.

    surrogate: for those that go through a model, within its `run`. Raises NotMeasuredError."""
    transform = SUITE[name]
    if transform.change is not None:
        return transform.change(levels)
    assert transform.through is not None
    if surrogate is None or (transform.denoiser and len(surrogate.sigmas) == 0):
        raise NotMeasuredError(f"{transform.words} needs {'the whole model' if transform.denoiser else 'a model'}.")
    try:
        return _through(transform.through, levels, surrogate, conditioning)
    except CheckpointError as error:  # an encoder without its decoder
        raise NotMeasuredError(str(error)) from error


def _through(
    job: Callable[[Surrogate, Tensor, Conditioning], Tensor],
    levels: Tensor,
    surrogate: Surrogate,
    conditioning: Conditioning,
) -> Tensor:
    """Padded to the model's multiples by repeating the edge, and cut again."""
    height, width = levels.shape[2:]
    multiple = surrogate.spatial_multiple(possible(denoiser=len(surrogate.sigmas) > 0)[-1])
    padding = (0, -width % multiple, 0, -height % multiple)
    picture = F.pad(to_unit(levels).to(surrogate.device), padding, mode="replicate")
    return to_levels(job(surrogate, picture, conditioning))[:, :, :height, :width].to(levels.device)


def _by_pillow(change: Callable[[Image.Image], Image.Image], levels: Tensor) -> Tensor:
    image = Image.fromarray(levels[0].permute(1, 2, 0).cpu().numpy())
    return torch.from_numpy(np.array(change(image))).permute(2, 0, 1)[None].to(levels.device)


def _saved(image: Image.Image, kind: str, quality: int) -> Image.Image:
    """As the format gives it back. Raises NotMeasuredError."""
    Image.init()
    if kind.upper() not in Image.SAVE:
        raise NotMeasuredError(f"This Pillow cannot write {kind}.")
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return Image.open(buffer).convert("RGB")


def _reduced(image: Image.Image, share: float) -> Image.Image:
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.LANCZOS).resize(image.size, Image.Resampling.LANCZOS)


def _cropped(image: Image.Image) -> Image.Image:
    left, top = (side * (1 - CROPPED) / 2 for side in image.size)
    box = (left, top, image.width - left, image.height - top)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def _blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(1))


def _five_bits(levels: Tensor) -> Tensor:
    return to_levels((levels.float() / 255 * 31).round() / 31)


def _noisy(levels: Tensor) -> Tensor:
    """The same noise for every picture of a size, so that two differ by nothing but themselves."""
    like = torch.empty(levels.shape, dtype=torch.float32, device="cpu")  # whatever the host's defaults are
    drawn = normal(like, seeded(like.device, 0)).to(levels.device)
    return to_levels((levels + NOISE_LEVELS * drawn) / 255)


def _cleaned(levels: Tensor) -> Tensor:
    """Bilateral filters, then guided ones (He et al. 2010), as AdverseCleaner has them.

    Raises NotMeasuredError."""
    try:
        import cv2
    except ImportError as error:
        raise NotMeasuredError("The bilateral and guided filters need the package opencv-python-headless.") from error
    image = levels[0].permute(1, 2, 0).cpu().numpy().astype(np.float32)
    clean = image
    for _ in range(64):
        clean = cv2.bilateralFilter(clean, 5, 8, 8)
    box = partial(cv2.blur, ksize=(9, 9))
    for _ in range(4):
        clean = _guided(image, clean, 16.0, box)
    return _rounded(clean.transpose(2, 0, 1)[None], levels)


def _guided(
    guide: np.ndarray, image: np.ndarray, epsilon: float, box: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Each channel guided by its own."""
    mean_guide, mean = box(guide), box(image)
    slope = (box(guide * image) - mean_guide * mean) / (box(guide * guide) - mean_guide**2 + epsilon)
    return box(slope) * guide + box(mean - slope * mean_guide)


def _rounded(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values.round().clip(0, 255).astype(np.uint8)).to(like.device)


def _by_format(kind: str, quality: int) -> Transform:
    change = partial(_by_pillow, partial(_saved, kind=kind, quality=quality))
    return Transform(f"{kind.lower()}{quality}", f"{kind}, quality {quality}", change)


SUITE: dict[str, Transform] = {
    transform.name: transform
    for transform in (
        *(_by_format("JPEG", quality) for quality in (95, 85, 75, 50)),
        _by_format("WebP", 80),
        _by_format("AVIF", 65),
        Transform("half", "reduced to half, and back", partial(_by_pillow, partial(_reduced, share=0.5))),
        Transform(
            "three_quarters", "reduced to three quarters, and back", partial(_by_pillow, partial(_reduced, share=0.75))
        ),
        Transform("crop", "the middle three quarters, enlarged", partial(_by_pillow, _cropped)),
        Transform("blur", "blurred, 1 pixel", partial(_by_pillow, _blurred)),
        Transform("five_bit", "5 bits a channel", _five_bits),
        Transform("noise", "Gaussian noise, 5 %", _noisy),
        Transform("cleaner", "bilateral and guided filters", _cleaned),
        Transform("round_trip", "through the autoencoder", through=lambda model, x, _: reconstruct(model, x)),
        Transform(
            "img2img",
            f"img2img at strength {LOW_STRENGTH:g}",
            through=lambda model, x, prompt: img2img(model, x, prompt, LOW_STRENGTH, LOW_STEPS),
            denoiser=True,
        ),
    )
}
"""By name; those that go through a model come last."""
