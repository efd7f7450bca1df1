"""What an adapter does to modules that a host lends, and undoes on every exit. Knows torch, no host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from .aliases import alias, current_mode

Context = Callable[[], AbstractContextManager[Any]]
AUTOENCODER_FLOATS, UNET_FLOATS = (3400, 2000), (3000, 500)
"""Numbers per pixel that are kept for the backward, plainly and in the low-VRAM way with the block that is computed
again: counted over autograd's saved tensors at 512 px, for the UNet of SDXL, which is the larger one."""


def memory(pixels: int, unet_bytes: int, *, low_vram: bool, autoencoder: tuple[int, int] = AUTOENCODER_FLOATS) -> float:
    """Bytes that a forward and backward take besides the weights. unet_bytes: of one number there, 0 without a UNet.
    autoencoder: numbers per pixel, plainly and in the low-VRAM way."""
    return pixels * (4.0 * autoencoder[low_vram] + unet_bytes * UNET_FLOATS[low_vram])


def layers_of(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    return (layer for module in modules for layer in module.modules())


def named(modules: Iterable[nn.Module], names: Iterable[str]) -> list[nn.Module]:
    """Layers by class name, also where an extension (token merging) has put a subclass in its place."""
    return [layer for layer in layers_of(modules) if any(kind.__name__ in names for kind in type(layer).__mro__)]


@contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Evaluation mode, and no gradients for parameters; both as before afterwards.

    Parameters are remembered by name: casting a module may have put others in their place.
    """
    layers = list(layers_of(modules))
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


def recomputed(
    layers: Iterable[nn.Module], context: Context | None = None, before: Callable[[nn.Module], None] | None = None
) -> AbstractContextManager[None]:
    """While open, layers drop their activations and compute them again in the backward, as `recompute` does.

    `before(layer)` runs first, both times: hooks that run when a layer is called do not run in the backward.
    """
    changes: dict[nn.Module, dict[str, Any]] = {}
    for layer in layers:
        if getattr(vars(layer).get("forward"), "func", None) is not recompute:  # else a run inside a run
            forward = layer.forward if before is None else partial(_after, before, layer, layer.forward)
            changes[layer] = {"forward": partial(recompute, forward, within=context)}
    return instance_attributes(changes)


def recompute(function: Callable[..., Any], *inputs: Any, within: Context | None = None, **options: Any) -> Any:
    """Non-reentrant checkpointing: the only kind that `torch.autograd.grad` and frozen weights can use.

    within: what the second computation, in a thread of its own perhaps, is done inside; by default this thread's
    `Aliases`, if any. Inputs are copied as far as hosts write to them between blocks: lists, dicts."""
    inputs, options = tree_map(alias, (inputs, options))
    again = within or current_mode()
    return checkpoint(
        partial(function, **options),
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), again()),
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
