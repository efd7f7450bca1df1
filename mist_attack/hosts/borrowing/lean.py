"""Residual blocks that keep a third of what autograd would, and run faster where memory is slow. Knows no host.

A block's half is conv(silu(norm(x))). Plain autograd keeps the norm's input, its output for the SiLU and the SiLU's
output for the convolution, which needs it for the gradient of its weight alone: and weights are frozen here. `half`
keeps the norm's input and statistics and scales them again in the backward: element by element, exactly the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BLOCKS = {"ResnetBlock", "ResnetBlock2D"}  # CompVis's and diffusers'
PARTS = "norm1", "conv1", "norm2", "conv2"
DEVICES = {"cpu", "cuda"}  # where PyTorch has the norm's backward as a function of its own
LARGE = 2**17
"""Numbers in a group from which a card's own norm, which gives each group one block of threads, leaves most of it idle:
its statistics were a quarter of an encoder's time on a card of 132 multiprocessors, 32 groups, 512 px."""
Weights = Callable[[Any, Tensor], AbstractContextManager[tuple[Tensor, Any]]]
"""(layer, like) -> its weight and bias on the device and in the dtype of `like`, while open"""


@contextmanager
def own_weights(layer: Any, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield layer.weight, layer.bias


@contextmanager
def lean(modules: Iterable[nn.Module], weights: Weights = own_weights) -> Iterator[None]:
    """While open, residual blocks of ordinary layers run by halves; as before afterwards.

    weights: where a layer's own do not last until the backward, how to have them again."""
    blocks = [layer for module in modules for layer in module.modules() if type(layer).__name__ in BLOCKS]
    blocks = [block for block in blocks if "forward" not in vars(block) and _is_ordinary(block)]
    try:
        for block in blocks:
            block.forward = partial(_forward, block, weights, block.forward)
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


def _is_ordinary(block: Any) -> bool:
    parts: list[Any] = [getattr(block, name, None) for name in PARTS]
    kinds = zip(parts, (nn.GroupNorm, nn.Conv2d) * 2, strict=True)
    if not all(isinstance(part, kind) and part.bias is not None and not _has_hooks(part) for part, kind in kinds):
        return False
    if getattr(block, "upsample", None) or getattr(block, "downsample", None):
        return False
    if getattr(block, "time_embedding_norm", "default") != "default":
        return False
    if not isinstance(getattr(block, "nonlinearity", nn.SiLU()), nn.SiLU):
        return False
    return all(conv.padding_mode == "zeros" and not isinstance(conv.padding, str) for conv in parts[1::2])


def _has_hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or "forward" in vars(layer))


def _forward(
    block: Any,
    weights: Weights,
    plainly: Callable[..., Tensor],
    x: Tensor,
    *given: Any,
    **options: Any,
) -> Tensor:
    """The block's forward in halves; `plainly`, its own, where no gradient is wanted or more is asked.

    given, options: of which some kinds of block take none, and some a time embedding first."""
    temb: Tensor | None = given[0] if given else options.get("temb")
    others = (*given[1:], *(value for name, value in options.items() if name != "temb"))
    projection = getattr(block, "time_emb_proj", None) or getattr(block, "temb_proj", None)
    if (
        not (torch.is_grad_enabled() and x.requires_grad)
        or x.device.type not in DEVICES
        or any(value is not None for value in others)
        or (temb is not None and projection is None)
        or _is_autocast(x.device.type)
        or (weights is own_weights and not _fits(block, x))
    ):
        return plainly(x, *given, **options)
    h = half(x, block.norm1, block.conv1, weights)
    if temb is not None:
        activated = temb if getattr(block, "skip_time_act", False) else torch.nn.functional.silu(temb)
        h += projection(activated)[:, :, None, None]  # pyright: ignore[reportOptionalCall]
    h = half(h, block.norm2, block.conv2, weights)
    shortcut = getattr(block, "conv_shortcut", None) or getattr(block, "nin_shortcut", None)
    h += x if shortcut is None else shortcut(x)
    factor = getattr(block, "output_scale_factor", 1.0)
    return h if factor == 1.0 else h / factor


def _fits(block: Any, x: Tensor) -> bool:
    """Not where the host brings weights to the device, or into the dtype, call by call."""
    kept = [parameter for name in PARTS for parameter in getattr(block, name).parameters(recurse=False)]
    return all(parameter.dtype == x.dtype and parameter.device == x.device for parameter in kept)


