"""The images that latents are pulled to: repeating high-contrast patterns of our own, or any picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import SettingsError
from .views import View

Pattern = Callable[[Tensor, Tensor], Tensor]
"""Row and column numbers in pixels, (H, 1) and (1, W) -> (H, W) or (3, H, W) in [0, 1]."""


def _checker(rows: Tensor, columns: Tensor) -> Tensor:
    return ((rows // 16 + columns // 16) % 2).float()


def _lattice(rows: Tensor, columns: Tensor) -> Tensor:
    """Nested diamonds of 32 px in thin bright strokes: on the demo model it pulls best of those tried."""
    u, v = rows % 32, columns % 32
    return (((u - 15.5).abs() + (v - 15.5).abs()) % 12 < 4).float()


def _crosses(rows: Tensor, columns: Tensor) -> Tensor:
    u = (rows % 32 - 12).abs()
    v = ((columns + 16 * (rows // 32 % 2)) % 32 - 12).abs()
    return (((u < 4) & (v < 11)) | ((v < 4) & (u < 11))).float()


def _rings(rows: Tensor, columns: Tensor) -> Tensor:
    radius = ((rows % 64 - 31.5).square() + (columns % 64 - 31.5).square()).sqrt()
    return (radius % 16 < 8).float()


PATTERNS: dict[str, Pattern] = {
    "lattice": _lattice,
    "crosses": _crosses,
    "checker": _checker,
    "rings": _rings,
}


def target_names() -> list[str]:
    return list(PATTERNS)


def pattern(name: str, height: int, width: int) -> Tensor:
    """A built-in target, (1, 3, height, width) float32 in [0, 1]. Raises SettingsError for an unknown name."""
    if name not in PATTERNS:
        raise SettingsError(f"Unknown target '{name}'. Choose {', '.join(PATTERNS)}, or give a picture.")
    rows = torch.arange(height, dtype=torch.float32, device="cpu")[:, None]
    columns = torch.arange(width, dtype=torch.float32, device="cpu")[None, :]
    return PATTERNS[name](rows, columns).expand(3, height, width)[None].clone()


class PatternTarget:
    """A built-in pattern at the scale at which the model looks, the same in every view."""

    def __init__(self, name: str) -> None:
        self.name = name
        pattern(name, 1, 1)

    def key(self, view: View) -> object:
        return view.model_height, view.model_width

    def seen(self, view: View) -> Tensor:
        return pattern(self.name, view.model_height, view.model_width)


class PictureTarget:
    """A picture laid over the whole of the protected one (cropped to its aspect), seen through the same views.

    target: (1, 3, h, w) in [0, 1], of any size. height, width: of the protected picture, pixels.
    """

    def __init__(self, target: Tensor, height: int, width: int, name: str = "picture") -> None:
        self.height, self.width, self.name = height, width, name
        self.target = crop_to_aspect(target.float(), height / width)

    def key(self, view: View) -> object:
        return view

    def seen(self, view: View) -> Tensor:
        rows = _span(view.top, view.height, self.height, self.target.shape[2])
        columns = _span(view.left, view.width, self.width, self.target.shape[3])
        crop = self.target[:, :, rows, columns]
        if view.gain != 1.0:
            return _resized(crop, view.model_height, view.model_width)
        return view.look(_resized(crop, view.height, view.width))


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image, (height, width), mode="bilinear", antialias=True)


def crop_to_aspect(image: Tensor, aspect: float) -> Tensor:
    """The largest middle part of (B, C, h, w) whose height is `aspect` times its width."""
    height, width = image.shape[2:]
    new_height = max(1, min(height, round(width * aspect)))
    new_width = max(1, min(width, round(height / aspect)))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return image[:, :, top : top + new_height, left : left + new_width]


def _span(start: int, length: int, whole: int, pixels: int) -> slice:
    first = min(pixels - 1, round(start * pixels / whole))
    return slice(first, max(first + 1, round((start + length) * pixels / whole)))
