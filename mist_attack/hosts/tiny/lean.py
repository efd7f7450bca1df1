"""Convolutions and residual blocks with a gradient for the picture alone, which keep next to nothing for it.

Plain autograd keeps the input of every convolution, which only the gradient of its weight needs: and weights are frozen
here. These keep one byte for each number that a ReLU let through or stopped, a quarter of what autograd would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def is_frozen(x: Tensor, *layers: nn.Module) -> bool:
    """A gradient is wanted, and none of the layers' weights."""
    return (
        torch.is_grad_enabled() and x.requires_grad and not any(p.requires_grad for m in layers for p in m.parameters())
    )


def convolved(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(x), by a layer of frozen weights."""
    return _Convolved.apply(x, conv)  # type: ignore[return-value]


def residual(x: Tensor, convs: Sequence[nn.Conv2d]) -> Tensor:
    """relu(x + convs(x)) with a ReLU between each two of them, all of frozen weights."""
    return _Residual.apply(x, convs)  # type: ignore[return-value]


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, conv: nn.Conv2d) -> Tensor:  # type: ignore[override]
        ctx.conv, ctx.shape = conv, x.shape
        return nn.Conv2d.forward(conv, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _input_gradient(gradients[0], ctx.conv, ctx.shape), None


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, convs: Sequence[nn.Conv2d]) -> Tensor:  # type: ignore[override]
        inner, passed = x, []
        for conv in convs[:-1]:
            inner = conv(inner).relu_()
            passed.append(inner > 0)
        out = convs[-1](inner).add_(x).relu_()
        ctx.save_for_backward(*passed, out > 0)
        ctx.convs = convs
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *passed, last = ctx.saved_tensors
        around = gradients[0] * last
        inner = around
        for conv, mask in zip(reversed(ctx.convs), [*reversed(passed), None], strict=True):
            inner = _input_gradient(inner, conv, inner.shape)
            inner = inner if mask is None else inner.mul_(mask)
        return inner.add_(around), None


def _input_gradient(gradient: Tensor, conv: nn.Conv2d, shape: torch.Size) -> Tensor:
    """The gradient at the input, of `shape`, of a convolution: the transposed one, which does not ask for the input."""
    assert not isinstance(conv.padding, str)
    (stride, _), (padding, _), (kernel, _) = conv.stride, conv.padding, conv.kernel_size
    more = [
        side - (small - 1) * stride + 2 * padding - kernel
        for side, small in zip(shape[2:], gradient.shape[2:], strict=True)
    ]
    return nn.functional.conv_transpose2d(gradient, conv.weight, None, stride, padding, more)
