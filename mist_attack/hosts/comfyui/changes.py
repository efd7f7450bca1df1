"""What a run changes on ComfyUI's modules for its time: instance attributes, each put back as it was."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import comfy.ldm.modules.diffusionmodules.model
import comfy.model_management
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..borrowing import lending
from ..borrowing.aliases import alias, is_plain, unwatched
from ..borrowing.lending import instance_attributes, layers_of, named

# Blocks that hold nearly all activations and are never nested.
RECOMPUTED = {"ResBlock", "BasicTransformerBlock"}
RECOMPUTED_IN_AUTOENCODERS = {"ResnetBlock", "AttnBlock", "ResidualBlock", "AttentionBlock", "Block", "MemBlock"}


def autoencoder_changes(autoencoder: nn.Module) -> dict[nn.Module, dict[str, Any]]:
    """PyTorch's attention, and weights cast to the float32 of the pictures: bfloat16 cannot tell neighbouring grey
    levels apart, and float16 overflows in the backward. TAEHV detaches frames that come one by one."""
    changes: dict[nn.Module, dict[str, Any]] = {}
    if "parallel" in vars(autoencoder):
        changes[autoencoder] = {"parallel": True}
    for layer in autoencoder.modules():
        if "optimized_attention" in vars(layer):
            changes[layer] = {"optimized_attention": comfy.ldm.modules.diffusionmodules.model.pytorch_attention}
        elif isinstance(getattr(layer, "weight", None), Tensor) and layer.weight.dtype != torch.float32:
            changes[layer] = {"comfy_cast_weights": True}
    return changes


def quantised_changes(modules: Iterable[nn.Module]) -> dict[nn.Module, dict[str, Any]]:
    """Quantised layers multiply with their dequantised weight, as the host does for a layer that has a weight function:
    its own product rounds the input too, and a staircase has no slope that a gradient gives (1 % off, for int8)."""
    layers: list[Any] = [layer for layer in layers_of(modules) if is_quantised(getattr(layer, "weight", None))]
    return {layer: {"weight_function": [*layer.weight_function, _unchanged]} for layer in layers}


def is_quantised(weight: Any) -> bool:
    return weight is not None and not is_plain(weight)


def _unchanged(weight: Tensor) -> Tensor:
    return weight


def recomputed(encoding: Iterable[nn.Module], denoising: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """Blocks drop their activations and compute them again in the backward."""
    blocks = [*named(encoding, RECOMPUTED_IN_AUTOENCODERS), *named(denoising, RECOMPUTED)]
    return lending.recomputed(blocks)


def freed_of_aliases(module: nn.Module) -> AbstractContextManager[None]:
    """A module's forward leaves `Aliases` while it can: looking at every call costs more than a small call."""
    return instance_attributes({module: {"forward": _Unwatched(module.forward)}})


class _Unwatched:
    """The forward of a module that holds no inference tensors, and is given none. A patch of an extension may bring
    some in all the same: torch then refuses to compute, and from there on calls are watched."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward, self.refused = forward, False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.refused:
            try:
                with unwatched():
                    return self._forward(*args, **kwargs)
            except RuntimeError as error:
                if "nference tensor" not in str(error):
                    raise
                self.refused = True
        return self._forward(*args, **kwargs)

    def _forward(self, *args: Any, transformer_options: Any = None, **kwargs: Any) -> Any:
        args, kwargs = tree_map(alias, (args, kwargs))  # new lists, too: the host takes the controls out of them
        options = {} if transformer_options is None else {"transformer_options": transformer_options}
        return self.forward(*args, **kwargs, **options)


@contextmanager
def marked_as_training(marked: bool = True) -> Iterator[None]:
    """Newer hosts then leave out kernels that have no backward."""
    management = comfy.model_management
    before = getattr(management, "in_training", None)
    if before is not None:
        management.in_training = marked
    try:
        yield
    finally:
        if before is not None:
            management.in_training = before
