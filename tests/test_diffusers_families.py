"""Families of diffusers' folders: each against its own pipeline, gradients against differences, and refusals."""

import json
import shutil
import sys
from types import SimpleNamespace

import diffusers as library
import pytest
import torch
from einops import rearrange
from fakes import pipelines
from family_records import record

from mist_attack.errors import CheckpointError
from mist_attack.hosts.headless import diffusers, memory
from mist_attack.protection import protect
from mist_attack.settings import Settings

CPU = torch.device("cpu")
SIDE, LEVEL = 32, 300


@pytest.fixture(scope="module", params=pipelines.FAMILIES)
def written(request, tmp_path_factory):
    """(family, folder, the pipeline that wrote it)."""
    return request.param, *pipelines.write(request.param, tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def model(written):
    return diffusers.load(written[1], CPU)


def packed(family, latents):
    """As the pipeline's own argument `latents` has them."""
    if family in ("Flux", "Qwen-Image"):
        return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)
    return latents


def unpacked(family, pipeline, found):
    """What the pipeline hands out as latents, in the denoiser's scale."""
    if family in ("Flux", "Qwen-Image"):
        return rearrange(found, "b (h w) (c p q) -> b c (h p) (w q)", h=int(found.shape[1] ** 0.5), p=2, q=2)
    if family != "Flux 2":
        return found
    statistics = pipeline.vae.bn
    mean, variance = (values.view(1, -1, 1, 1) for values in (statistics.running_mean, statistics.running_var))
    patches = rearrange(found, "b c (h p) (w q) -> b (c p q) h w", p=2, q=2)
    return (patches - mean) / (variance + pipeline.vae.config.batch_norm_eps).sqrt()


def in_one_step(family, pipeline, noised, sigma, **options):
    """What the pipeline makes of noised latents in one step to no noise: the clean latents that it predicts."""
    more = {"Stable Diffusion XL": {"guidance_scale": 1.0}, "Stable Diffusion 3": {"guidance_scale": 1.0}}
    more |= {"Z-Image": {"guidance_scale": 0.0}}
    if family == "Stable Diffusion XL":
        noised, steps = noised / (sigma**2 + 1) ** 0.5, {"timesteps": [LEVEL], "original_size": (1024, 1024)}
        steps |= {"target_size": (1024, 1024)}
    else:
        noised, steps = packed(family, noised), {"sigmas": [float(sigma)], "num_inference_steps": 1}
    options |= more.get(family, {}) | steps
    return pipeline(prompt="a painting", height=SIDE, width=SIDE, latents=noised, **options).images


def test_it_predicts_what_the_pipeline_predicts_of_a_prompt(written, model):
    family, _, pipeline = written
    sigma = model.sigmas[[LEVEL]]

    def job(ready):
        with torch.no_grad():
            latents = ready.encode(torch.rand(1, 3, SIDE, SIDE))
            noised = ready.noising.noised(latents, torch.randn_like(latents), sigma)
            denoised = ready.denoise(noised, sigma, ready.conditioning("a painting"))
            other = ready.denoise(noised, sigma, ready.conditioning("a photo"))
            return noised, denoised, other, ready.decode(denoised)

    noised, denoised, other, picture = model.run(job, 1, SIDE, SIDE)
    expected = unpacked(family, pipeline, in_one_step(family, pipeline, noised, sigma, output_type="latent"))
    torch.testing.assert_close(denoised, expected, rtol=1e-4, atol=1e-5)
    assert (other - denoised).abs().max() > 1e-4
    drawn = in_one_step(family, pipeline, noised, sigma, output_type="pt")
    torch.testing.assert_close(picture, drawn, rtol=1e-3, atol=1e-4)


def test_latents_are_the_posteriors_mean_in_the_denoisers_scale(written, model, monkeypatch):
    """`decode`, which the pipeline's own pictures hold, gives the autoencoder back what it has coded."""
    picture, given = torch.rand(1, 3, SIDE, SIDE), []
    film = picture * 2 - 1 if written[0] != "Qwen-Image" else (picture * 2 - 1)[:, :, None]
    with torch.no_grad():
        mean = model.vae.encode(film).latent_dist.mean
        decode = model.vae.decode
        monkeypatch.setattr(model.vae, "decode", lambda latents: given.append(latents) or decode(latents))
        model.decode(model.encode(picture))
    torch.testing.assert_close(given[0], mean, rtol=1e-4, atol=1e-5)


def directional(function, x, gradient, h):
    direction = gradient / gradient.norm()
    with torch.no_grad():
        difference = (function(x + h * direction) - function(x - h * direction)) / (2 * h)
    return float(difference), float(gradient.norm())


def test_its_gradients_are_right(model):
    picture, sigma = torch.rand(1, 3, SIDE, SIDE), model.sigmas[[LEVEL]]

    def job(ready):
        prompt = ready.conditioning("a painting")
        latents = ready.encode(picture).detach()
        noise, weights = torch.randn(2, *latents.shape)

        def coded(x):
            return (ready.encode(x) * weights).sum()

        def denoised(z):
            return (ready.denoise(ready.noising.noised(z, noise, sigma), sigma, prompt) * weights).sum()

        for function, x, h in ((coded, picture, 2e-3), (denoised, latents, 2e-2)):
            leaf = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(function(leaf), leaf)
            yield directional(function, x, gradient, h)

    for difference, slope in model.run(lambda ready: list(job(ready)), 1, SIDE, SIDE):
        assert slope > 0 and difference == pytest.approx(slope, rel=0.02)


