"""Weights that last for a run, as normal tensors in ComfyUI's layers: nothing to fetch, and no call to watch.

A weight that lies on the device in the dtype of the computation is lent as an alias over its memory; one that the host
would bring or cast for every call (dynamic VRAM, an autoencoder in half precision) as a copy, where the device has
memory to spare. What is quantised, patched on the fly or offloaded stays as it is: see `layers`.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn

from ..borrowing.aliases import alias, is_plain
from ..borrowing.lending import instance_attributes, layers_of
from .layers import fetched, is_on, is_patched, is_transient

_KINDS = [
    kind
    for name, kind in vars(comfy.ops.disable_weight_init).items()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and name != "Embedding"
]
Replaced = dict[nn.Module, dict[str, Tensor]]
"""layer -> name of a parameter or buffer -> what is in its place"""


@contextmanager
def lasting(modules: Iterable[nn.Module], device: torch.device, dtype: torch.dtype, spare: float) -> Iterator[None]:
    """While open, layers hold normal tensors where their weights and buffers last; as before afterwards.

    device, dtype: where and in what the layers compute. spare: bytes on the device that copies may take.
    """
    like, replaced = torch.empty(0, device=device, dtype=dtype), Replaced()
    for layer in layers_of(modules):
        size = sum(weight.numel() for weight in layer.parameters(recurse=False)) * like.element_size()
        if _is_fetched(layer, like) and size <= spare:
            replaced[layer], spare = _copies(layer, like), spare - size
        elif not is_transient(layer, device, dtype):
            replaced[layer] = _aliases(layer)
    plain = [layer for layer, tensors in replaced.items() if _is_ordinary(layer) and _fit(tensors.values(), like)]
    with instance_attributes({layer: {"comfy_cast_weights": False} for layer in plain}), _in_place(replaced):
        yield


def spare_memory(device: torch.device, needed: float) -> float:
    """Bytes: what the device has free less what a forward and backward take and what the host keeps free for itself.
    Weights that it could evict do not count as free."""
    management = comfy.model_management
    return management.get_free_memory(device) - management.minimum_inference_memory() - needed


def _is_fetched(layer: Any, like: Tensor) -> bool:
    """Brought or cast for every call, though it could be kept. What the host has offloaded is not ours to bring."""
    if not _is_ordinary(layer) or not layer.comfy_cast_weights:
        return False
    weights = list(layer.parameters(recurse=False))
    return hasattr(layer, "_v") or (all(is_on(like.device, w) for w in weights) and not _fit(weights, like))


def _is_ordinary(layer: Any) -> bool:
    """Its forward does nothing but compute, with its own weights or with those it fetches."""
    kind = next((kind for kind in _KINDS if isinstance(layer, kind)), None)
    if kind is None or "forward" in vars(layer) or is_patched(layer):
        return False
    return all(
        getattr(type(layer), name, None) is getattr(kind, name, None)
        for name in ("forward", "forward_comfy_cast_weights")
    )


def _fit(weights: Iterable[Tensor], like: Tensor) -> bool:
    return all(is_on(like.device, weight) and weight.dtype == like.dtype for weight in weights)


def _copies(layer: nn.Module, like: Tensor) -> dict[str, Tensor]:
    with fetched(layer, like) as values:
        named = zip(("weight", "bias"), values, strict=True)
        return {name: value.clone() for name, value in named if value is not None}


def _aliases(layer: nn.Module) -> dict[str, Tensor]:
    own = {**layer._parameters, **layer._buffers}
    return {name: alias(value) for name, value in own.items() if is_plain(value)}


@contextmanager
def _in_place(replaced: Replaced) -> Iterator[None]:
    """Tensors in place of a layer's own, which come back unless the host has put others there."""
    before = {(layer, name): _place(layer, name)[name] for layer, tensors in replaced.items() for name in tensors}
    try:
        for layer, name in before:
            _place(layer, name)[name] = replaced[layer][name]
        yield
    finally:
        for (layer, name), own in before.items():
            if _place(layer, name).get(name) is replaced[layer][name]:
                _place(layer, name)[name] = own


def _place(layer: Any, name: str) -> dict[str, Any]:
    return layer._buffers if name in layer._buffers else layer._parameters
