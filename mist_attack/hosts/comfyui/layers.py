"""ComfyUI's layers made differentiable where their weights do not last until the backward.

A layer whose weight lies elsewhere (offloaded, streamed, dynamic VRAM), is quantised, patched on the fly or stored in
another dtype gets it from `cast_bias_weight` for one call. Newer hosts hand out views of memory that the next layer
reuses, so a graph that saved them computes a wrong gradient without any error. Here such a layer keeps no weight in
the graph: its backward fetches the weight again. It fetches in inference mode, as the host does: memory that was made
in that mode can be written in no other.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from inspect import signature
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import grad as conv_gradient

from ..borrowing.aliases import Aliases, alias
from ..borrowing.lending import instance_attributes, layers_of
from .changes import is_quantised

_CAN_OFFLOAD = "offloadable" in signature(comfy.ops.cast_bias_weight).parameters
_CONV_INPUT = {
    nn.Conv1d: conv_gradient.conv1d_input,
    nn.Conv2d: conv_gradient.conv2d_input,
    nn.Conv3d: conv_gradient.conv3d_input,
}
InputGradient = Callable[[torch.Size, Tensor, Tensor], Tensor]
"""(input's shape, weight, output's gradient) -> input's gradient"""


def refetching(modules: Iterable[nn.Module], device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """While open, layers whose weights are fetched anew for every call can be differentiated.

    device, dtype: where and in what the layers compute."""
    transient = [layer for layer in layers_of(modules) if is_transient(layer, device, dtype)]
    return instance_attributes({layer: {"forward": partial(_call, layer, layer.forward)} for layer in transient})


def is_transient(layer: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """A layer whose weight is there for one call only."""
    weight = getattr(layer, "weight", None)
    if weight is None or isinstance(layer, nn.Embedding) or not isinstance(layer, comfy.ops.CastWeightBiasOp):
        return False
    return (
        (layer.comfy_cast_weights and hasattr(layer, "_v"))  # dynamic VRAM: pages that may be evicted after each call
        or is_patched(layer)
        or not is_on(device, weight)
        or (layer.comfy_cast_weights and weight.dtype != dtype and _input_gradient(layer) is not None)
    )


def is_patched(layer: Any) -> bool:
    """Quantised, or with functions that make the weight of a call."""
    return is_quantised(layer.weight) or bool(layer.weight_function or layer.bias_function)


def is_on(device: torch.device, tensor: Tensor) -> bool:
    """Also where one of them leaves out the index."""
    found = tensor.device
    return found.type == device.type and (None in (found.index, device.index) or found.index == device.index)


def _call(layer: nn.Module, forward: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _in_the_hosts_mode(forward, x, *args, **kwargs)
    input_gradient = None if args or kwargs else _input_gradient(layer)
    return _Refetched.apply(x, layer, lambda x: forward(x, *args, **kwargs), input_gradient)


class _Refetched(torch.autograd.Function):
    """One layer. Linear layers and convolutions keep neither input nor weight; others compute again in the backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layer: nn.Module, call: Callable[[Tensor], Tensor], input_gradient: InputGradient | None
    ) -> Tensor:
        ctx.layer, ctx.call, ctx.shape, ctx.input_gradient = layer, call, x.shape, input_gradient
        if input_gradient is None:
            ctx.save_for_backward(x)
        return _in_the_hosts_mode(call, x)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        if ctx.input_gradient is None:
            return _recomputed(ctx.call, ctx.saved_tensors[0], gradient), None, None, None
        with fetched(ctx.layer, gradient) as (weight, _):
            return ctx.input_gradient(ctx.shape, weight, gradient), None, None, None


def _in_the_hosts_mode(call: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A call of which no gradient is wanted."""
    with torch.inference_mode():
        result = call(*args, **kwargs)
    return alias(result)


def _recomputed(call: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> Tensor:
    with torch.enable_grad(), Aliases():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(call(x), x, gradient)[0]


@contextmanager
def fetched(layer: Any, like: Tensor) -> Iterator[tuple[Tensor, Any]]:
    """A layer's weight and bias as its forward uses them, on the device and in the dtype of `like`, while open."""
    if not layer.comfy_cast_weights and not is_patched(layer) and layer.weight.dtype == like.dtype:
        yield alias(layer.weight), alias(layer.bias)
        return
    options: dict[str, Any] = {"offloadable": True} if _CAN_OFFLOAD else {}
    with torch.inference_mode():
        answer = comfy.ops.cast_bias_weight(layer, like, **options)
    try:
        weight, bias = answer[:2]
        yield alias(weight.dequantize() if is_quantised(weight) else weight), alias(bias)
    finally:
        if _CAN_OFFLOAD:
            comfy.ops.uncast_bias_weight(layer, *answer)


def _input_gradient(layer: Any) -> InputGradient | None:
    """For layers that are linear in their input; None for others, which compute again."""
    if type(layer).forward.__module__ != comfy.ops.CastWeightBiasOp.__module__:
        return None  # of a class that does more, as the padding of causal convolutions
    if getattr(layer, "pre_quant_scale", None) is not None or getattr(layer, "scale_weight", None) is not None:
        return None  # more than the weight multiplies the input
    if isinstance(layer, nn.Linear) or type(layer).__qualname__.endswith("MixedPrecisionOps.Linear"):
        return _linear_input
    for kind, function in _CONV_INPUT.items():
        if isinstance(layer, kind):
            plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
            return partial(_conv_input, function, layer) if plain else None
    return None


def _linear_input(shape: torch.Size, weight: Tensor, gradient: Tensor) -> Tensor:
    return gradient @ weight


def _conv_input(
    function: Callable[..., Tensor], layer: Any, shape: torch.Size, weight: Tensor, gradient: Tensor
) -> Tensor:
    return function(shape, weight, gradient, layer.stride, layer.padding, layer.dilation, layer.groups)
