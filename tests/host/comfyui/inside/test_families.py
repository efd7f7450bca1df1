"""Every family of denoisers, small, in the host's own classes: what sds is there, and that nothing of the host
changes."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from families import FAMILIES, KNOWN, conditioning, loaded, model, vae
from records import record

from mist_attack.errors import CheckpointError
from mist_attack.hosts.borrowing.lending import memory
from mist_attack.hosts.comfyui.adapter import ComfySurrogate
from mist_attack.noising import Flow
from mist_attack.objectives import ESTIMATES, Semantic
from mist_attack.protection import protect
from mist_attack.randomness import seeded
from mist_attack.settings import Settings

SIDE = 64
each = pytest.mark.parametrize("name", KNOWN)
CPU = torch.device("cpu")


def surrogate(name):
    return ComfySurrogate(vae(name), model(name), positive=conditioning(name))


class Asked(comfy.samplers.Sampler):
    """The host's own guider, asked once at one noise level, as its samplers ask it."""

    def __init__(self, noised, sigma):
        self.noised, self.sigma = noised, sigma

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_, **__):
        self.denoised = model_wrap(self.noised, self.sigma, **extra_args)
        return noise


def denoised_by_the_host(name, noised, sigma):
    """noised as the host's samplers have it: with an axis of frames where the model makes videos."""
    asked = Asked(noised, sigma)
    guider = comfy.samplers.CFGGuider(model(name))
    guider.inner_set_conds({"positive": conditioning(name)})
    guider.sample(torch.zeros_like(noised), torch.zeros_like(noised), asked, torch.tensor([1.0, 0.5]), seed=0)
    return asked.denoised


def noised_by_the_host(name, latents, noise, sigma):
    framed = model(name).model.latent_format.latent_dimensions == 3
    latents, noise = (x.unsqueeze(2) if framed else x for x in (latents, noise))
    return model(name).get_model_object("model_sampling").noise_scaling(sigma, noise.clone(), latents.clone())


@each
def test_the_sds_gradient_is_its_formula_from_the_hosts_own_answer(name):
    """And the latents with noise are the host's own."""
    latents = torch.randn(1, model(name).model.latent_format.latent_channels, 8, 8, generator=seeded(CPU, 1))

    def job(ready):
        semantic = Semantic(ready, ready.conditioning(""), ESTIMATES["sds"])
        loss, gradient = semantic.value_and_gradient(latents, seeded(CPU, 5))
        again = Semantic(ready, None, ESTIMATES["sds"]).draw(latents, ready.sigmas, seeded(CPU, 5))
        return loss, gradient, ready.sigmas[again[0]], again[1]

    made = surrogate(name)
    loss, gradient, sigma, noise = made.run(job, 1, SIDE, SIDE)
    noised = noised_by_the_host(name, latents, noise, sigma)
    error = (latents - denoised_by_the_host(name, noised, sigma).reshape(latents.shape)) / sigma
    slope = 1.0 if isinstance(made.noising, Flow) else float(1 / (1 + sigma**2).sqrt())
    expected = -(2 / latents[0].numel()) * slope * error
    assert float((gradient - expected).norm() / expected.norm()) < 1e-5
    assert float((loss + error.square().mean()).abs() / error.square().mean()) < 1e-5


def generated(name):
    """By the host's own sampler, from one seed."""
    latent_format = model(name).model.latent_format
    empty = torch.zeros(1, latent_format.latent_channels, 8, 8)
    empty = empty.unsqueeze(2) if latent_format.latent_dimensions == 3 else empty
    noise = comfy.sample.prepare_noise(empty, 7)
    ends = {"positive": conditioning(name), "negative": conditioning(name, seed=1), "latent_image": empty}
    return comfy.sample.sample(model(name), noise, 2, 4.0, "euler", "simple", **ends, seed=7, disable_pbar=True)


