"""What a run of the bench is asked for; a part takes of it what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Say = Callable[[str], None]
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    device: torch.device
    dtype: torch.dtype = torch.float32
    """Of the UNet."""
    rounds: int = 2
    """Repetitions of each way, in turns."""
    real: Path | None = None
    """The folder of autoencoders that nobody here trained; None where there is none."""
    pictures: Path | None = None
    """A folder of pictures to judge on, in place of those that anyone has; see unseen.py."""
    each: int = 1
    """Pictures of each kind."""
    side: int = 256
    """Of those pictures, pixels."""


Part = Callable[[Asked, Say], Figures]
"""Figures by name; none where the machine cannot measure them, which is then said."""
