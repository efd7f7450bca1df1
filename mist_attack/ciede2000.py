"""Colour difference as an eye sees it: CIEDE2000 (Luo, Cui, Rigg 2001), as Sharma, Wu, Dalal 2005 spell it out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degrees
XYZ_OF_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
ROWS = 64  # at a time


def colour_differences(before: Tensor, after: Tensor) -> Tensor:
    """Of each pixel of two (1, 3, H, W) uint8 sRGB pictures: (H, W) float32, 0 for equal ones; 1 is just noticeable
    side by side, 2.3 on its own (Mahy et al. 1994, of its forerunner)."""
    strips = zip(before[0].split(ROWS, dim=1), after[0].split(ROWS, dim=1), strict=True)
    return torch.cat([delta_e(lab(a.movedim(0, -1)), lab(b.movedim(0, -1))).float() for a, b in strips])


def lab(levels: Tensor) -> Tensor:
    """(..., 3) uint8 sRGB (IEC 61966-2-1) -> CIELAB, float64."""
    rgb = levels.double() / 255
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ linear.new_tensor(XYZ_OF_RGB).T / linear.new_tensor(WHITE)
    x, y, z = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)


def delta_e(a: Tensor, b: Tensor) -> Tensor:
    """CIEDE2000 of two (..., 3) CIELAB colours, kL = kC = kH = 1; equations 2 to 22 of Sharma et al. 2005."""
    chroma = (a[..., 1:].norm(dim=-1) + b[..., 1:].norm(dim=-1)) / 2
    stretch = 1.5 - 0.5 * _steep(chroma)
    (l1, c1, h1), (l2, c2, h2) = _lch(a, stretch), _lch(b, stretch)
    grey = c1 * c2 == 0
    turn = torch.where(grey, 0.0, _turned(h2 - h1))
    d_l, d_c, d_h = l2 - l1, c2 - c1, 2 * (c1 * c2).sqrt() * torch.sin(turn / 2)
    middle, c = ((l1 + l2) / 2 - 50) ** 2, (c1 + c2) / 2
    h = torch.where(grey, h1 + h2, _middle(h1, h2))
    s_l = 1 + 0.015 * middle / (20 + middle).sqrt()
    d_l, d_c, d_h = d_l / s_l, d_c / (1 + 0.045 * c), d_h / (1 + 0.015 * c * _hue_weight(h))
    rotation = -2 * _steep(c) * torch.sin(2 * math.radians(30) * torch.exp(-(((h.rad2deg() - 275) / 25) ** 2)))
    return (d_l**2 + d_c**2 + d_h**2 + rotation * d_c * d_h).clamp(min=0).sqrt()


def _lch(colour: Tensor, stretch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lightness, chroma and hue in [0, 2 pi), the red-green axis stretched."""
    lightness, a, b = colour.unbind(-1)
    a = a * stretch
    return lightness, torch.hypot(a, b), torch.atan2(b, a) % (2 * math.pi)


def _steep(chroma: Tensor) -> Tensor:
    seventh = chroma**7
    return (seventh / (seventh + 25.0**7)).sqrt()


def _turned(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi]."""
    turn = 2 * math.pi
    return torch.where(angle > math.pi, angle - turn, torch.where(angle < -math.pi, angle + turn, angle))


def _middle(h1: Tensor, h2: Tensor) -> Tensor:
    """The mean hue, on the shorter way round."""
    total, turn = h1 + h2, 2 * math.pi
    far = (h1 - h2).abs() > math.pi
    return torch.where(far, torch.where(total < turn, total + turn, total - turn), total) / 2


def _hue_weight(h: Tensor) -> Tensor:
    """T in the papers."""
    terms = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    waves = [weight * torch.cos(n * h + math.radians(turn)) for weight, n, turn in terms]
    return 1 + torch.stack(waves).sum(0)
