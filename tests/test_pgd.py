"""The loop against closed forms: for loss <w, x> the minimiser under the budget is known exactly."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mist_attack.budget import TONE_TOLERANCE, CappedL2, Linf
from mist_attack.errors import GradientError, PictureError, Stop
from mist_attack.pgd import pgd
from mist_attack.pictures.reading import to_u8


class Linear:
    """loss(x) = <w, x>, gradient w."""

    deterministic = True

    def __init__(self, w):
        self.w = w

    def value(self, x):
        return (self.w * x).sum()

    def value_and_gradient(self, x):
        return self.value(x), self.w.clone()


class Noisy(Linear):
    """The same loss, whose reported values say nothing."""

    deterministic = False

    def value_and_gradient(self, x):
        return torch.rand(()), self.w.clone()


class Broken(Noisy):
    """Not finite at one of its steps."""

    def __init__(self, w, bad_step):
        super().__init__(w)
        self.bad_step, self.calls = bad_step, 0

    def value_and_gradient(self, x):
        value, gradient = super().value_and_gradient(x)
        if self.calls == self.bad_step:
            gradient[0, 0, 0, 0] = torch.nan
        self.calls += 1
        return value, gradient


class Scripted(Linear):
    """Losses and gradient signs from a list, to see which iterate is kept."""

    def __init__(self, losses, final):
        self.losses, self.final = list(losses), final

    def value(self, x):
        return torch.tensor(float(self.final))

    def value_and_gradient(self, x):
        return torch.tensor(float(self.losses.pop(0))), torch.ones_like(x)


def grey(height=8, width=9):
    return torch.full((1, 3, height, width), 0.5)


def full(x0):
    return torch.ones(1, 1, *x0.shape[2:])


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_linear_loss_moves_by_the_sign_up_to_the_budget(steps):
    x0, w = grey(), torch.randn(1, 3, 8, 9)
    budget = Linf(x0, 16 / 255, full(x0), keep_tone=False)
    x, done = pgd(Linear(w), budget, step_size=1 / 255, steps=steps)
    assert done == steps
    torch.testing.assert_close(x - x0, -w.sign() * min(steps, 16) / 255, atol=1e-6, rtol=0)


def test_decaying_steps_sum_to_their_closed_form():
    x0, w, n = grey(), torch.randn(1, 3, 8, 9), 10
    budget = Linf(x0, 1.0, full(x0), keep_tone=False)
    x, _ = pgd(Linear(w), budget, step_size=2 / 255, steps=n, decay=True)
    torch.testing.assert_close(x - x0, -w.sign() * (2 / 255) * (n + 1) / 2, atol=1e-6, rtol=0)


class Scaled(Linear):
    """One gradient direction, each step times the next of these factors."""

    deterministic = False

    def __init__(self, w, factors):
        super().__init__(w)
        self.factors = list(factors)

    def value_and_gradient(self, x):
        return self.value(x), self.w * self.factors.pop(0)


@given(
    factors=st.lists(st.floats(-1e3, 1e3).filter(lambda f: abs(f) > 1e-3), min_size=1, max_size=8),
    momentum=st.floats(0, 0.99),
)
def test_momentum_steps_along_the_decaying_sum_of_unit_gradients(factors, momentum):
    """Along one direction a gradient of unit size is its factor's sign, whatever its length."""
    x0, w = grey(2, 2), torch.tensor([1.0, -1.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    kept, moved = 0.0, 0.0
    for factor in factors:
        kept = momentum * kept + (1 if factor > 0 else -1)
        moved -= 0.0 if abs(kept) < 1e-6 else (1 if kept > 0 else -1)
        assume(kept == 0 or abs(kept) > 1e-6)  # else the sign is a rounding's
    budget = Linf(x0, 1.0, full(x0), keep_tone=False)
    x, _ = pgd(Scaled(w, factors), budget, step_size=1 / 255, steps=len(factors), momentum=momentum)
    torch.testing.assert_close(x - x0, w * moved / 255, atol=1e-6, rtol=0)


def test_a_zero_gradient_on_the_way_is_no_nan():
    x0, w = grey(), torch.ones(1, 3, 8, 9)
    budget = Linf(x0, 1.0, full(x0), keep_tone=False)
    x, _ = pgd(Scaled(w, [1.0, 0.0, 0.0]), budget, step_size=1 / 255, steps=3, momentum=0.5)
    torch.testing.assert_close(x - x0, -w * 3 / 255, atol=1e-6, rtol=0)


def test_random_start_changes_the_result_only_by_its_seed():
    x0, w = torch.rand(1, 3, 8, 9), torch.randn(1, 3, 8, 9)

    def run(seed):
        budget = Linf(x0, 16 / 255, full(x0), keep_tone=True)
        generator = torch.Generator().manual_seed(seed)
        return pgd(Linear(w), budget, step_size=1 / 255, steps=3, generator=generator)[0]

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_the_global_generator_is_untouched():
    x0 = grey()
    before = torch.get_rng_state()
    budget = Linf(x0, 16 / 255, full(x0), keep_tone=True)
    pgd(Linear(torch.ones_like(x0)), budget, step_size=1 / 255, steps=2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=60)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    levels=st.floats(0, 255),
    step=st.floats(0.1, 64),
    keep_tone=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_iterate_is_inside_the_budget_and_the_range(height, width, levels, step, keep_tone, seed):
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.rand(1, 3, height, width, generator=generator)
    mask = torch.rand(1, 1, height, width, generator=generator).round(decimals=1)
    budget = Linf(x0, levels / 255, mask, keep_tone=keep_tone)

    def look(progress):
        x = progress.preview()
        assert float((x - x0).abs().sub(budget.reach).max()) <= 1e-6
        assert float(x.min()) >= 0 and float(x.max()) <= 1

    loss = Noisy(torch.randn(x0.shape, generator=generator))
    x, _ = pgd(loss, budget, step_size=step / 255, steps=4, generator=generator, on_step=look)
    assert float((x - x0).abs().sub(budget.reach).max()) <= 1e-6
    assert torch.equal((x * (mask == 0)), x0 * (mask == 0))


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_tone_is_kept_where_pixels_have_room(share):
    """Gradients that push `share` of the values down would darken the picture by (2 * share - 1) * epsilon."""
    x0 = torch.rand(1, 3, 64, 64)
    epsilon = 16 / 255
    w = torch.where(torch.rand(x0.shape) < share, 1.0, -1.0)
    room = (x0 >= epsilon) & (x0 <= 1 - epsilon)

    def drift(keep_tone):
        budget = Linf(x0, epsilon, full(x0), keep_tone=keep_tone)
        x, _ = pgd(Noisy(w), budget, step_size=1 / 255, steps=40, generator=torch.Generator().manual_seed(1))
        return torch.stack([(x - x0)[:, c][room[:, c]].mean() for c in range(3)])

    assert drift(keep_tone=True).abs().max() <= 1.01 * TONE_TOLERANCE
    if share > 0.5:
        torch.testing.assert_close(
            drift(keep_tone=False), torch.full((3,), (1 - 2 * share) * epsilon), atol=0.004, rtol=0
        )


def test_the_best_iterate_of_a_deterministic_loss_is_kept():
    x0 = grey()
    budget = Linf(x0, 1.0, full(x0), keep_tone=False)
    x, _ = pgd(Scripted([5, 1, 3], final=2), budget, step_size=0.1, steps=3)
    torch.testing.assert_close(x, x0 - 0.1)  # the second iterate had loss 1
    x, _ = pgd(Scripted([5, 1, 3], final=0.5), budget, step_size=0.1, steps=3)
    torch.testing.assert_close(x, x0 - 0.3)  # the last one is judged too


def test_the_last_iterate_of_a_noisy_loss_is_kept():
    x0, w = grey(), torch.ones(1, 3, 8, 9)
    budget = Linf(x0, 1.0, full(x0), keep_tone=False)
    x, _ = pgd(Noisy(w), budget, step_size=0.05, steps=4)
    torch.testing.assert_close(x, x0 - 0.2)


def test_stop_keeps_what_is_reached():
    x0, w = grey(), torch.ones(1, 3, 8, 9)

    def stop_at_two(progress):
        assert progress.steps == 50
        if progress.step == 2:
            raise Stop

    budget = Linf(x0, 1.0, full(x0), keep_tone=False)
    x, done = pgd(Noisy(w), budget, step_size=0.01, steps=50, on_step=stop_at_two)
    assert done == 2
    torch.testing.assert_close(x, x0 - 0.02)


def test_other_exceptions_of_on_step_pass_through():
    x0 = grey()

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pgd(
            Noisy(torch.ones_like(x0)),
            Linf(x0, 1.0, full(x0), keep_tone=False),
            step_size=0.1,
            steps=2,
            on_step=interrupt,
        )


@pytest.mark.parametrize("bad_step", [0, 2])
def test_a_gradient_that_is_not_finite_is_refused(bad_step):
    x0 = grey()
    loss = Broken(torch.ones_like(x0), bad_step)
    with pytest.raises(GradientError, match="not finite"):
        pgd(loss, Linf(x0, 0.1, full(x0), keep_tone=False), step_size=0.1, steps=4)
    assert loss.calls == (1 if bad_step == 0 else 4)


@pytest.mark.parametrize(("bad_step", "error"), [(1, GradientError), (9, PictureError)])
def test_a_preview_that_fails_for_the_gradients_sake_says_so(bad_step, error):
    """Hosts draw the picture now and then, long before the end at which later gradients are looked at."""
    x0 = grey()
    budget = CappedL2(x0, 0.1, full(x0), rms=0.05, keep_tone=False)

    def draw(progress):
        if progress.step == 3:
            to_u8(progress.preview() if error is GradientError else torch.full_like(x0, torch.inf))

    with pytest.raises(error, match="not finite"):
        pgd(Broken(torch.ones_like(x0), bad_step), budget, step_size=0.1, steps=4, on_step=draw)


def test_x0_is_never_written_to():
    x0 = torch.rand(1, 3, 8, 9)
    kept = x0.clone()
    pgd(Linear(torch.randn(x0.shape)), Linf(x0, 0.1, full(x0), keep_tone=True), step_size=0.02, steps=5)
    assert torch.equal(x0, kept)


def test_a_gradient_of_zeros_is_refused_and_not_taken_for_a_protection():
    x0 = grey()
    with pytest.raises(GradientError, match="zero everywhere"):
        pgd(Linear(torch.zeros_like(x0)), Linf(x0, 16 / 255, full(x0), keep_tone=False), step_size=0.1, steps=3)
