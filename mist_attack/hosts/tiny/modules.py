"""The layers of small autoencoders that are distilled from large ones: TAESD and its kin.

Numbered as in the published files (github.com/madebyollin/taesd): a file's tensors are a module's state. Pictures are
in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from . import lean

WIDTH = 64
BLOCKS = 3
"""At every scale below the picture's own."""


@dataclass(frozen=True)
class Family:
    """Autoencoders of one shape: `factor` pixels to a latent, `channels` of latents."""

    name: str
    channels: int
    factor: int = 8
    pooled: bool = False
    """Its blocks at the latents' scale look at the whole picture."""

    def make(self, half: str) -> nn.Sequential:
        """The encoder or the decoder, with weights of chance."""
        return self.encoder() if half == "encoder" else self.decoder()

    def encoder(self) -> nn.Sequential:
        """(B, 3, H, W) in [0, 1] -> (B, channels, H/factor, W/factor)."""
        layers = _stem(self.factor)
        for left in (2, 1, 0):
            layers += [conv(WIDTH, WIDTH, stride=2, bias=False), *blocks(WIDTH, pooled=self.pooled and not left)]
        return nn.Sequential(*layers, conv(WIDTH, self.channels))

    def decoder(self) -> nn.Sequential:
        """(B, channels, h, w) -> (B, 3, h*factor, w*factor) in about [0, 1]."""
        widths = (256, 128, *[WIDTH] * 4) if self.factor == 32 else (WIDTH,) * 4
        layers: list[nn.Module] = [Clamp(), conv(self.channels, widths[0]), nn.ReLU(inplace=True)]
        for scale, (width, narrower) in enumerate(pairwise(widths)):
            layers += blocks(width, pooled=self.pooled and scale == 0)
            layers += [nn.Upsample(scale_factor=2), conv(width, narrower, bias=False)]
        return nn.Sequential(*layers, Block(WIDTH), conv(WIDTH, 3))


FAMILIES = (
    Family("TAESD or TAESDXL", 4),
    Family("TAESD3 or TAEF1", 16),
    Family("TAEF2", 32, pooled=True),
    Family("TAESANA", 32, factor=32),
)


class Block(nn.Module):
    def __init__(self, width: int, *, pooled: bool = False) -> None:
        super().__init__()
        rectified = [conv(width, width), nn.ReLU(inplace=True)]
        self.conv = nn.Sequential(*rectified, conv(width, width), nn.ReLU(inplace=True), conv(width, width))
        self.pool = pool(width) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        if lean.is_frozen(x, self.conv):
            return lean.residual(x, [layer for layer in self.conv if isinstance(layer, Conv)])
        return nn.functional.relu_(self.conv(x) + x)


class Conv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return lean.convolved(input, self) if lean.is_frozen(input, self) else super().forward(input)


class Clamp(nn.Module):
    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(latents / 3) * 3


def conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> Conv:
    return Conv(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def blocks(width: int, *, pooled: bool) -> list[nn.Module]:
    return [Block(width, pooled=pooled) for _ in range(BLOCKS)]


def pool(width: int) -> nn.Sequential:
    inner = 4 * width
    wider, narrower = nn.Conv2d(width, inner, 1, bias=False), nn.Conv2d(inner, width, 1, bias=False)
    return nn.Sequential(wider, nn.GroupNorm(4, inner), nn.ReLU(inplace=True), narrower)


def _stem(factor: int) -> list[nn.Module]:
    """Down to the scale from which three halvings lead to the latents."""
    if factor == 8:
        return [conv(3, WIDTH), Block(WIDTH)]
    halved = [conv(3, 32, stride=2), nn.ReLU(inplace=True), conv(32, WIDTH, stride=2), nn.ReLU(inplace=True)]
    return [*halved, Block(WIDTH)]
