"""The whole way of a picture, wherever its model is and whatever the host has set for itself."""

from dataclasses import replace

import pytest
import torch
from fakes.adapters import ADAPTERS, HAS_DTYPES, HERE, require_denoiser
from fakes.toy import ToySurrogate

from mist_attack.budget import to_levels
from mist_attack.evaluation import img2img
from mist_attack.evaluation.judging import judge
from mist_attack.needs import possible
from mist_attack.protection import protect
from mist_attack.settings import Settings

WAYS = {
    "textural": {"objective": "textural"},
    "exact": {"objective": "fused"},
    "amortised": {"objective": "fused", "gradient": "amortised"},
    "reduced and in tiles": {"objective": "textural", "view": "both", "working_size": 64},
    "low VRAM": {"objective": "fused", "low_vram": True},
}


def picture(size=64):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(1, 3, size, size, generator=generator).mul(255).round() / 255


def settings(**chosen):
    return Settings(steps=2, step_size=4 / 255, momentum=0.5, seed=1, **chosen)


@pytest.fixture(scope="module", params=["diffusers file", "small autoencoder", "comfyui", "webui", "forge", "toy"])
def surrogate(request, place, tmp_path_factory):
    if place.dtype != torch.float32 and request.param not in HAS_DTYPES:
        pytest.skip("computes in float32 alone")
    return ADAPTERS[request.param](tmp_path_factory.mktemp("adapter"), place)


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_is_protected_at_every_place(surrogate, way):
    """It arrives as a host hands it on: on the device, in half precision."""
    chosen = settings(**WAYS[way])
    if chosen.objective != "textural":
        require_denoiser(surrogate)
    arriving = picture(96 if chosen.view == "both" else 64).to(surrogate.device, torch.float16)
    mask = torch.ones(1, 1, *arriving.shape[2:], device=surrogate.device, dtype=torch.float16)
    mask[:, :, :8] = 0
    target = picture().flip(3).to(surrogate.device, torch.float16)
    result = protect(arriving, surrogate, chosen, mask=mask, target=target)
    (report,) = result.reports
    assert result.images.device.type == surrogate.device.type and result.images.dtype == torch.float32
    assert report.steps_done == 2 and 0 < report.budget_used_levels <= 16
    assert torch.equal(result.images[:, :, :8], arriving[:, :, :8].float())
    assert report.latent_shift > 0 and report.latent_shift_of_noise > 0


def test_a_protection_is_judged_at_every_place(surrogate):
    before, after = pair()
    target = picture().flip(3).to(surrogate.device, torch.float16)
    judged = judge(surrogate, before, after, settings(objective="textural"), target=target)
    assert judged.figures["views"]["whole"]["effect"]["latent_shift"] > 0
    assert set(judged.figures["not_measured"]) <= {"denoising", "img2img", "inpainting"}
    assert all(made.device.type == "cpu" and made.dtype == torch.uint8 for made in judged.pictures.values())


def pair():
    before = to_levels(picture())
    return before, (before ^ 4)


def test_a_place_changes_the_gradient_by_its_rounding_alone(request, surrogate, place, tmp_path):
    image, noise = picture(), torch.randn(1, 4, 8, 8)
    name = request.node.callspec.params["surrogate"]
    here = whole_gradient(ADAPTERS[name](tmp_path, HERE), image, noise)
    there = whole_gradient(surrogate, image.to(surrogate.device), noise.to(surrogate.device)).cpu()
    assert there.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(here.flatten(), there.flatten(), dim=0)
    assert cosine > {torch.float32: 0.9999, torch.float16: 0.999, torch.bfloat16: 0.98}[place.dtype]


def whole_gradient(surrogate, image, noise):
    """Through all of the model that there is."""

    def job(model):
        x = image.clone().requires_grad_()
        latents = model.encode(x)
        if not len(model.sigmas):
            return torch.autograd.grad(latents.square().mean(), x)[0]
        sigma = model.sigmas[[300]]
        noised = model.noising.noised(latents, noise, sigma)
        error = (noised - model.denoise(noised, sigma, model.conditioning(""))) / sigma
        return torch.autograd.grad(error.square().mean() + latents.mean(), x)[0]

    return surrogate.run(job, 1, 64, 64)


def test_a_variation_is_made_at_every_place(surrogate):
    require_denoiser(surrogate)
    prompt = surrogate.conditioning("a painting")
    image = picture().to(surrogate.device)
    varied = surrogate.run(lambda ready: img2img(ready, image, prompt, 0.5, steps=2), 1, 64, 64)
    assert varied.shape == image.shape and varied.isfinite().all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_hosts_defaults_change_nothing(way, dtype):
    """A tensor that was made on a device by default alone would have no data here."""
    chosen, images = settings(**WAYS[way]), picture(96)
    surrogate = ToySurrogate()
    before = protect(images, surrogate, chosen)
    usual = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            after = protect(images, surrogate, chosen)
    finally:
        torch.set_default_dtype(usual)
    assert torch.equal(before.images, after.images)
    timeless = [replace(made.reports[0], seconds=0) for made in (before, after)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_hosts_defaults_do_not_change_what_is_judged(dtype):
    surrogate, usual = ToySurrogate(), torch.get_default_dtype()
    levels = pair()
    before = judge(surrogate, *levels, settings(objective="fused"))
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            after = judge(surrogate, *levels, settings(objective="fused"))
    finally:
        torch.set_default_dtype(usual)
    assert before.figures == after.figures


SWITCHES = {
    "TF32 products": lambda: torch.backends.cuda.matmul.allow_tf32,
    "TF32 convolutions": lambda: torch.backends.cudnn.allow_tf32,
    "cudnn": lambda: (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    "precision of products": torch.get_float32_matmul_precision,
    "autocast": lambda: (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
    "default dtype": torch.get_default_dtype,
    "default device": torch.get_default_device,
    "deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "threads": torch.get_num_threads,
}


@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name != "toy"])
def test_the_hosts_switches_are_neither_changed_nor_left_changed(adapter, tmp_path):
    surrogate = ADAPTERS[adapter](tmp_path, HERE)
    before = {name: read() for name, read in SWITCHES.items()}

    def within(_):
        assert {name: read() for name, read in SWITCHES.items()} == before

    surrogate.run(within, 1, 64, 64)
    objective = possible(denoiser=len(surrogate.sigmas) > 0)[-1]
    if objective != "textural":
        surrogate.conditioning(settings().prompt)  # the headless command builds a text encoder here
    state = torch.get_rng_state()
    protect(picture(), surrogate, settings(objective=objective))
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: read() for name, read in SWITCHES.items()} == before