def _is_autocast(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except TypeError:  # torch < 2.4
        return torch.is_autocast_cpu_enabled() if device == "cpu" else torch.is_autocast_enabled()


def half(x: Tensor, norm: nn.GroupNorm, conv: nn.Conv2d, weights: Weights = own_weights) -> Tensor:
    """conv(silu(norm(x))) with a gradient for x alone. x: (B, C, H, W)."""
    return _Half.apply(x, norm, conv, weights)  # type: ignore[return-value]


class _Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.GroupNorm, conv: nn.Conv2d, weights: Weights) -> Tensor:  # type: ignore[override]
        x = _arranged(x)
        with weights(norm, x) as (weight, bias):
            activated, mean, rstd = _norm(x, weight, bias, norm.num_groups, norm.eps)
        ctx.save_for_backward(x, mean, rstd)
        ctx.norm, ctx.conv, ctx.weights = norm, conv, weights
        return conv(torch.nn.functional.silu(activated, inplace=True))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None, None, None]:
        x, mean, rstd = ctx.saved_tensors
        norm, conv = ctx.norm, ctx.conv
        with ctx.weights(conv, x) as (weight, _):
            gradient = _input_gradient(x, weight, conv, gradients[0]).contiguous(memory_format=_format(x))
        with ctx.weights(norm, x) as (weight, bias):
            normalised = _normalised(x, mean, rstd, weight, bias)
            torch.ops.aten.silu_backward.grad_input(gradient, normalised, grad_input=gradient)
            del normalised
            inner = torch.ops.aten.native_group_norm_backward(
                gradient, x, mean, rstd, weight, *_shape(x), norm.num_groups, [True, False, False]
            )[0]
        return inner, None, None, None


def _norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The norm's output, the means and one over the deviations, each (B, groups). x: arranged."""
    if not _leaves_idle(x, groups):
        return torch.native_group_norm(x, weight, bias, *_shape(x), groups, eps)
    return spread_norm(x, weight, bias, groups, eps)


def _leaves_idle(x: Tensor, groups: int) -> bool:
    """Small groups are better left to the norm's own kernel: Python waits for fewer."""
    return x.device.type == "cuda" and x.dtype == torch.float32 and x[0].numel() >= LARGE * groups


def spread_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = spread_statistics(x, groups, eps)
    return _normalised(x, mean, rstd, weight, bias), mean, rstd


def spread_statistics(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """The means and one over the deviations, each (B, groups), by sums that many blocks of threads share. x: plain."""
    variance, mean = torch.var_mean(x.view(len(x), groups, -1), -1, correction=0)
    return mean, (variance + eps).rsqrt()


def _arranged(x: Tensor) -> Tensor:
    """x in a format that the device's norms take. CUDA's take plain memory alone, and their backward reads any other as
    if it were plain; a CPU's take channels-last too, but not each view of (B, C, H, W) that looks like it."""
    _, channels, height, width = x.shape
    if x.is_contiguous():
        return x
    if _format(x) == torch.contiguous_format:
        return x.contiguous()
    channels_last = (channels * height * width, 1, width * channels, channels)
    return x if x.stride() == channels_last else x.clone(memory_format=torch.channels_last)


def _format(x: Tensor) -> torch.memory_format:
    """Of an arranged x, and the one in which to arrange another."""
    is_plain = x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if is_plain or x.device.type != "cpu" else torch.channels_last


def _shape(x: Tensor) -> tuple[int, int, int]:
    """Pictures, channels, pixels."""
    return x.shape[0], x.shape[1], x.shape[2] * x.shape[3]


def _input_gradient(like: Tensor, weight: Tensor, conv: nn.Conv2d, gradient: Tensor) -> Tensor:
    """The gradient at the convolution's input, of which only the shape counts: it is that of `like`."""
    options = conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups, [True, False, False]
    return torch.ops.aten.convolution_backward(gradient, like, weight, None, *options)[0]


def _normalised(x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The norm's output from its statistics, each (B, groups): one multiplication and addition for each number."""
    batch, channels, _ = _shape(x)
    width = channels * batch // mean.numel()
    exact = torch.promote_types(x.dtype, torch.float32)
    mean, rstd = (value.to(exact).view(batch, -1).repeat_interleave(width, 1) for value in (mean, rstd))
    scale = rstd * weight.to(exact)
    shift = bias.to(exact) - mean * scale
    scale, shift = (value.to(x.dtype).view(batch, channels, 1, 1) for value in (scale, shift))
    return torch.addcmul(shift, x, scale)
