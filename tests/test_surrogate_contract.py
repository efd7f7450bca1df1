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


# A LoRA


def trainable(surrogate):
    require_denoiser(surrogate)
    if not surrogate.differentiable:
        pytest.skip("is asked for predictions alone")


def predicted(model, latents):
    sigma = model.sigmas[[400]]
    return model.denoise(latents, sigma, model.conditioning("a painting"))


def test_a_lora_changes_nothing_until_it_is_trained_and_nothing_once_it_is_gone(surrogate):
    trainable(surrogate)
    latents = torch.randn(1, 4, 8, 8, device=surrogate.device)

    def job(model):
        with torch.no_grad():
            before = predicted(model, latents)
            with model.lora(4, 0) as weights:
                untrained = predicted(model, latents)
                for up in weights[1::2]:
                    up.data.normal_(0, 0.1)
                trained = predicted(model, latents)
            return before, untrained, trained, predicted(model, latents), weights

    state, kept = state_of(surrogate), [p.detach().clone() for m in modules_of(surrogate) for p in m.parameters()]
    before, untrained, trained, after, weights = ready(surrogate, job)
    assert torch.equal(before, untrained) and torch.equal(before, after) and not torch.equal(before, trained)
    assert state_of(surrogate) == state
    assert all(map(torch.equal, kept, [p for m in modules_of(surrogate) for p in m.parameters()]))
    assert {(w.dtype, w.device.type, w.requires_grad) for w in weights} == {
        (torch.float32, surrogate.device.type, True)
    }
    assert all(down.shape[0] == up.shape[1] == 4 for down, up in zip(weights[::2], weights[1::2], strict=True))


@pytest.mark.parametrize("low_vram", [False, True])
def test_the_gradient_of_a_loras_weights_is_right(surrogate, low_vram):
    trainable(surrogate)
    if is_half(surrogate):
        pytest.skip("half precision is too coarse for a difference")
    latents, aim = torch.randn(2, 1, 4, 8, 8, device=surrogate.device)

    def job(model):
        def loss():
            return (predicted(model, latents.clone().requires_grad_()) * aim).sum()

        with model.lora(2, 0) as weights:
            with torch.no_grad():
                for up in weights[1::2]:
                    up.normal_(0, 0.1)
            gradients = torch.autograd.grad(loss(), weights)
            size = sum(g.square().sum() for g in gradients).sqrt()
            with torch.no_grad():
                sides = []
                for h in (1e-2, -2e-2):
                    for weight, gradient in zip(weights, gradients, strict=True):
                        weight.add_(gradient / size, alpha=h)
                    sides.append(loss())
            return float((sides[0] - sides[1]) / 2e-2), float(size)

    difference, slope = ready(surrogate, job, low_vram=low_vram)
    assert slope > 0 and difference == pytest.approx(slope, rel=0.03)


def test_a_lora_is_the_same_for_a_seed_and_takes_no_number_of_others(surrogate):
    trainable(surrogate)

    def job(model):
        begun, found = torch.get_rng_state(), []
        for seed in (1, 1, 2):
            with model.lora(4, seed) as weights:
                found.append([weight.detach().clone() for weight in weights])
        assert torch.equal(begun, torch.get_rng_state())
        return found

    first, again, other = ready(surrogate, job)
    assert all(map(torch.equal, first, again)) and not all(map(torch.equal, first, other))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_lora_is_gone_after_an_error_too(surrogate, error):
    trainable(surrogate)
    state = state_of(surrogate)
    latents = torch.randn(1, 4, 8, 8, device=surrogate.device)

    def whole(model):
        with torch.no_grad():
            return predicted(model, latents)

    def job(model):
        with model.lora(4, 0) as weights:
            torch.autograd.grad(predicted(model, latents).sum(), weights)
            raise error

    before = ready(surrogate, whole)
    with pytest.raises(error):
        ready(surrogate, job)
    assert state_of(surrogate) == state and torch.equal(before, ready(surrogate, whole))


def test_what_takes_no_lora_says_why(surrogate):
    if len(surrogate.sigmas) and surrogate.differentiable:
        pytest.skip("takes one")
    words = "derivative" if len(surrogate.sigmas) else "nothing to fine-tune"
    with pytest.raises(CheckpointError, match=words):
        surrogate.lora(4, 0)
