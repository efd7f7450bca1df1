"""How sure a median is: its bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESAMPLES = 4000


class Interval(NamedTuple):
    """A median, and the ends of its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Of one value or more, by a percentile bootstrap of the median (Efron 1979); of one it has no width."""
    values = np.asarray(values, float)
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return Interval(float(np.median(values)), float(low), float(high))


class Share(NamedTuple):
    """A ratio of two root mean squares, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def share(parts: np.ndarray, wholes: np.ndarray) -> Share | None:
    """sqrt(sum(parts) / sum(wholes)) of sums of squares by region, by a percentile bootstrap over the regions; None
    where there is nothing to divide by."""
    return worst({"": (parts, wholes)})[1] if wholes.sum() > 0 else None


def worst(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[str, Share]:
    """The name of the smallest of several shares, of (parts, wholes) each, and that share. In every resample the
    smallest counts, whichever it is: the interval knows that it was chosen."""
    parts, wholes = (np.stack(sums) for sums in zip(*pairs.values(), strict=True))
    chosen = _resampled(parts.shape[1])
    shares = np.sqrt(parts[:, chosen].sum(-1) / np.maximum(wholes[:, chosen].sum(-1), np.finfo(float).tiny))
    values = np.sqrt(parts.sum(-1) / wholes.sum(-1))
    low, high = np.percentile(shares.min(0), (2.5, 97.5))
    return list(pairs)[int(values.argmin())], Share(float(values.min()), float(low), float(high))


def worst_median(table: Mapping[str, Sequence[float]]) -> tuple[str, Interval]:
    """The name of the smallest of several medians over the same pictures, and that median; as in `worst`."""
    names, values = list(table), np.array(list(table.values()), float)
    medians = np.median(values, axis=1)
    resampled = np.median(values[:, _resampled(values.shape[1])], axis=-1).min(0)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return names[int(medians.argmin())], Interval(float(medians.min()), float(low), float(high))


@lru_cache(maxsize=2)
def _resampled(count: int) -> np.ndarray:
    """The same for every figure, so that they can be compared."""
    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