@each
@pytest.mark.parametrize("objective", ["semantic", "fused"])
def test_it_is_protected_against_and_the_host_makes_the_same_as_before(name, objective):
    before, state = generated(name), attributes(name)
    gradient = {"semantic": "amortised", "fused": "sds"}[objective]
    settings = Settings(objective=objective, gradient=gradient, steps=3, step_size=8 / 255, working_size=SIDE)
    picture = torch.rand(1, 3, SIDE, SIDE, generator=seeded(CPU, 2))
    (report,) = protect(picture, surrogate(name), settings).reports
    assert 0 < report.budget_used_levels <= 16 and report.notices == []
    assert report.after["denoising_loss"] != report.before["denoising_loss"]
    assert attributes(name) == state
    assert torch.equal(generated(name), before)
    record(name, FAMILIES[name].label, [gradient], by_detection=loaded(name)[1])


def attributes(name):
    layers = model(name).model.diffusion_model.modules()
    return (
        [sorted(vars(layer)) for layer in layers],
        sorted(model(name).model_options),
        torch.is_inference_mode_enabled(),
    )


@each
def test_exact_is_refused_and_becomes_sds_in_a_request(name):
    made = surrogate(name)
    assert not made.differentiable and made.modules == [vae(name).first_stage_model]

    def job(ready):
        latents = ready.encode(torch.rand(1, 3, SIDE, SIDE).requires_grad_())
        with pytest.raises(CheckpointError, match="Use sds"):
            ready.denoise(latents, ready.sigmas[[0]], ready.conditioning(""))

    made.run(job, 1, SIDE, SIDE)
    settings = Settings(objective="semantic", gradient="exact", steps=1, working_size=SIDE)
    (report,) = protect(torch.rand(1, 3, SIDE, SIDE), made, settings).reports
    assert report.settings["gradient"] == "sds" and any("sds took its place" in told for told in report.notices)


@each
def test_the_hosts_memory_is_asked_for_as_it_asks_itself(name, monkeypatch):
    """Its own forward, and the autoencoder's backward: nothing for a backward of the denoiser."""
    asked = []
    load = comfy.model_management.load_models_gpu
    monkeypatch.setattr(
        comfy.model_management,
        "load_models_gpu",
        lambda *args, **kwargs: asked.append(kwargs.get("minimum_memory_required")) or load(*args, **kwargs),
    )
    made = surrogate(name)
    made.run(lambda ready: None, 1, SIDE, SIDE)
    empty = made._empty(1, SIDE, SIDE)
    own = float(model(name).model.memory_required(list(empty.shape)))
    assert asked[0] == pytest.approx(
        own + memory(SIDE * SIDE, 0, low_vram=False, autoencoder=made.autoencoder.floats), rel=1e-6
    )


def test_a_distilled_model_is_asked_at_its_own_noise_levels():
    assert surrogate("flux-schnell").sigmas.tolist() == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.skipif("flux" not in KNOWN or "sd3" not in KNOWN, reason="a host without them")
def test_what_does_not_fit_is_one_clear_line():
    with pytest.raises(CheckpointError, match="the VAE of this model"):
        ComfySurrogate(vae("wan21"), model("flux"), positive=conditioning("flux"))
    for wrong in (conditioning("wan21"), [[torch.randn(1, 7, 64), {}]]):
        made = ComfySurrogate(vae("sd3"), model("sd3"), positive=wrong)
        with pytest.raises(CheckpointError, match="made for this model"):
            protect(torch.rand(1, 3, SIDE, SIDE), made, Settings(gradient="sds", steps=1, working_size=SIDE))
    editing = conditioning("flux")
    editing[0][1]["reference_latents"] = [torch.zeros(1, 16, 8, 8)]
    made = ComfySurrogate(vae("flux"), model("flux"), positive=editing)
    with pytest.raises(CheckpointError, match="inpainting, editing or control"):
        protect(torch.rand(1, 3, SIDE, SIDE), made, Settings(gradient="sds", steps=1, working_size=SIDE))
