"""Objectives against Mist's formulas written out, and their gradients against autograd and finite differences."""

from typing import get_args

import pytest
import torch
from torch import nn

from mist_attack.loss import PictureLoss
from mist_attack.needs import Objective
from mist_attack.noising import Added
from mist_attack.objectives import (
    ESTIMATES,
    Estimate,
    Fused,
    Semantic,
    SpreadDraws,
    Textural,
    build,
    random_draws,
)
from mist_attack.settings import Gradient, Settings
from mist_attack.views import plan

SCALE = 0.18215


class Mist(nn.Module):
    """Mist's own way to its losses: LDM's alphas_cumprod, images in [-1, 1], sums and means as it has them."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.SiLU(), nn.Conv2d(8, 4, 3, padding=1))
        self.unet = nn.Sequential(nn.Conv2d(5, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 4, 3, padding=1))
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.alphas_cumprod = (1 - betas).cumprod(0).float()
        self.requires_grad_(False)

    def latents(self, x):
        return SCALE * self.encoder(x * 2 - 1)

    def eps(self, noised, timestep):
        plane = (timestep.float() / 1000).view(-1, 1, 1, 1).expand(-1, 1, *noised.shape[2:])
        return self.unet(torch.cat([noised, plane], 1))

    def semantic(self, x, timestep, noise):
        z = self.latents(x)
        ab = self.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        return (self.eps(ab.sqrt() * z + (1 - ab).sqrt() * noise, timestep) - noise).square().mean()

    def lunet(self, x, y, timestep, noise):
        """ACE's: the noise that is predicted, pulled to the target's latents."""
        z, ab = self.latents(x), self.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        return (self.eps(ab.sqrt() * z + (1 - ab).sqrt() * noise, timestep) - self.latents(y)).square().mean()

    def textural(self, x, y):
        return (self.latents(x) - self.latents(y)).square().sum()

    def fused(self, x, y, timestep, noise, rate):
        return self.textural(x, y) - rate * self.semantic(x, timestep, noise)


class AsSurrogate:
    """The same model in the engine's terms."""

    name, device, noising = "mist", torch.device("cpu"), Added()

    def __init__(self, model):
        self.model = model
        self.sigmas = ((1 - model.alphas_cumprod.double()) / model.alphas_cumprod.double()).sqrt().float()
        self.unet_calls = 0

    def encode(self, images):
        return self.model.latents(images)

    def denoise(self, noised, sigma, conditioning):
        self.unet_calls += 1
        s = sigma.view(-1, 1, 1, 1)
        return noised - s * self.model.eps(noised / (1 + s**2).sqrt(), torch.searchsorted(self.sigmas, sigma))


@pytest.fixture
def mist():
    return Mist()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def draws_of(latents, surrogate, seed, gradient="exact"):
    """The timestep and noise that an objective draws from a fresh generator."""
    generator = torch.Generator().manual_seed(seed)
    return Semantic(surrogate, None, ESTIMATES[gradient]).draw(latents, surrogate.sigmas, generator)


def picture_loss(surrogate, settings, y, size, seed):
    views = plan(*size, "whole", 512, 64)
    objective = build(settings, surrogate, surrogate.encode(y), None)
    return PictureLoss(surrogate, views, [objective], torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", get_args(Objective))
def test_loss_and_input_gradient_equal_mists_formulas_at_512(mist, name, seed):
    surrogate = AsSurrogate(mist)
    x, y = torch.rand(1, 3, 512, 512), torch.rand(1, 3, 512, 512)
    settings = Settings(objective=name)
    loss, gradient = picture_loss(surrogate, settings, y, (512, 512), seed).value_and_gradient(x)

    leaf = x.clone().requires_grad_()
    timestep, noise = draws_of(mist.latents(x), surrogate, seed)
    expected = {
        "textural": lambda: mist.textural(leaf, y) / 16384,
        "semantic": lambda: -mist.semantic(leaf, timestep, noise),
        "lunet": lambda: mist.lunet(leaf, y, timestep, noise),
        "fused": lambda: mist.fused(leaf, y, timestep, noise, 10**4) / 16384,
    }[name]()
    (expected_gradient,) = torch.autograd.grad(expected, leaf)

    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-6)
    assert (gradient - expected_gradient).norm() / expected_gradient.norm() < 1e-5


def test_the_balance_of_fused_does_not_depend_on_the_size(mist):
    surrogate = AsSurrogate(mist)
    small, large = torch.rand(1, 3, 64, 64), None
    large = small.repeat(1, 1, 4, 4)
    losses = []
    for x in (small, large):
        objective = Textural(torch.zeros_like(mist.latents(x)))
        losses.append(objective.value(mist.latents(x)))
    torch.testing.assert_close(*losses, rtol=0.1, atol=0)
    fused = Fused(Textural(torch.zeros(1, 4, 8, 8)), Semantic(surrogate, None), 1e4)
    assert fused.share == pytest.approx(1e4 / 16384)


