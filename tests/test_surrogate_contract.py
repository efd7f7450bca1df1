"""The contract of surrogate.py, as one suite over every adapter, at every place that `place` stands for (conftest.py).

A new adapter is one more line in fakes/adapters.py."""

from collections import Counter

import pytest
import torch
from fakes.adapters import ADAPTERS, HAS_DTYPES, require_denoiser

from mist_attack.errors import CheckpointError
from mist_attack.noising import Flow


@pytest.fixture(scope="module", params=ADAPTERS)
def surrogate(request, place, tmp_path_factory):
    if place.dtype != torch.float32 and request.param not in HAS_DTYPES:
        pytest.skip("computes in float32 alone")
    return ADAPTERS[request.param](tmp_path_factory.mktemp("adapter"), place)


@pytest.fixture
def denoiser(surrogate):
    require_denoiser(surrogate)


needs_denoiser = pytest.mark.usefixtures("denoiser")


def modules_of(surrogate):
    if hasattr(surrogate, "modules"):
        return surrogate.modules
    return [surrogate.vae, surrogate.unet]


def ready(surrogate, job, **options):
    return surrogate.run(job, 1, 64, 64, **options)


@pytest.fixture
def images(surrogate):
    return torch.rand(2, 3, 64, 64, device=surrogate.device)


def test_latents_have_the_models_shape_and_are_repeatable(surrogate, images):
    def job(model):
        with torch.no_grad():
            return model.encode(images), model.encode(images), model.decode(model.encode(images))

    first, again, decoded = ready(surrogate, job)
    assert first.shape == (2, 4, 8, 8)
    assert first.dtype == torch.float32 and torch.equal(first, again)
    assert decoded.shape == images.shape and decoded.dtype == torch.float32
    assert decoded.min() >= 0 and decoded.max() <= 1


def is_half(surrogate):
    return any(p.dtype.itemsize == 2 for p in modules_of(surrogate)[-1].parameters())


def directional(function, x, gradient, h=2e-3):
    """Central difference along the gradient's own direction, and what the gradient says it is."""
    direction = gradient / gradient.norm()
    with torch.no_grad():
        difference = (function(x + h * direction) - function(x - h * direction)) / (2 * h)
    return float(difference), float(gradient.norm())


def test_the_encoders_gradient_is_right(surrogate, images):
    weights = torch.randn(1, 4, 8, 8, device=surrogate.device)

    def job(model):
        def function(x):
            return (model.encode(x) * weights).sum()

        x = images[:1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(x), x)
        return directional(function, images[:1], gradient)

    difference, slope = ready(surrogate, job)
    assert slope > 0 and difference == pytest.approx(slope, rel=0.02)


@needs_denoiser
def test_the_denoisers_gradient_is_right(surrogate):
    if is_half(surrogate):
        pytest.skip("half precision is too coarse for a difference")
    if not surrogate.differentiable:
        pytest.skip("is asked for predictions alone")
    latents, noise, weights = torch.randn(3, 1, 4, 8, 8, device=surrogate.device)

    def job(model):
        sigma = model.sigmas[[400]]
        prompt = model.conditioning("a painting")

        def function(x):
            return (model.denoise(model.noising.noised(x, noise, sigma), sigma, prompt) * weights).sum()

        x = latents.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(x), x)
        return directional(function, latents, gradient, h=2e-2)

    difference, slope = ready(surrogate, job)
    assert slope > 0 and difference == pytest.approx(slope, rel=0.02)


@needs_denoiser
def test_a_gradient_of_predictions_alone_is_refused(surrogate):
    if surrogate.differentiable:
        pytest.skip("has one")

    def job(model):
        x = torch.randn(1, 4, 8, 8, device=model.device).requires_grad_()
        sigma, prompt = model.sigmas[[400]], model.conditioning("")
        assert not model.denoise(x.detach(), sigma, prompt).is_inference()
        with pytest.raises(CheckpointError, match="sds"):
            model.denoise(x, sigma, prompt)

    ready(surrogate, job)


@needs_denoiser
def test_noise_levels_increase_and_the_forward_process_is_theirs(surrogate):
    sigmas = surrogate.sigmas
    assert sigmas.ndim == 1 and len(sigmas) == 1000 and sigmas.dtype == torch.float32
    assert (sigmas.diff() > 0).all() and sigmas[0] > 0
    latents, noise = torch.randn(2, 2, 4, 8, 8, device=surrogate.device)
    sigma = sigmas[[10, 900]]
    sigma, kept = sigma.view(-1, 1, 1, 1), 1.0
    if isinstance(surrogate.noising, Flow):
        assert sigmas[-1] == 1
        kept = 1 - sigma
    expected = kept * latents + sigma * noise
    torch.testing.assert_close(surrogate.noising.noised(latents, noise, sigma.flatten()), expected)


@needs_denoiser
@pytest.mark.parametrize("batch", [1, 2])
def test_denoising_takes_one_prompt_for_any_batch_and_each_its_own_noise_level(surrogate, batch):
    latents, noise = torch.randn(2, batch, 4, 8, 8, device=surrogate.device)

    def job(model):
        prompt, sigma = model.conditioning(""), model.sigmas[torch.tensor([100, 800])[:batch]]
        with torch.no_grad():
            whole = model.denoise(model.noising.noised(latents, noise, sigma), sigma, prompt)
            alone = [
                model.denoise(
                    model.noising.noised(latents[i : i + 1], noise[i : i + 1], sigma[i : i + 1]),
                    sigma[i : i + 1],
                    prompt,
                )
                for i in range(batch)
            ]
        return whole, torch.cat(alone)

    whole, alone = ready(surrogate, job)
    assert whole.shape == latents.shape and whole.dtype == torch.float32
    tolerance = 0.1 if is_half(surrogate) else 1e-3
    torch.testing.assert_close(whole, alone, rtol=tolerance, atol=tolerance)


