"""The two ways of adding noise: the sds gradient against autograd through each family's own loss, and the draws."""

import pytest
import torch
from fakes.toy import ToyFlow, ToySurrogate

from mist_attack.noising import Added, Flow
from mist_attack.objectives import ESTIMATES, JUDGED_TIMESTEPS, Semantic, SpreadDraws
from mist_attack.randomness import normal, seeded

DOUBLE = torch.float64


def drawn(surrogate, latents, seed):
    """What sds draws from a fresh generator."""
    draw = SpreadDraws(surrogate.noising.spread)
    timesteps, noise = draw(latents, surrogate.sigmas, seeded(latents.device, seed))
    return surrogate.sigmas[timesteps].view(-1, 1, 1, 1), noise


def sds(surrogate, latents, seed, direction="ascent"):
    objective = Semantic(surrogate, surrogate.conditioning(""), ESTIMATES["sds"], direction)
    return objective.value_and_gradient(latents, seeded(latents.device, seed))


def gradient_of(loss, leaf):
    return torch.autograd.grad(loss.mean(dim=(1, 2, 3)).sum(), leaf)[0]


@pytest.mark.parametrize("direction, sign", [("ascent", -1), ("descent", 1)])
def test_sds_of_a_flow_is_autograd_of_its_loss_with_the_networks_jacobian_left_out(direction, sign):
    surrogate, latents = ToyFlow(dtype=DOUBLE), torch.randn(2, 4, 8, 8, dtype=DOUBLE)
    loss, gradient = sds(surrogate, latents, 5, direction)
    leaf, (sigma, noise) = latents.clone().requires_grad_(), drawn(surrogate, latents, 5)
    noised = (1 - sigma) * leaf + sigma * noise
    velocity = surrogate.denoiser(noised, sigma, surrogate.conditioning("")).detach()
    squares = (velocity - (noise - leaf)).square()
    torch.testing.assert_close(gradient, sign * gradient_of(squares, leaf))
    torch.testing.assert_close(loss, sign * squares.detach().mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_sds_of_added_noise_is_autograd_of_its_loss_with_the_networks_jacobian_as_the_identity(sigma_data):
    class Scaled(ToySurrogate):
        noising = Added(sigma_data)

    surrogate, latents = Scaled(dtype=DOUBLE), torch.randn(2, 4, 8, 8, dtype=DOUBLE)
    _, gradient = sds(surrogate, latents, 5)
    leaf, (sigma, noise) = latents.clone().requires_grad_(), drawn(surrogate, latents, 5)
    noised = latents + sigma * noise
    eps = (noised - surrogate.denoise(noised, sigma.flatten(), surrogate.conditioning(""))) / sigma
    seen = (leaf + sigma * noise) / (sigma_data**2 + sigma**2).sqrt()
    straight = seen + (eps - seen).detach()  # its value is eps, its derivative that of what the network sees
    torch.testing.assert_close(gradient, -gradient_of((straight - noise).square(), leaf))


def test_the_exact_gradient_of_a_flow_is_autograd_of_its_loss():
    surrogate, latents = ToyFlow(dtype=DOUBLE), torch.randn(2, 4, 8, 8, dtype=DOUBLE)
    objective = Semantic(surrogate, surrogate.conditioning(""), ESTIMATES["exact"])
    loss, gradient = objective.value_and_gradient(latents, seeded(latents.device, 2))
    timesteps, noise = objective.draw(latents, surrogate.sigmas, seeded(latents.device, 2))
    sigma, leaf = surrogate.sigmas[timesteps].view(-1, 1, 1, 1), latents.clone().requires_grad_()
    velocity = surrogate.denoiser((1 - sigma) * leaf + sigma * noise, sigma, surrogate.conditioning(""))
    squares = (velocity - (noise - leaf)).square()
    torch.testing.assert_close(gradient, -gradient_of(squares, leaf))
    torch.testing.assert_close(loss, -squares.detach().mean(dim=(1, 2, 3)))


def test_a_flow_is_judged_by_its_own_loss_at_every_stratum():
    surrogate, latents = ToyFlow(dtype=DOUBLE), torch.randn(1, 4, 8, 8, dtype=DOUBLE)
    found = Semantic(surrogate, surrogate.conditioning("")).measure(latents, 3)["denoising_loss"]
    generator, losses = seeded(latents.device, 3), []
    for share in JUDGED_TIMESTEPS:
        sigma, noise = surrogate.sigmas[int(share * 1000)].view(1, 1, 1, 1), normal(latents, generator)
        noised = (1 - sigma) * latents + sigma * noise
        with torch.no_grad():
            velocity = surrogate.denoiser(noised, sigma, surrogate.conditioning(""))
        losses.append((velocity - (noise - latents)).square().mean())
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_a_flows_noise_may_be_larger_than_one():
    latents, noise, sigma = *torch.randn(2, 2, 4, 8, 8), torch.tensor([0.2, 0.7])
    expected = latents.lerp(2.5 * noise, sigma.view(-1, 1, 1, 1))
    torch.testing.assert_close(Flow(noise_scale=2.5).noised(latents, noise, sigma), expected)


def levels(draws, sigmas, count=40):
    generator = seeded(torch.device("cpu"), 0)
    return {float(sigmas[draws(torch.zeros(1, 4, 2, 2), sigmas, generator)[0]]) for _ in range(count)}


@pytest.mark.parametrize("surrogate", [ToySurrogate(), ToyFlow()])
def test_spread_draws_stay_between_their_noise_levels_and_reach_both(surrogate):
    low, high = surrogate.noising.spread
    found = levels(SpreadDraws((low, high)), surrogate.sigmas)
    assert low <= min(found) < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < max(found) < high


def test_added_noise_is_spread_over_a_tenth_to_a_quarter_of_stable_diffusions_schedule():
    inside = (ToySurrogate().sigmas[:, None] > torch.tensor(Added().spread)).sum(dim=0)
    assert (1000 - inside).tolist() == [100, 250]


@pytest.mark.parametrize(
    "sigmas, expected", [((0.25, 0.5, 0.75, 1.0), 0.25), ((0.5, 1.0), 0.5), ((0.1, 0.3, 1.0), 0.3), ((1.0,), 1.0)]
)
def test_of_a_distilled_models_few_levels_the_one_that_is_nearest_from_below_is_drawn(sigmas, expected):
    sigmas = torch.tensor(sigmas)
    assert levels(SpreadDraws(Flow().spread), sigmas) == {float(torch.tensor(expected))}
