"""Every shape of a budget by closed forms and properties: what it promises holds after projecting and rounding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_attack.budget import FORGIVEN, WIDER, CappedL2, HiddenL2, Linf, budget_for, to_levels, to_unit
from mist_attack.errors import BudgetError
from mist_attack.hiding import FLAT, PRICE, hidden_weight
from mist_attack.pgd import pgd
from mist_attack.settings import Settings, resolve

SHAPES = {
    "linf": Linf,
    "capped l2": lambda *args, **more: CappedL2(*args, rms=5 / 255, **more),
    "a small ball": lambda *args, **more: CappedL2(*args, rms=0.7 / 255, **more),
    "a hidden ball": lambda x0, *args, **more: HiddenL2(
        x0, *args, rms=5 / 255, weight=hidden_weight(x0, 1), chroma=0.4, **more
    ),
}
"""A row for each shape: its promises are tested below. CappedL2's and HiddenL2's own are tested by their formulas."""
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
convex = pytest.mark.parametrize("shape", list(SHAPES.values())[:3], ids=list(SHAPES)[:3])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_budget(shape, seed, strength, *, keep_tone=False):
    """A picture on the 8-bit grid, with clipped values, and a mask of 0, soft values and 1."""
    generator = seeded(seed)
    height, width = torch.randint(1, 12, (2,), generator=generator).tolist()
    x0 = torch.rand(1, 3, height, width, generator=generator).mul(1.4).sub(0.2).clamp(0, 1).mul(255).round() / 255
    mask = torch.rand(1, 1, height, width, generator=generator).mul(4).round() / 4
    return shape(x0, strength / 255, mask, keep_tone=keep_tone), generator


def wild(budget, generator):
    """Changes far beyond any budget, and some within."""
    scale = 10 ** (torch.rand((), generator=generator) * 4 - 3)
    return torch.randn(budget.x0.shape, generator=generator) * scale


def square_sum(values):
    return float(values.double().square().sum())


def limit(budget):
    """What the sum of squares may be; None where there is no ball."""
    return float(budget.most) if isinstance(budget, CappedL2) else None


def require_member(budget, x, levels=1e-4):
    moved = x - budget.x0
    assert float((moved.abs() - budget.reach).max()) * 255 <= levels
    assert x.min() >= 0 and x.max() <= 1
    if limit(budget) is not None:
        count = moved.numel()
        assert (square_sum(moved) / count) ** 0.5 <= (limit(budget) / count) ** 0.5 + levels / 255


@shapes
@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), strength=st.floats(0, 64), keep_tone=st.booleans())
def test_what_is_projected_is_a_member_and_stays_where_it_is(shape, seed, strength, keep_tone):
    budget, generator = random_budget(shape, seed, strength, keep_tone=keep_tone)
    x = budget.project(budget.x0 + wild(budget, generator))
    require_member(budget, x)
    if not keep_tone:  # whose correction is one step of several: see `settle`
        torch.testing.assert_close(budget.project(x.clone()), x, atol=1e-6, rtol=0)
    require_member(budget, budget.start(generator))


@convex
@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), strength=st.floats(0, 64))
def test_the_projection_is_the_nearest_member(shape, seed, strength):
    """p is the nearest of a convex set to d where <d - p, q - p> <= 0 for every q of it."""
    budget, generator = random_budget(shape, seed, strength)
    wanted = wild(budget, generator)
    nearest = budget.project(budget.x0 + wanted) - budget.x0
    for _ in range(8):
        other = budget.project(budget.x0 + wild(budget, generator)) - budget.x0
        other = nearest + torch.rand((), generator=generator) * (other - nearest)
        size = float(wanted.norm() * (other - nearest).norm())
        assert float(((wanted - nearest) * (other - nearest)).sum()) <= 1e-5 * size + 1e-9


@shapes
@settings(max_examples=80)
@given(seed=st.integers(0, 2**31), strength=st.floats(0, 64))
def test_what_is_rounded_keeps_the_promise_and_passes_the_check(shape, seed, strength):
    budget, generator = random_budget(shape, seed, strength)
    levels = budget.quantize(budget.project(budget.x0 + wild(budget, generator)))
    require_member(budget, to_unit(levels), levels=FORGIVEN * 1.01)
    budget.check(levels)


@shapes
@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    strength=st.floats(0, 64),
    momentum=st.sampled_from([0.0, 0.6, 0.99]),
    decay=st.booleans(),
    keep_tone=st.booleans(),
)
def test_every_iterate_of_the_loop_is_a_member(shape, seed, strength, momentum, decay, keep_tone):
    budget, generator = random_budget(shape, seed, strength, keep_tone=keep_tone)

    class Noisy:
        deterministic = False

        def value_and_gradient(self, x):
            return x.sum(), torch.randn(x.shape, generator=generator)

    def look(progress):
        require_member(budget, progress.preview())

    how = {"momentum": momentum, "decay": decay, "generator": generator, "on_step": look}
    x, _ = pgd(Noisy(), budget, step_size=4 / 255, steps=4, **how)
    require_member(budget, x)
    budget.check(budget.quantize(x))


@shapes
@given(seed=st.integers(0, 2**31), data=st.data())
def test_one_level_too_many_of_any_value_is_found(shape, seed, data):
    budget, generator = random_budget(shape, seed, data.draw(st.integers(0, 30)))
    levels = budget.quantize(budget.project(budget.x0 + wild(budget, generator)))
    at = data.draw(st.integers(0, levels.numel() - 1))
    original = int(to_levels(budget.x0).flatten()[at])
    allowed = int(budget.allowed.expand_as(levels).flatten()[at])
    beyond = original + allowed + 1 if original < 128 else original - allowed - 1
    levels.view(-1)[at] = beyond
    with pytest.raises(BudgetError, match=rf"moves by {allowed + 1} levels|moves by \d+ levels|root mean square"):
        budget.check(levels)


def ball(x0, strength, rms, mask=None):
    mask = torch.ones(1, 1, *x0.shape[2:]) if mask is None else mask
    return CappedL2(x0, strength / 255, mask, rms=rms / 255, keep_tone=False)


def grey(size=32):
    return torch.full((1, 3, size, size), 128 / 255)


def test_inside_its_cap_a_ball_shrinks_along_the_ray_and_inside_the_ball_the_cap_clips():
    delta = torch.randn(1, 3, 32, 32, generator=seeded(1)) * 4 / 255
    rms = float(delta.square().mean().sqrt())
    shrunk = ball(grey(), 64, 2).project(grey() + delta) - grey()
    torch.testing.assert_close(shrunk, delta * (2 / 255 / rms), atol=1e-7, rtol=1e-4)
    clipped = ball(grey(), 3, 200).project(grey() + delta) - grey()
    torch.testing.assert_close(clipped, delta.clamp(-3 / 255, 3 / 255), atol=1e-7, rtol=1e-4)


def test_a_value_beyond_its_cap_leaves_the_rest_to_the_others():
    """One at 100 levels under a cap of 10, n - 1 at 6 each: they fill the ball exactly."""
    count, rms = 3 * 16, 4.0
    delta = torch.full((1, 3, 4, 4), 6 / 255)
    delta[0, 0, 0, 0] = 100 / 255
    moved = (ball(grey(4), 10, rms).project(grey(4) + delta) - grey(4)) * 255
    assert float(moved[0, 0, 0, 0]) == pytest.approx(10, abs=1e-3)
    others = ((count * rms**2 - 10**2) / (count - 1)) ** 0.5
    assert float(moved[0, 1, 2, 3]) == pytest.approx(others, abs=1e-3)


def test_the_mask_scales_the_ball_as_it_scales_the_cap():
    """A linear loss under a soft mask of m everywhere: the descent ends at rms times m along the gradient."""
    w, mask = torch.randn(1, 3, 32, 32, generator=seeded(2)), torch.full((1, 1, 32, 32), 0.5)
    budget = ball(grey(), 200, 4, mask)

    class Linear:
        deterministic = False

        def value_and_gradient(self, x):
            return (w * x).sum(), w.clone()

    x, _ = pgd(Linear(), budget, step_size=1 / 255, steps=20)
    torch.testing.assert_close(x - grey(), -w / w.square().mean().sqrt() * 2 / 255, atol=1e-6, rtol=1e-3)
    x, _ = pgd(Linear(), budget, step_size=1 / 255, steps=1)  # one step has the size of its rms
    torch.testing.assert_close(x - grey(), -w / w.square().mean().sqrt() / 255, atol=1e-6, rtol=1e-3)


def test_rounding_into_a_ball_takes_little_and_no_side():
    """Half of one value in twelve of a level is what rounding to the nearest costs; the ball may take a little more."""
    x = ball(grey(128), 30, 6).project(grey(128) + torch.randn(1, 3, 128, 128, generator=seeded(3)) / 5)
    shift = ball(grey(128), 30, 6).quantize(x).double() - 128
    assert 5.9 < float(shift.square().mean().sqrt()) <= 6 + FORGIVEN
    assert abs(float((shift - (x.double() * 255 - 128)).mean())) < 0.02


def test_a_zero_gradient_has_no_direction():
    assert not ball(grey(), 16, 4).direction(torch.zeros(1, 3, 32, 32)).any()


# The hidden ball


def hidden(x0, *, rms, weight, chroma, strength=200, mask=None, keep_tone=False):
    mask = torch.ones(1, 1, *x0.shape[2:]) if mask is None else mask
    return HiddenL2(x0, strength / 255, mask, rms=rms / 255, weight=weight, chroma=chroma, keep_tone=keep_tone)


def in_its_own_coordinates(budget, x):
    """u, by solving delta = weight * (chroma * u + (1 - chroma) * mean of u), channel by channel."""
    delta = (x - budget.x0).double() / budget.weight
    common = delta.mean(1, keepdim=True)
    return common + (delta - common) / budget.chroma


@given(seed=st.integers(0, 2**31), chroma=st.floats(0.05, 1))
@settings(max_examples=40)
def test_a_hidden_ball_is_one_in_plain_coordinates_and_a_wider_one_in_its_own(seed, chroma):
    generator = seeded(seed)
    weight = torch.rand(1, 1, 8, 8, generator=generator) * 0.95 + 0.05
    budget = hidden(grey(8), rms=4, weight=weight, chroma=chroma)
    x = budget.project(grey(8) + torch.randn(1, 3, 8, 8, generator=generator))
    sizes = [in_its_own_coordinates(budget, x) / WIDER, x - grey(8)]
    largest = max(float(size.square().mean().sqrt()) * 255 for size in sizes)
    assert largest == pytest.approx(4, rel=1e-4)


def test_a_step_of_a_hidden_ball_goes_furthest_down_for_its_size():
    """Of all changes whose coordinates have a root mean square of 1, none has a larger product with the gradient."""
    generator, gradient = seeded(5), torch.randn(1, 3, 8, 8, generator=seeded(6))
    budget = hidden(grey(8), rms=4, weight=torch.rand(1, 1, 8, 8, generator=generator) + 0.01, chroma=0.3)
    step = budget.direction(gradient.clone())
    assert float(in_its_own_coordinates(budget, grey(8) + step).square().mean()) == pytest.approx(1, rel=1e-3)
    for _ in range(50):
        other = torch.randn(1, 3, 8, 8, generator=generator)
        size = in_its_own_coordinates(budget, grey(8) + other).square().mean().sqrt().float()
        assert float((gradient * other / size).sum()) <= float((gradient * step).sum())


def test_masked_pixels_of_a_hidden_ball_do_not_move_and_soft_ones_bear_less():
    mask = torch.ones(1, 1, 16, 16)
    mask[..., :8], mask[..., 8:12] = 0, 0.5
    budget = hidden(grey(16), rms=4, weight=torch.ones(1, 1, 16, 16), chroma=0.5, mask=mask)
    step = budget.direction(torch.ones(1, 3, 16, 16))
    assert not step[..., :8].any() and torch.allclose(step[..., 8:12] * 4, step[..., 12:])
    x = budget.project(grey(16) + step)
    assert torch.isfinite(x).all() and torch.equal(x[..., :8], budget.x0[..., :8])


def test_the_tone_is_kept_where_the_picture_hides_it():
    weight = torch.full((1, 1, 16, 16), 0.1)
    weight[..., 8:] = 1
    budget = hidden(grey(16), rms=50, weight=weight, chroma=1, strength=50, keep_tone=True)
    moved = budget.project(grey(16) + 1 / 255) - budget.x0
    assert float(moved.mean()) == pytest.approx(0, abs=1e-7)
    taken = 1 / 255 - moved
    assert float(taken[..., 8:].mean() / taken[..., :8].mean()) == pytest.approx(100, rel=1e-3)


def test_what_the_picture_hides_bears_more_by_the_formula():
    """A flat part, and noise of a known variance: one over the root of 1 + PRICE * FLAT / (2 * variance + FLAT)."""
    picture = torch.full((1, 3, 128, 256), 0.5)
    picture[..., 128:] += torch.randn(1, 1, 128, 128, generator=seeded(7)) * 20 / 255
    weight = hidden_weight(picture, 2)
    assert float(weight[..., 20:-20, 20:100].max()) == pytest.approx((1 + 2 * PRICE) ** -0.5, rel=1e-3)
    noisy = float(weight[..., 20:-20, 150:-20].mean())
    variance = 20**2 * (1 - 1 / (4 * torch.pi * 1.5**2))  # of white noise about its mean under the window
    assert noisy == pytest.approx((1 + 2 * PRICE * FLAT / (2 * variance + FLAT)) ** -0.5, rel=0.05)
    assert torch.equal(hidden_weight(picture, 0), torch.ones(1, 1, 128, 256))
    assert torch.isfinite(hidden_weight(picture[..., :1, :1], 1)).all()


def test_the_settings_name_the_shape():
    def shape(**asked):
        return budget_for(torch.rand(1, 3, 8, 8), None, resolve("mist", asked))

    assert type(shape()) is Linf and type(shape(budget="l2")) is CappedL2
    assert type(shape(budget="l2", hiding=1)) is type(shape(budget="l2", chroma=0.5)) is HiddenL2
    flat = budget_for(torch.full((1, 3, 16, 16), 0.5), None, Settings(hiding=1))
    assert float(flat.reach.max()) == pytest.approx(16 / 255 * (1 + PRICE) ** -0.5)