@needs_denoiser
def test_prompts_differ_and_repeat(surrogate):
    latents, sigma = torch.randn(1, 4, 8, 8, device=surrogate.device), surrogate.sigmas[[500]]

    def job(model):
        with torch.no_grad():
            return [
                model.denoise(latents, sigma, model.conditioning(p)) for p in ("a painting", "a painting", "a photo")
            ]

    painting, again, photo = ready(surrogate, job)
    assert torch.equal(painting, again) and not torch.equal(painting, photo)


@pytest.mark.parametrize("objective", ["textural", "semantic", "fused"])
def test_the_spatial_multiple_is_enough(surrogate, objective):
    if objective != "textural":
        require_denoiser(surrogate)
    side = surrogate.spatial_multiple(objective)

    def job(model):
        with torch.no_grad():
            latents = model.encode(torch.rand(1, 3, side, 2 * side, device=model.device))
            if objective != "textural":
                model.denoise(latents, model.sigmas[[5]], model.conditioning(""))
            return model.decode(latents).shape

    assert ready(surrogate, job) == (1, 3, side, 2 * side)


def state_of(surrogate):
    modules = modules_of(surrogate)
    return (
        [p.requires_grad for module in modules for p in module.parameters()],
        [layer.training for module in modules for layer in module.modules()],
        [sorted(vars(layer)) for module in modules for layer in module.modules()],
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
    )


def assert_frozen(model, images):
    """No parameter takes part in a gradient, whether the adapter clears `requires_grad` or shows torch aliases."""
    model.encode(images.clone().requires_grad_()).sum().backward()
    assert all(p.grad is None for module in modules_of(model) for p in module.parameters())


@pytest.mark.parametrize("low_vram", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_what_was_lent_is_given_back(surrogate, images, low_vram, fails):
    modules = modules_of(surrogate)
    modules[0].train()
    if not next(modules[0].parameters()).is_inference():
        next(modules[0].parameters()).requires_grad_(True)
    before = state_of(surrogate)
    weights = [p.detach().clone() for module in modules for p in module.parameters()]

    def job(model):
        assert not any(layer.training for module in modules for layer in module.modules())
        assert_frozen(model, images)
        if fails:
            raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            ready(surrogate, job, low_vram=low_vram)
    else:
        ready(surrogate, job, low_vram=low_vram)
    assert state_of(surrogate) == before
    parameters = [p for module in modules for p in module.parameters()]
    assert all(p.grad is None for p in parameters)
    assert all(torch.equal(p, kept) for p, kept in zip(parameters, weights, strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_possible_whatever_the_caller_forbids(surrogate, images, mode):
    def job(model):
        x = images.clone().requires_grad_()
        assert not x.is_inference()
        return torch.autograd.grad(model.encode(x).sum(), x)[0]

    with mode():
        gradient = ready(surrogate, job)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def whole_gradient(model, images, latent_noise):
    """Through all of the model that there is."""
    x = images[:1].clone().requires_grad_()
    latents = model.encode(x)
    if not len(model.sigmas):
        return torch.autograd.grad(latents.square().mean(), x)[0]
    sigma = model.sigmas[[300]]
    noised = model.noising.noised(latents if model.differentiable else latents.detach(), latent_noise, sigma)
    loss = ((noised - model.denoise(noised, sigma, model.conditioning(""))) / sigma).square().mean() + latents.mean()
    return torch.autograd.grad(loss, x)[0]


def test_low_vram_computes_the_same_and_each_module_at_most_twice(surrogate, images):
    noise, calls = torch.randn(1, 4, 8, 8, device=surrogate.device), Counter()
    layers = [layer for module in modules_of(surrogate) for layer in module.modules()]
    hooks = [layer.register_forward_pre_hook(lambda layer, _: calls.update([layer])) for layer in layers]
    plain = ready(surrogate, lambda model: whole_gradient(model, images, noise))
    once = Counter(calls)
    low = ready(surrogate, lambda model: whole_gradient(model, images, noise), low_vram=True)
    for hook in hooks:
        hook.remove()
    extra = {layer: calls[layer] - once[layer] for layer in once}
    assert all(extra[layer] <= 2 * once[layer] for layer in once)
    assert any(extra[layer] == 2 * once[layer] for layer in once)
    assert (plain - low).norm() / plain.norm() < 1e-5


def test_a_run_inside_a_run_leaves_the_outer_one_intact(surrogate, images):
    def gradient(model):
        x = images.clone().requires_grad_()
        return torch.autograd.grad(model.encode(x).square().sum(), x)[0]

    def outer(model):
        before = gradient(model)
        ready(model, gradient, low_vram=True)
        assert_frozen(model, images)
        return before, gradient(model)

    before, after = ready(surrogate, outer, low_vram=True)
    torch.testing.assert_close(before, after)


def test_it_has_a_name_and_a_device(surrogate, images):
    assert surrogate.name and images.device.type == surrogate.device.type
