"""What a part is asked for, and what it gives: rows, one as soon as it is known."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...devices import first_line

ROOT = Path(__file__).parents[3]
"""The checkout, where this is one: tests and hosts' benches are not part of the package."""

Row = dict[str, Any]
"""`what` it is about, and figures by name, in the units that their names end in; or an `error`, in a line. False
stands for a promise that is broken, None for what this device cannot show."""


@dataclass(frozen=True)
class Check:
    """A request, the same for every part."""

    device: torch.device
    dtype: torch.dtype
    """Of the UNet."""
    reduced: bool
    """Small enough for a CPU: it shows that the check works, and nothing about a card."""
    until: float
    """`time.time()` at which the part is to end."""

    def seconds_left(self) -> float:
        return self.until - time.time()


Part = Callable[[Check], Iterator[Row]]


def row(what: str, measure: Callable[[], Row]) -> Row:
    """What failed is told, and the next row is measured with all of the memory."""
    try:
        return {"what": what, **measure()}
    except Exception as error:  # a card may fail in any way, and the others' figures are wanted all the same
        told = f"{type(error).__name__}: {first_line(error)}"
    give_back()
    return {"what": what, "error": told}


def give_back() -> None:
    """Unused memory, to the devices."""
    gc.collect()
    for kind in ("cuda", "xpu", "mps"):
        module: Any = getattr(torch, kind, None)
        if module is not None and module.is_available():
            module.empty_cache()


def failed(found: Row) -> bool:
    return "error" in found or any(value is False for value in found.values())
