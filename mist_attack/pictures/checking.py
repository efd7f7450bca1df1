"""The promise kept in the file itself: what is written is read again and compared with what was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..budget import Budget, to_levels
from ..errors import BudgetError
from .reading import PathLike, read_picture

LOSSY = frozenset({".jpg", ".jpeg"})
"""Suffixes of files whose values are not those that were written."""


def check_saved(path: PathLike, data: bytes, budget: Budget, alpha: np.ndarray | None = None) -> None:
    """Raise BudgetError unless the bytes of the file at `path` decode to a picture within `budget`, and to its alpha.

    alpha: (H, W) uint8; None is opaque. A lossy file is left alone."""
    if Path(path).suffix.lower() in LOSSY:
        return
    saved = read_picture(path, data)
    budget.check(to_levels(saved.images))
    if (_shown(saved.alpha) != _shown(alpha)).any():
        raise BudgetError(f"{Path(path).name}: its transparency is not the original's. Please report this as a fault.")


def _shown(alpha: np.ndarray | None) -> np.ndarray:
    """A format may leave out an alpha that says nothing."""
    return np.array(255) if alpha is None else alpha
