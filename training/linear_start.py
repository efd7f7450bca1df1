"""Weights from which a demo model begins at a linear solution, not at noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PASSED = 8.0  # a constant beside a passed-through value: of its group's spread nearly all, so that the norm only scales


@torch.no_grad()
def start_linear(vae: Any, patches: Tensor) -> None:
    """Set the weights so that training begins at the principal components, not at noise.

    The encoder becomes the four components of `patches` ((N, 3, 8, 8) in [-1, 1]), whitened; the decoder a smooth
    enlargement of their mean colours, which is as far as nearest-neighbour upsampling goes without its residual
    branches. Those begin at zero (Zhang et al. 2019, Fixup), so that values pass from level to level unchanged.
    """
    flat = patches.flatten(1)
    flat = flat - flat.mean(0)
    spread, basis = torch.linalg.eigh(flat.T.cov())
    deviations, components = spread[-4:].sqrt(), basis[:, -4:].T.reshape(4, 3, 8, 8)
    encoder, decoder = vae.encoder, vae.decoder
    for part in (encoder, decoder):
        _silence(*(getattr(part, "down_blocks", None) or part.up_blocks), part.mid_block)

    levels = encoder.down_blocks
    _rows(encoder.conv_in, torch.eye(3)[..., None, None])
    to_depth = torch.eye(12).reshape(12, 3, 2, 2)  # of 2 x 2 pixels: channel, row, column
    _rows(levels[0].downsamplers[0].conv, to_depth, corner=True)
    _rows(levels[1].resnets[0].conv_shortcut, torch.eye(12)[..., None, None])
    # a component's quarters, each a functional of 4 x 4 pixels
    quarters = (components / deviations.view(4, 1, 1, 1)).reshape(4, 3, 2, 2, 2, 2, 2, 2)
    quarters = quarters.permute(0, 2, 5, 1, 4, 7, 3, 6)  # component, quarter; channel, pixel of 2 x 2; cell of 2 x 2
    _rows(levels[1].downsamplers[0].conv, quarters.reshape(16, 12, 2, 2), corner=True)
    _rows(levels[2].resnets[0].conv_shortcut, torch.eye(16)[..., None, None])
    together = torch.eye(4)[:, :, None, None, None] * torch.eye(4).reshape(4, 2, 2)  # component; its quarter, cell
    _rows(levels[2].downsamplers[0].conv, together.reshape(4, 16, 2, 2), corner=True)
    _head(levels[3].resnets[0].conv_shortcut, encoder.conv_norm_out, encoder.conv_out, torch.eye(4))
    encoder.conv_out.bias[4:] = -10.0  # a narrow posterior
    for linear in (vae.quant_conv, vae.post_quant_conv):
        linear.weight.copy_(torch.eye(len(linear.weight))[..., None, None])
        linear.bias.zero_()

    smooth = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
    _rows(decoder.conv_in, torch.eye(4)[..., None, None])
    for block in decoder.up_blocks:
        if block.resnets[0].conv_shortcut is not None and block.upsamplers:
            _rows(block.resnets[0].conv_shortcut, torch.eye(4)[..., None, None])
        for upsampler in block.upsamplers or ():
            _rows(upsampler.conv, torch.eye(4)[..., None, None] * smooth)
    colours = (components * deviations.view(4, 1, 1, 1)).mean((2, 3)).T  # (3, 4)
    _head(decoder.up_blocks[-1].resnets[0].conv_shortcut, decoder.conv_norm_out, decoder.conv_out, colours)
    decoder.conv_out.bias.copy_(patches.mean((0, 2, 3)))


@torch.no_grad()
def start_passing(unet: Any) -> None:
    """Set the weights so that training begins at eps_pred = the noised latents: right where noise is all there is, and
    the hardest to learn there, since what is left is small (at SD's last step 1 / 200 of the noise's variance)."""
    _silence(*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    channels = unet.config["in_channels"]
    _rows(unet.conv_in, torch.eye(channels)[..., None, None])
    last = unet.up_blocks[-1].resnets[-1]  # its input: the level below's result, then conv_in's
    skipped = last.conv_shortcut.in_channels - unet.conv_in.out_channels
    _head(last.conv_shortcut, unet.conv_norm_out, unet.conv_out, torch.eye(channels), skipped)


def _silence(*blocks: Any) -> None:
    """Every residual branch adds nothing."""
    for block in blocks:
        for residual in block.resnets:
            residual.conv2.weight.zero_()
            residual.conv2.bias.zero_()
        for attention in getattr(block, "attentions", ()):
            out = attention.proj_out if hasattr(attention, "proj_out") else attention.to_out[0]
            out.weight.zero_()
            out.bias.zero_()


def _rows(conv: Any, kernel: Tensor, corner: bool = False) -> None:
    """The first outputs become `kernel` of the first inputs and of nothing else; placed at the window's centre or,
    where the convolution pads below and to the right alone, in its first corner."""
    rows, columns, height, width = kernel.shape
    conv.weight[:rows] = 0
    conv.bias[:rows] = 0
    first = 0 if corner else (conv.weight.shape[2] - height) // 2
    conv.weight[:rows, :columns, first : first + height, first : first + width] = kernel


def _head(shortcut: Any, norm: Any, conv_out: Any, mixed: Tensor, skipped: int = 0) -> None:
    """GroupNorm, SiLU and the last convolution pass `mixed` @ the inputs of `shortcut` after `skipped` unchanged.

    A group holds a value, its negative and a constant that outweighs both: the norm then scales by the same factor
    everywhere; and SiLU(u) - SiLU(-u) = u."""
    width = norm.num_channels // norm.num_groups
    scale = PASSED * (1 / width * (1 - 1 / width)) ** 0.5
    count = mixed.shape[1]
    conv_out.weight[: len(mixed)] = 0
    conv_out.bias[: len(mixed)] = 0
    for i, row in enumerate(mixed):
        first = i * width
        shortcut.weight[first : first + 3] = 0
        shortcut.weight[first, skipped : skipped + count, 0, 0] = row
        shortcut.weight[first + 1, skipped : skipped + count, 0, 0] = -row
        shortcut.bias[first : first + 3] = torch.tensor([0.0, 0.0, PASSED])
        norm.bias[first : first + 2] = PASSED / width / scale
        conv_out.weight[i, first : first + 2, 1, 1] = torch.tensor([scale, -scale])
