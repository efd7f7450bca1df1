"""A ratio of two costs, with its interval, from repetitions that were taken in turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 4000


class Ratio(NamedTuple):
    """The median of the paired ratios, and the ends of its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """ours[i] / theirs[i], where i was measured one right after the other: what slows the machine slows both.

    The interval is a percentile bootstrap of the median (Efron 1979) over the pairs. Two pairs or more."""
    pairs = np.asarray(ours, float) / np.asarray(theirs, float)
    drawn = np.random.default_rng(0).choice(pairs, (RESAMPLES, len(pairs)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return Ratio(float(np.median(pairs)), float(low), float(high))
