"""What an adapter does to modules that a host lends, and undoes on every exit. Knows torch, no host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Context = Callable[[], AbstractContextManager[Any]]
AUTOENCODER_FLOATS, UNET_FLOATS = (3400, 2000), (3000, 500)
"""Numbers per pixel that are kept for the backward, plainly and in the low-VRAM way with the block that is computed
again: counted over autograd's saved tensors at 512 px, for the UNet of SDXL, which is the larger one."""


def memory(pixels: int, unet_bytes: int, *, low_vram: bool) -> float:
    """Bytes that a forward and backward take besides the weights. unet_bytes: of one number there, 0 without a UNet."""
    return pixels * (4.0 * AUTOENCODER_FLOATS[low_vram] + unet_bytes * UNET_FLOATS[low_vram])


def named(module: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """Layers by class name, also where an extension (token merging) has put a subclass in its place."""
    return [layer for layer in module.modules() if any(kind.__name__ in names for kind in type(layer).__mro__)]


@contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Evaluation mode, and no gradients for parameters; both as before afterwards.

    Parameters are remembered by name: casting a module may have put others in their place.
    """
    layers = [layer for module in modules for layer in module.modules()]
    wanted = [
        (layer, name, p.requires_grad) for layer in layers for name, p in layer._parameters.items() if p is not None
    ]
    training = [(layer, layer.training) for layer in layers]
    try:
        for layer, name, _ in wanted:
            layer._parameters[name].requires_grad_(False)  # type: ignore[union-attr]
        for layer in layers:
            layer.training = False
        yield
    finally:
        for layer, name, flag in wanted:
            layer._parameters[name].requires_grad_(flag)  # type: ignore[union-attr]
        for layer, flag in training:
            layer.training = flag


@contextmanager
def attributes(owners: Iterable[Any], **values: Any) -> Iterator[None]:
    """Attributes set where the owner has them; as before afterwards."""
    before = [(owner, name, vars(owner)[name]) for owner in owners for name in values if name in vars(owner)]
    try:
        for owner, name, _ in before:
            setattr(owner, name, values[name])
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextmanager
def instance_attributes(changes: Mapping[Any, Mapping[str, Any]]) -> Iterator[None]:
    """Instance attributes, changed while open."""
    before = [(owner, name, vars(owner).get(name)) for owner, values in changes.items() for name in values]
    try:
        for owner, values in changes.items():
            vars(owner).update(values)
        yield
    finally:
        for owner, name, value in before:
            restore(owner, name, value)


def restore(owner: Any, name: str, before: Any) -> None:
    """Set an instance attribute back, or take it away where there was none."""
    if before is None:
        vars(owner).pop(name, None)
    else:
        vars(owner)[name] = before


@contextmanager
def recomputed(
    layers: Iterable[nn.Module], context: Context = nullcontext, before: Callable[[nn.Module], None] | None = None
) -> Iterator[None]:
    """Layers drop their activations and compute them again in the backward, inside `context()`.

    `before(layer)` runs first, both times: hooks that run when a layer is called do not run in the backward.
    """
    changed: list[tuple[nn.Module, Any]] = []
    try:
        for layer in layers:
            own = vars(layer).get("forward")
            if getattr(own, "func", None) is recompute:  # a run inside a run
                continue
            changed.append((layer, own))
            forward = layer.forward if before is None else partial(_after, before, layer, layer.forward)
            layer.forward = partial(recompute, forward, within=context)
        yield
    finally:
        for layer, own in changed:
            restore(layer, "forward", own)


def recompute(function: Callable[..., Any], *inputs: Any, within: Context = nullcontext, **options: Any) -> Any:
    """Non-reentrant checkpointing: the only kind that `torch.autograd.grad` and frozen weights can use."""
    return checkpoint(
        partial(function, **options),
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), within()),
    )


def _after(before: Callable[[nn.Module], None], layer: nn.Module, forward: Any, *inputs: Any, **options: Any) -> Any:
    before(layer)
    return forward(*inputs, **options)


@contextmanager
def cast(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """A module in `dtype`; in its own again afterwards, bit for bit where `dtype` is the wider one."""
    own = next(module.parameters()).dtype
    try:
        module.to(dtype)
        yield
    finally:
        module.to(own)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:  # type: ignore[override]
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x itself; its gradient times `factor` in the backward."""
    return _ScaledGradient.apply(x, factor)  # type: ignore[return-value]
