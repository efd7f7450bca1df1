"""A dry run's estimate against the run itself, on a clock that only the model's work moves."""

import random
from types import SimpleNamespace

import pytest
from fakes.command import Model, draw, files, mist, toy_model  # noqa: F401

from mist_attack.gallery import estimate
from mist_attack.hosts.headless import diffusers

pytestmark = pytest.mark.usefixtures("toy_model")


class Clocked(Model):
    """Every encoding takes a second for 100 000 pixels, and a little whatever the size."""

    now = 0.0

    def encode(self, images):
        Clocked.now += 0.02 + images.shape[2] * images.shape[3] / 1e5
        return super().encode(images)


def load(*_):
    Clocked.now += 3
    return Clocked()


@pytest.fixture
def found(monkeypatch):
    """What `measure` has found."""
    found, real = [], estimate.measure
    monkeypatch.setattr(diffusers, "load", load)
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: Clocked.now))
    monkeypatch.setattr(estimate, "measure", lambda *arguments: found.append(real(*arguments)) or found[-1])
    return found


def taken(*words):
    begun = Clocked.now
    assert mist("protect", "in", "--out", "out", *words) == 0
    return Clocked.now - begun


@pytest.mark.parametrize("words", [("--view", "whole"), ("--view", "tiles"), ("--objective", "textural")])
def test_a_dry_run_tells_the_time_within_30_percent(found, words):
    chance = random.Random(2)
    for index in range(7):
        draw(f"in/{index}.png", (chance.randint(16, 200), chance.randint(16, 200)), seed=index)
    words = ("--steps", 12, "--working-size", 64, *words)
    taken(*words, "--dry-run")
    assert files("out") == []
    assert found[0].seconds == pytest.approx(taken(*words), rel=0.3)
    assert 2**20 < found[0].peak_bytes < 2**40


def test_what_is_done_already_is_not_in_the_estimate(found):
    for index in range(4):
        draw(f"in/{index}.png", (100, 100), seed=index)
    words = ("--steps", 10)
    taken(*words, "--limit", 3)
    taken(*words, "--dry-run")
    assert found[0].seconds == pytest.approx(taken(*words), rel=0.3)
