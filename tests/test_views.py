"""Geometry: what the model sees covers the picture, in allowed sizes, at a bounded cost."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_attack.views import plan

sizes = st.integers(1, 4096)
multiples = st.sampled_from([8, 32, 64])
kinds = st.sampled_from(["whole", "tiles", "both"])


@settings(max_examples=200)
@given(sizes, sizes, kinds, st.sampled_from([64, 256, 512, 768]), multiples)
def test_every_view_has_an_allowed_size_of_bounded_area(height, width, kind, working_size, multiple):
    for view in plan(height, width, kind, working_size, multiple):
        assert view.model_height % multiple == 0 and view.model_width % multiple == 0
        longest = max(view.model_height, view.model_width)
        assert view.model_height * view.model_width <= working_size**2 + 2 * multiple * longest
        assert view.top >= 0 and view.top + view.height <= height
        assert view.left >= 0 and view.left + view.width <= width


@settings(max_examples=100)
@given(sizes, sizes, kinds, multiples)
def test_the_views_cover_every_pixel(height, width, kind, multiple):
    covered = torch.zeros(1, 1, height, width)
    for view in plan(height, width, kind, 512, multiple):
        view.region(covered).add_(1)
    assert covered.min() >= 1


@settings(max_examples=100)
@given(sizes, sizes, multiples)
def test_tiles_have_one_shape_and_weights_that_leave_nothing_out(height, width, multiple):
    views = plan(height, width, "tiles", 256, multiple)
    assert len({(v.height, v.width, v.model_height, v.model_width) for v in views}) == 1
    weights = torch.zeros(1, 1, height, width)
    for view in views:
        view.region(weights).add_(view.weight(weights))
    assert weights.min() > 0.005


@pytest.mark.parametrize("side", [2048, 3000, 4096])
def test_tiles_cover_at_most_1_6_times_the_picture_at_2048_and_above(side):
    views = plan(side, side, "tiles", 512, 64)
    assert sum(v.model_height * v.model_width for v in views) <= 1.6 * side**2


def test_the_last_tile_is_shifted_inward_and_neighbours_overlap():
    views = plan(512, 1300, "tiles", 512, 64)
    assert [v.left for v in views] == [0, 448, 1300 - 512]
    for left, right in pairwise(views):
        assert left.feathers[3] == right.feathers[2] == left.left + 512 - right.left > 0
    assert views[0].feathers[2] == views[-1].feathers[3] == 0


@pytest.mark.parametrize("kind", ["whole", "tiles", "both"])
def test_a_small_picture_is_seen_as_it_is(kind):
    (view,) = plan(300, 200, kind, 512, 64)
    assert (view.model_height, view.model_width, view.gain) == (320, 256, 1.0)
    picture = torch.rand(1, 3, 300, 200)
    seen = view.look(view.region(picture))
    assert torch.equal(seen[:, :, :300, :200], picture)
    assert torch.equal(seen[:, :, 300:, :200], picture[:, :, -1:].expand(-1, -1, 20, -1))


@settings(max_examples=60)
@given(st.integers(100, 4000), st.integers(100, 4000))
def test_the_whole_is_reduced_to_the_working_area_and_keeps_its_aspect(height, width):
    (view,) = plan(height, width, "whole", 128, 8)
    if height * width <= 128**2:
        return
    seen_aspect, aspect = view.model_width / view.model_height, width / height
    short = min(view.model_height, view.model_width)
    assert abs(math.log(seen_aspect / aspect)) <= 1.1 * 8 / short  # both sides rounded by at most half a multiple
    assert view.gain == pytest.approx(height * width / (view.model_height * view.model_width))


def test_reducing_averages_and_is_differentiable():
    (view,) = plan(64, 64, "whole", 32, 8)
    flat = torch.full((1, 3, 64, 64), 0.3, requires_grad=True)
    seen = view.look(view.region(flat))
    torch.testing.assert_close(seen, torch.full((1, 3, 32, 32), 0.3))
    (gradient,) = torch.autograd.grad(seen.sum(), flat)
    assert gradient.sum() == pytest.approx(3 * 32 * 32)
    noise = torch.randn(1, 3, 64, 64)
    assert view.look(noise).std() < 0.6 * noise.std()  # antialiased: plain sampling would keep the deviation


def test_both_is_the_whole_and_the_tiles():
    whole, tiles = plan(700, 900, "whole", 512, 64), plan(700, 900, "tiles", 512, 64)
    assert plan(700, 900, "both", 512, 64) == whole + tiles