def gradient_through(ready, noise):
    x = torch.full((1, 3, SIDE, SIDE), 0.5).requires_grad_()
    latents, sigma = ready.encode(x), ready.sigmas[[LEVEL]]
    denoised = ready.denoise(ready.noising.noised(latents, noise, sigma), sigma, ready.conditioning("a painting"))
    return torch.autograd.grad(denoised.square().mean(), x)[0]


def test_the_low_vram_way_computes_the_same(model):
    noise = torch.randn_like(
        model.run(lambda ready: ready.encode(torch.rand(1, 3, SIDE, SIDE)).detach(), 1, SIDE, SIDE)
    )
    plain, sparing = (
        model.run(lambda ready: gradient_through(ready, noise), 1, SIDE, SIDE, low_vram=low) for low in (False, True)
    )
    assert plain.abs().max() > 0
    torch.testing.assert_close(plain, sparing, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("gradient", ["exact", "sds", "amortised"])
def test_a_picture_is_protected_against_it(model, gradient):
    """With the model's own gradient the loss rises whatever its weights; without, only a trained model's does."""
    picture = torch.rand(1, 3, SIDE, SIDE).mul(255).round() / 255
    settings = Settings(objective="semantic", gradient=gradient, steps=12, working_size=64)
    report = protect(picture, model, settings).reports[0]
    before, after = report.before["denoising_loss"], report.after["denoising_loss"]
    assert report.steps_done == 12 and (after > before if gradient == "exact" else after != before)
    family = model.family.name
    record(f"folder-{family}", f"{family}, a folder", (gradient,), f"diffusers {library.__version__}")


def test_batches_are_as_good_as_one_by_one(model):
    latents = model.run(lambda ready: ready.encode(torch.rand(2, 3, SIDE, SIDE)).detach(), 2, SIDE, SIDE)
    sigma, prompt = model.sigmas[[100, 700]], model.conditioning("a painting")

    def job(ready):
        with torch.no_grad():
            alone = [ready.denoise(latents[i : i + 1], sigma[i : i + 1], prompt) for i in range(2)]
            return ready.denoise(latents, sigma, prompt), torch.cat(alone)

    whole, alone = model.run(job, 2, SIDE, SIDE)
    torch.testing.assert_close(whole, alone, rtol=1e-3, atol=1e-4)


# Refusals


@pytest.fixture
def folder(tmp_path):
    return pipelines.write("Flux", tmp_path)[0]


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


OTHERS = {
    "FluxFillPipeline": ("model_index.json", {"_class_name": "FluxFillPipeline"}),
    "FluxKontextPipeline": ("model_index.json", {"_class_name": "FluxKontextPipeline"}),
    "inpainting or editing": ("transformer/config.json", {"in_channels": 96, "out_channels": 16}),
    "code of the folder's own": ("model_index.json", {"text_encoder": ["antigravity", "Encoder"]}),
    "LTXVideoTransformer3DModel": ("transformer/config.json", {"_class_name": "LTXVideoTransformer3DModel"}),
    "AutoencoderOobleck": ("vae/config.json", {"_class_name": "AutoencoderOobleck"}),
    "found nothing": ("transformer/config.json", {"_class_name": None}),
    "quantised": ("transformer/config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}),
    "names and values": ("scheduler/scheduler_config.json", None),
}


@pytest.mark.parametrize("said", OTHERS)
def test_a_folder_of_another_kind_is_named_and_refused(folder, said):
    part, values = OTHERS[said]
    if values is None:
        (folder / part).write_text("[]")
    else:
        changed(folder / part, **values)
    with pytest.raises(CheckpointError, match=said) as error:
        diffusers.load(folder, CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("part", "said"), [("model_index.json", "reads a prompt"), ("vae", "an autoencoder")])
def test_a_folder_that_lacks_a_part_is_refused(folder, part, said):
    shutil.rmtree(folder / part) if (folder / part).is_dir() else (folder / part).unlink()
    with pytest.raises(CheckpointError, match=said):
        diffusers.load(folder, CPU)


def test_a_folder_that_an_older_diffusers_does_not_know_says_so(folder, monkeypatch):
    known = {name: getattr(library, name) for name in ("AutoencoderKL", "utils")}
    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(__version__="0.29.0", **known))
    with pytest.raises(CheckpointError, match="pip install --upgrade diffusers"):
        diffusers.load(folder, CPU)


def test_what_memory_it_takes_is_counted_before_it_is_loaded(folder, monkeypatch):
    model = diffusers.load(folder, CPU, torch.bfloat16)
    asked = memory.needed(folder, torch.bfloat16)
    assert asked.denoiser == sum(p.numel() * p.itemsize for p in model.unet.parameters())
    assert asked.autoencoder == sum(p.numel() * p.itemsize for p in model.vae.parameters())
    assert asked.text == memory.needed(folder, torch.float32).text / 2 > 0
    assert memory.in_words(folder, torch.bfloat16) is None
    monkeypatch.setattr(memory, "WORTH_A_WORD", 1)
    assert "in bfloat16" in memory.in_words(folder, torch.bfloat16)


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(folder, monkeypatch):
    asked = memory.needed(folder, torch.float32)
    monkeypatch.setattr(memory, "available_bytes", lambda device: asked.loaded)
    diffusers.load(folder, CPU)
    monkeypatch.setattr(memory, "available_bytes", lambda device: asked.loaded - 1)
    monkeypatch.setattr(diffusers, "load_folder", None)
    with pytest.raises(CheckpointError, match="--dtype bfloat16") as error:
        diffusers.load(folder, CPU)
    assert str(folder / "vae") in str(error.value)