def test_textural_gradient_is_checked_by_finite_differences():
    target = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    latents = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    objective = Textural(target)
    assert torch.autograd.gradcheck(objective.value, latents)
    loss, gradient = objective.value_and_gradient(latents.detach(), torch.Generator())
    (expected,) = torch.autograd.grad(objective.value(latents).sum(), latents)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(loss, objective.value(latents).detach())


@pytest.mark.parametrize("direction, sign", [("ascent", -1), ("descent", 1)])
def test_sds_gradient_is_its_defining_formula(mist, direction, sign):
    surrogate = AsSurrogate(mist)
    latents = torch.randn(2, 4, 8, 8)
    objective = Semantic(surrogate, None, ESTIMATES["sds"], direction)
    loss, gradient = objective.value_and_gradient(latents, torch.Generator().manual_seed(5))

    timestep, noise = draws_of(latents, surrogate, 5, "sds")
    ab = mist.alphas_cumprod[timestep].view(-1, 1, 1, 1)
    error = mist.eps(ab.sqrt() * latents + (1 - ab).sqrt() * noise, timestep) - noise
    expected = sign * (2 / (4 * 8 * 8)) * error * ab.sqrt()  # 1 / sqrt(1 + sigma^2) = sqrt(alphas_cumprod)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(loss, sign * error.square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_lunet_by_sds_leaves_the_derivative_out_and_draws_as_the_others(mist):
    surrogate, target, latents = AsSurrogate(mist), torch.randn(1, 4, 8, 8), torch.randn(2, 4, 8, 8)
    settings = Settings(objective="lunet", gradient="sds", direction="ascent")
    loss, gradient = build(settings, surrogate, target, None).value_and_gradient(latents, seeded(5))
    timestep, noise = draws_of(latents, surrogate, 5, "sds")
    ab = mist.alphas_cumprod[timestep].view(-1, 1, 1, 1)
    apart = mist.eps(ab.sqrt() * latents + (1 - ab).sqrt() * noise, timestep) - target
    torch.testing.assert_close(gradient, (2 / (4 * 8 * 8)) * apart * ab.sqrt(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(loss, apart.square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_lunet_descends_to_its_target(mist):
    surrogate, target, latents = AsSurrogate(mist), torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    lunet, moved = build(Settings(objective="lunet"), surrogate, target, None), latents.clone()
    for step in range(30):
        moved -= 0.05 * lunet.value_and_gradient(moved, seeded(step))[1].sign()
    before, after = (lunet.measure(z, 99)["prediction_distance"] for z in (latents, moved))
    assert after < before


@pytest.mark.parametrize("steps", [5, 15, 40])
def test_spread_draws_leave_no_gap_and_pair_their_noise(steps):
    """N multiples of the golden ratio cut a circle into gaps of at most 1.8 / N (three-distance theorem)."""
    low, high = 0.1, 0.25
    draw, generator = SpreadDraws((low, high)), torch.Generator().manual_seed(steps)
    sigmas = torch.arange(100_000) / 100_000
    drawn = [draw(torch.zeros(1, 4, 2, 2), sigmas, generator) for _ in range(steps)]
    places = torch.cat([timesteps for timesteps, _ in drawn]).double() / 100_000
    assert places.min() >= low and places.max() < high
    circle = ((places - low) / (high - low)).sort().values
    gaps = torch.cat([circle.diff(), circle[:1] + 1 - circle[-1:]])
    assert gaps.max() < 1.8 / steps
    noises = [noise for _, noise in drawn]
    assert all(torch.equal(b, -a) for a, b in zip(noises[::2], noises[1::2], strict=False))
    assert not torch.equal(noises[0].abs(), noises[2].abs())


def test_spread_draws_of_a_batch_are_those_of_as_many_steps():
    one, many = SpreadDraws((0.1, 0.25)), SpreadDraws((0.1, 0.25))
    sigmas = torch.arange(1000) / 1000
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    wanted = [one(torch.zeros(1, 4, 2, 2), sigmas, generators[0])[0] for _ in range(6)]
    found = [many(torch.zeros(3, 4, 2, 2), sigmas, generators[1])[0] for _ in range(2)]
    assert torch.equal(torch.cat(found), torch.cat(wanted))


def test_exact_draws_every_timestep_as_published():
    draws = [draws_of(torch.zeros(500, 1, 1, 1), AsSurrogate(Mist()), seed)[0] for seed in range(20)]
    share = torch.cat(draws).float().histc(10, 0, 1000) / 10_000
    assert share.min() > 0.08 and share.max() < 0.12  # of 0.1, six deviations


def test_sds_is_the_exact_gradient_of_a_constant_unet(mist):
    """Where the UNet's Jacobian is zero the two definitions differ by the noise path alone: d eps_pred / d z = 0,
    so exact is 0, while sds is not."""
    surrogate = AsSurrogate(mist)
    nn.init.zeros_(mist.unet[0].weight)
    latents = torch.randn(1, 4, 8, 8)
    _, exact = Semantic(surrogate, None, ESTIMATES["exact"]).value_and_gradient(
        latents, torch.Generator().manual_seed(5)
    )
    _, sds = Semantic(surrogate, None, ESTIMATES["sds"]).value_and_gradient(latents, torch.Generator().manual_seed(5))
    assert exact.abs().max() < 1e-5 < sds.abs().max()


def test_amortised_is_two_draws_of_sds_at_every_third_step_and_stays_in_between(mist):
    surrogate, latents = AsSurrogate(mist), torch.randn(5, 1, 4, 8, 8)
    settings = Settings(objective="semantic", gradient="amortised")
    objective = build(settings, surrogate, None, None)
    sds = Semantic(surrogate, None, ESTIMATES["sds"])
    generator, same = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    found = [objective.value_and_gradient(z, generator) for z in latents]
    pairs = [[sds.value_and_gradient(latents[step], same) for _ in range(2)] for step in (0, 3)]
    first, fourth = [tuple((a + b) / 2 for a, b in zip(*pair, strict=True)) for pair in pairs]
    for step, expected in enumerate([first] * 3 + [fourth] * 2):
        torch.testing.assert_close(found[step], expected)
    assert objective.measure(latents[0], 7) == sds.measure(latents[0], 7)


@pytest.mark.parametrize("gradient", ["exact", "sds"])
def test_fused_is_the_weighted_sum_and_reports_the_ratio(mist, gradient):
    surrogate = AsSurrogate(mist)
    latents, target = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    textural, semantic = Textural(target), Semantic(surrogate, None, ESTIMATES[gradient])
    fused = Fused(textural, Semantic(surrogate, None, ESTIMATES[gradient]), 3e4)
    loss, g = fused.value_and_gradient(latents, torch.Generator().manual_seed(1))
    loss_t, g_t = textural.value_and_gradient(latents, torch.Generator().manual_seed(1))
    loss_s, g_s = semantic.value_and_gradient(latents, torch.Generator().manual_seed(1))
    share = 3e4 / 16384
    torch.testing.assert_close(g, g_t + share * g_s)
    torch.testing.assert_close(loss, loss_t + share * loss_s)
    torch.testing.assert_close(fused.ratios[0], share * g_s.norm() / g_t.norm())


def test_semantic_descends_its_loss_and_textural_reaches_its_target(mist):
    surrogate = AsSurrogate(mist)
    latents, semantic = torch.randn(1, 4, 8, 8), Semantic(surrogate, None)
    moved = latents.clone()
    for step in range(30):
        moved -= 0.05 * semantic.value_and_gradient(moved, torch.Generator().manual_seed(step))[1].sign()
    before, after = (semantic.measure(x, 99)["denoising_loss"] for x in (latents, moved))
    assert after > before


def test_the_same_seed_judges_two_pictures_by_the_same_draws(mist):
    semantic = Semantic(AsSurrogate(mist), None)
    latents = torch.randn(1, 4, 8, 8)
    assert semantic.measure(latents, 3) == semantic.measure(latents.clone(), 3)
    assert semantic.measure(latents, 3) != semantic.measure(latents, 4)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("through", [True, False])
@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("draws, steps", [(1, 1), (2, 3), (3, 2)])
def test_an_estimate_is_its_three_choices(mist, monkeypatch, seed, through, spread, draws, steps):
    """Composed by hand, to the bit: the draws of the one, the gradient of the other, their mean, and its reuse."""
    surrogate, latents = AsSurrogate(mist), torch.randn(5, 1, 4, 8, 8)
    choice = Estimate(through=through, spread=spread, draws=draws, steps=steps)
    monkeypatch.setitem(ESTIMATES, "exact", choice)
    objective = build(Settings(objective="semantic"), surrogate, None, None)
    generator, same = seeded(seed), seeded(seed)
    found = [objective.value_and_gradient(z, generator)[1] for z in latents]
    draw = SpreadDraws(Added().spread) if spread else random_draws
    for step, z in enumerate(latents):
        if step % steps == 0:
            one_by_one = [by_hand(surrogate, z, *draw(z, surrogate.sigmas, same), through) for _ in range(draws)]
        assert torch.equal(found[step], -torch.stack(one_by_one).mean(0))


def by_hand(surrogate, latents, timesteps, noise, through):
    """Of the mean squared error of the noise that the model predicts, with or without the derivative of the model."""
    sigma, leaf = surrogate.sigmas[timesteps], latents.clone().requires_grad_()
    noised = surrogate.noising.noised(leaf, noise, sigma)
    error = (leaf - surrogate.denoise(noised, sigma, None)) / sigma.view(-1, 1, 1, 1)
    if through:
        return torch.autograd.grad(error.square().mean(dim=(1, 2, 3)).sum(), leaf)[0]
    return error.detach() * (2 / error[0].numel() * (1 / (1 + sigma.square()).sqrt())).view(-1, 1, 1, 1)


def test_the_words_of_the_gradient_are_combinations():
    assert {word: vars(choice) for word, choice in ESTIMATES.items()} == {
        "exact": {"through": True, "spread": False, "draws": 1, "steps": 1},
        "sds": {"through": False, "spread": True, "draws": 1, "steps": 1},
        "amortised": {"through": False, "spread": True, "draws": 2, "steps": 3},
    }
    assert set(ESTIMATES) == set(get_args(Gradient))
