"""A ratio of two costs, with its interval, from repetitions that were taken in turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evaluation.intervals import Interval, interval


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """ours[i] / theirs[i], where i was measured one right after the other: what slows the machine slows both.

    Two pairs or more."""
    return interval(np.asarray(ours, float) / np.asarray(theirs, float))
