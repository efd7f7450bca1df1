"""The statistics of the benchmark, against what they must be."""

import numpy as np
import pytest

from mist_attack.bench.ratios import ratio


def test_a_constant_ratio_has_no_width():
    theirs = np.linspace(1, 2, 9)
    assert ratio(theirs * 1.5, theirs) == pytest.approx((1.5, 1.5, 1.5))


def test_a_disturbance_of_both_is_none():
    random = np.random.default_rng(1)
    theirs, disturbance = 1 + 0.01 * random.random(20), np.exp(random.normal(0, 2, 20))
    assert ratio(theirs * disturbance, theirs * disturbance) == pytest.approx((1, 1, 1))


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        _, low, high = ratio(1.1 * np.exp(random.normal(0, 0.1, 21)), np.exp(random.normal(0, 0.1, 21)))
        held += low <= 1.1 <= high
    assert 0.90 <= held / 200 <= 0.995
