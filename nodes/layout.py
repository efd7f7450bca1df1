"""Pictures between ComfyUI's layout, (B, H, W, C), and the engine's, (B, C, H, W); masks and alpha by its rules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mist_attack.errors import PictureError

PLACEHOLDER = (64, 64)
"""LoadImage's MASK for a picture without alpha: zeros of this size."""


def to_engine(image: Tensor) -> Tensor:
    """(B, H, W, 3 or 4) of any float type -> (B, 3, H, W) float32; clipped to [0, 1], as on saving.

    Raises PictureError."""
    if image.ndim != 4 or image.shape[-1] not in (3, 4) or 0 in image.shape:
        raise PictureError(f"Expected pictures of 3 or 4 channels, (B, H, W, C); got {tuple(image.shape)}.")
    return image[..., :3].movedim(-1, 1).float().clamp(0, 1)


def to_host(images: Tensor, alpha: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) and (B, H, W, 1) -> (B, H, W, 3 or 4) float32."""
    picture = images.movedim(1, -1).float()
    return picture.contiguous() if alpha is None else torch.cat([picture, alpha.to(picture)], dim=-1)


def mask_for(image: Tensor, mask: Tensor | None) -> Tensor | None:
    """A MASK (1 = protect) -> (1 or B, 1, H, W) in [0, 1]; None is the whole picture.

    Another size is resized as core nodes do; LoadImage's placeholder stands for no mask. Raises PictureError."""
    fitted = _fitted(image, mask, "mask")
    return None if fitted is None else fitted.clamp(0, 1)


def alpha_for(image: Tensor, alpha: Tensor | None) -> Tensor | None:
    """LoadImage's MASK, which is 1 - alpha -> (B, H, W, 1) alpha; else the picture's own fourth channel, else None.

    Raises PictureError."""
    fitted = _fitted(image, alpha, "alpha")
    if fitted is not None:
        return (1 - fitted.clamp(0, 1)).movedim(1, -1).expand(image.shape[0], -1, -1, -1)
    return image[..., 3:].float() if image.shape[-1] == 4 else None


def _fitted(image: Tensor, mask: Tensor | None, name: str) -> Tensor | None:
    if mask is None or _is_placeholder(mask):
        return None
    batch, height, width = image.shape[:3]
    mask = mask.float().reshape(-1, 1, *mask.shape[-2:]).to(image.device)
    if mask.shape[0] not in (1, batch):
        raise PictureError(f"Expected one {name} for all or one for each of {batch} pictures; got {mask.shape[0]}.")
    if not torch.isfinite(mask).all():
        raise PictureError(f"Expected {name} values from 0 to 1; got some that are not finite (NaN or infinite).")
    return mask if mask.shape[2:] == (height, width) else F.interpolate(mask, (height, width), mode="bilinear")


def _is_placeholder(mask: Tensor) -> bool:
    return tuple(mask.shape[-2:]) == PLACEHOLDER and not bool(mask.any())
