"""Gradients through weights that a host loaded in inference mode.

Autograd refuses to save an inference tensor for the backward, and nothing turns one into a normal tensor. A normal
tensor over the same memory can be made, though. `Aliases` hands such aliases to every torch call while it is active:
the host's modules, buffers and conditionings stay as they are, and there is nothing to put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode_temporarily

_OUT_OF_PLACE = {"add_": torch.add, "sub_": torch.sub, "mul_": torch.mul, "div_": torch.div}


class Aliases(TorchFunctionMode):
    """While active, torch calls see normal tensors without gradients in place of inference tensors and parameters.

    Only the thread that enters it is concerned: a backward on an accelerator runs in others and enters its own.
    Subclasses of Tensor (quantised weights) are left alone: their memory is not what it seems.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ("__get__", "is_inference"):  # a look at a tensor, not a computation
            return func(*args, **(kwargs or {}))
        return func(*map(alias, args), **{name: alias(value) for name, value in (kwargs or {}).items()})


class OutOfPlace(Aliases):
    """`Aliases`, and `x += y` computed as `x = x + y`, where x is part of a graph.

    Some hosts write over tensors that autograd has saved: an error, or in a recomputed block a wrong gradient without
    one. Only for code that uses operators: to torch, a bare `x.add_(y)` looks the same, and would lose its result.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operator = _OUT_OF_PLACE.get(getattr(func, "__name__", ""))
        if operator is None or not (torch.is_grad_enabled() and args[0].requires_grad):
            return super().__torch_function__(func, types, args, kwargs)
        return super().__torch_function__(operator, types, args, kwargs).to(args[0].dtype)


def current_mode() -> Callable[[], AbstractContextManager[Any]]:
    """What another thread enters to see the tensors that this one sees."""
    mode = _get_current_function_mode()
    return type(mode) if isinstance(mode, Aliases) else nullcontext


def watched() -> bool:
    """The calls of this thread go through `Aliases`."""
    return isinstance(_get_current_function_mode(), Aliases)


@contextmanager
def unwatched() -> Iterator[None]:
    """While open, as if this thread had not entered `Aliases`, which looks at every call: for code that meets no
    inference tensor. Where it does, torch raises a RuntimeError that says so."""
    if not watched():
        yield
        return
    with _pop_mode_temporarily():
        yield


def is_plain(value: Any) -> bool:
    """A tensor or parameter whose memory is what it seems: of no subclass, as quantised weights are."""
    return type(value) in (Tensor, Parameter)


def alias(value: Any) -> Any:
    """A normal tensor over the memory of an inference tensor or parameter; inside lists and tuples too."""
    kind = type(value)
    if is_plain(value):
        if value.is_inference():
            empty = torch.empty(0, dtype=value.dtype, device=value.device)
            return empty.set_(value.untyped_storage(), value.storage_offset(), value.size(), value.stride())
        return value.detach() if kind is Parameter else value
    if kind is list or kind is tuple:
        return kind(map(alias, value))
    return value
