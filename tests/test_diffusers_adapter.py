"""Checkpoint files: what loads, what is refused and how it is said, and that diffusers' own answers are ours."""

import json
import shutil
import socket
import sys
import types

import pytest
import torch
from diffusers import DDPMScheduler
from fakes import ldm
from safetensors.torch import load_file, save_file

from mist_attack import devices
from mist_attack.errors import CheckpointError, SettingsError
from mist_attack.hosts.headless import checkpoints, diffusers
from mist_attack.hosts.headless.folders import read_json
from mist_attack.hosts.headless.prompts import FIXED_PROMPTS
from mist_attack.hosts.headless.schedules import sigmas_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the loader tried to use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(config folder, modules, tensors in LDM's layout)."""
    torch.manual_seed(0)
    config = ldm.write_tiny_config(tmp_path_factory.mktemp("tiny") / "config")
    modules = ldm.new_modules(config)
    return config, modules, ldm.to_ldm(*modules)


def load(path, config):
    return diffusers.load(path, CPU, config=config)


def assert_same_model(surrogate, modules):
    """Encoding, eps and text equal those of the modules that were written, called as diffusers calls them."""
    unet, vae, text = modules
    images, latents, noise = torch.rand(1, 3, 64, 64), torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    def job(model):
        with torch.no_grad():
            expected = vae.encode(images * 2 - 1).latent_dist.mean * vae.config.scaling_factor
            torch.testing.assert_close(model.encode(images), expected, rtol=1e-4, atol=2e-5)
            tokens = torch.tensor([[49406, 320, 3086] + [49407] * 74])
            prompt = text(tokens).last_hidden_state
            torch.testing.assert_close(model.conditioning("a painting"), prompt, rtol=1e-4, atol=2e-5)
            for timestep in (0, 17, 500, 999):
                eps = unet(scheduler.add_noise(latents, noise, torch.tensor([timestep])), timestep, prompt).sample
                sigma = model.sigmas[[timestep]]
                noised = model.noising.noised(latents, noise, sigma)
                found = (noised - model.denoise(noised, sigma, prompt)) / sigma
                torch.testing.assert_close(found, eps, rtol=1e-4, atol=2e-5)

    surrogate.run(job, 1, 64, 64)


def test_a_safetensors_file_in_the_original_layout(tiny, tmp_path):
    config, modules, tensors = tiny
    save_file(tensors, tmp_path / "model.safetensors")
    surrogate = load(tmp_path / "model.safetensors", config)
    assert_same_model(surrogate, modules)
    assert surrogate.name == "SD v1 (model.safetensors)" and not surrogate.is_demo


def test_a_half_precision_file_computes_in_float32(tiny, tmp_path):
    config, _, tensors = tiny
    save_file({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "half.safetensors")
    surrogate = load(tmp_path / "half.safetensors", config)
    assert {p.dtype for p in [*surrogate.vae.parameters(), *surrogate.unet.parameters()]} == {torch.float32}


@pytest.fixture
def lightning(monkeypatch):
    """A class that unpickling would have to import from pytorch_lightning, as the public sd-v1-4.ckpt needs it."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for module in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    kind = type("ModelCheckpoint", (), {"__module__": name})
    sys.modules[name].ModelCheckpoint = kind
    return kind


def forget_lightning(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, module)


def test_a_ckpt_file(tiny, tmp_path):
    config, modules, tensors = tiny
    torch.save({"state_dict": tensors, "global_step": 1}, tmp_path / "model.ckpt")
    assert_same_model(load(tmp_path / "model.ckpt", config), modules)


def test_a_ckpt_file_with_what_lightning_leaves_in_it(tiny, tmp_path, lightning, monkeypatch):
    config, modules, tensors = tiny
    callback = lightning()
    callback.best_model_path = "x"
    torch.save({"state_dict": tensors, "callbacks": {lightning: {"monitor": callback}}}, tmp_path / "model.ckpt")
    forget_lightning(monkeypatch)
    before = set(torch.serialization.get_safe_globals())
    assert_same_model(load(tmp_path / "model.ckpt", config), modules)
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.fixture
def folder(tiny, tmp_path):
    """A whole diffusers folder, with a tokenizer of a few words that has CLIP's own ids."""
    config, (unet, vae, text), _ = tiny
    unet.save_pretrained(tmp_path / "m" / "unet"), vae.save_pretrained(tmp_path / "m" / "vae")
    text.save_pretrained(tmp_path / "m" / "text_encoder")
    shutil.copytree(config / "scheduler", tmp_path / "m" / "scheduler")
    words = {"p": 79, "a</w>": 320, "photo</w>": 1125, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    pieces = {"h": 71, "o": 78, "t": 83, "o</w>": 334, "ph": 1216, "pho": 2701, "phot": 33445}
    (tmp_path / "m" / "tokenizer").mkdir()
    (tmp_path / "m" / "tokenizer" / "vocab.json").write_text(json.dumps(words | pieces))
    merges = "#version: 0.2\np h\nph o\npho t\nphot o</w>\n"
    (tmp_path / "m" / "tokenizer" / "merges.txt").write_text(merges)
    return tmp_path / "m"


def test_a_diffusers_folder(tiny, folder):
    surrogate = diffusers.load(folder, CPU)
    assert surrogate.name == "Stable Diffusion (m)" and not surrogate.is_demo
    for found, written in ((surrogate.unet, tiny[1][0]), (surrogate.vae, tiny[1][1])):
        written = written.state_dict()
        assert all(torch.equal(tensor, written[name]) for name, tensor in found.state_dict().items())


def test_a_folder_reads_any_prompt_with_its_own_tokenizer(tiny, folder):
    text = tiny[1][2]
    expected = text(torch.tensor([[49406, 320, 1125] + [49407] * 74])).last_hidden_state
    surrogate = diffusers.load(folder, CPU)
    torch.testing.assert_close(surrogate.conditioning("a photo"), expected.detach(), rtol=1e-3, atol=1e-4)
    assert surrogate.conditioning("a photo a photo").shape == expected.shape
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(CheckpointError, match="no tokenizer/"):
        surrogate.conditioning("a")


def test_a_folder_of_half_precision_variants(tiny, folder):
    for part in ("unet", "vae"):
        weights = folder / part / "diffusion_pytorch_model.safetensors"
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    surrogate = diffusers.load(folder, CPU)
    assert torch.equal(surrogate.vae.encoder.conv_in.weight, tiny[1][1].encoder.conv_in.weight)


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("unet", "in_channels", 9, "inpainting"),
        ("unet", "addition_embed_type", "text", "more inputs"),
        ("vae", "_class_name", "AutoencoderTiny", "expected an encoder"),
        ("scheduler", "prediction_type", "sample", "'sample'"),
    ],
)
def test_a_folder_of_another_model_is_refused(tiny, tmp_path, part, key, value, said):
    config, _, _ = tiny
    shutil.copytree(config, tmp_path / "m")
    [file] = (tmp_path / "m" / part).iterdir()
    changed = json.loads(file.read_text()) | {key: value}
    file.write_text(json.dumps(changed))
    unet, vae, _ = ldm.new_modules(tmp_path / "m")
    unet.save_pretrained(tmp_path / "m" / "unet"), vae.save_pretrained(tmp_path / "m" / "vae")
    file.write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match=said):
        diffusers.load(tmp_path / "m", CPU)


def test_a_folder_with_tensors_missing_is_refused(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.startswith("mid_block")}, path)
    with pytest.raises(CheckpointError, match="missing"):
        diffusers.load(folder, CPU)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_unets_alone(folder, dtype, device):
    def job(model):
        x = torch.rand(1, 3, 64, 64).to(device).requires_grad_()
        sigma = model.sigmas[[300]]
        denoised = model.denoise(model.encode(x), sigma, model.conditioning("a photo"))
        return denoised, torch.autograd.grad(denoised.square().mean(), x)[0]

    surrogate = diffusers.load(folder, device, dtype)
    denoised, gradient = surrogate.run(job, 1, 64, 64)
    assert surrogate.unet.dtype == dtype and surrogate.vae.dtype == denoised.dtype == gradient.dtype == torch.float32
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_the_schedule_is_stable_diffusions():
    sigmas = sigmas_of(read_json(diffusers.SD_V1 / "scheduler" / "scheduler_config.json"), is_flow=False)
    assert sigmas[[0, -1]].tolist() == pytest.approx([0.029167, 14.6146], rel=1e-4)


def test_an_autoencoder_alone_serves_the_textural_objective(tiny, tmp_path):
    from mist_attack.protection import protect
    from mist_attack.settings import Settings

    _, (_, vae, _), _ = tiny
    vae.save_pretrained(tmp_path / "m" / "vae")
    surrogate = diffusers.load(tmp_path / "m", CPU)
    picture = torch.rand(1, 3, 40, 40).mul(255).round() / 255
    report = protect(picture, surrogate, Settings(objective="textural", steps=2)).reports[0]
    assert report.after["target_distance"] < report.before["target_distance"]
    with pytest.raises(CheckpointError, match="autoencoder without a UNet"):
        protect(picture, surrogate, Settings(objective="fused", steps=1))


def test_a_missing_tensor_is_refused_and_not_made_up(tiny, tmp_path):
    config, _, tensors = tiny
    save_file({k: v for k, v in tensors.items() if "middle_block.0.in_layers.2" not in k}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(tmp_path / "m.safetensors", config)


def test_prompts_of_a_single_file_are_fixed_and_listed(tiny, tmp_path):
    config, _, tensors = tiny
    save_file(tensors, tmp_path / "m.safetensors")
    surrogate = load(tmp_path / "m.safetensors", config)
    for prompt in FIXED_PROMPTS:
        assert surrogate.conditioning(prompt).shape == (1, 77, 32)
    with pytest.raises(CheckpointError, match="a painting"):
        surrogate.conditioning("a house by the sea")


def test_v_prediction_is_understood(tiny, folder):
    unet, file = tiny[1][0], folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    surrogate = diffusers.load(folder, CPU)
    latents, noise, prompt = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.randn(1, 77, 32)
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )
    timestep = torch.tensor([400])
    with torch.no_grad():
        v = unet(scheduler.add_noise(latents, noise, timestep), timestep, prompt).sample
        ab = scheduler.alphas_cumprod[400]
        x = scheduler.add_noise(latents, noise, timestep)
        expected = ab.sqrt() * x - (1 - ab).sqrt() * v  # the clean latents, Salimans and Ho 2022
        sigma = surrogate.sigmas[timestep]
        found = surrogate.run(
            lambda model: model.denoise(model.noising.noised(latents, noise, sigma), sigma, prompt).detach(), 1, 64, 64
        )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_without_diffusers_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(CheckpointError, match=r"mist-protect\[headless\]"):
        diffusers.load(checkpoints.find_checkpoint("demo"), CPU)


def test_devices_come_from_torchs_own_list(monkeypatch):
    assert diffusers.pick_device("cpu") == CPU
    for wrong in ("warp:3", "cuda:99"):
        with pytest.raises(SettingsError, match="Available: cpu"):
            diffusers.pick_device(wrong)
    monkeypatch.setattr(devices, "accelerator", lambda: ("xpu", 2))
    assert diffusers.pick_device() == torch.device("xpu")
    assert diffusers.pick_device("xpu:1") == torch.device("xpu:1")
    with pytest.raises(SettingsError, match="xpu:0, xpu:1"):
        diffusers.pick_device("xpu:2")


@pytest.mark.slow
def test_a_full_size_checkpoint(tmp_path, lightning, monkeypatch):
    """SD v1's exact shapes with random weights in half precision: 2.1 GB, as .safetensors and as Lightning's .ckpt."""
    torch.manual_seed(0)
    modules = ldm.new_modules(diffusers.SD_V1)
    sizes = [sum(p.numel() for p in module.parameters()) for module in modules]
    assert sizes == [859_520_964, 83_653_863, 123_060_480]  # the public model's
    tensors = {name: tensor.half() for name, tensor in ldm.to_ldm(*modules).items()}
    del modules
    save_file(tensors, tmp_path / "full.safetensors")
    torch.save({"state_dict": tensors, "callbacks": {lightning: {"monitor": lightning()}}}, tmp_path / "full.ckpt")
    del tensors
    forget_lightning(monkeypatch)

    def fused(model):
        x = torch.rand(1, 3, 64, 64, requires_grad=True)
        latents = model.encode(x)
        sigma = model.sigmas[[300]]
        noised = model.noising.noised(latents, torch.randn_like(latents), sigma)
        eps = (noised - model.denoise(noised, sigma, model.conditioning("a painting"))) / sigma
        return torch.autograd.grad(eps.square().mean() + latents.square().mean(), x)[0]

    for name in ("full.safetensors", "full.ckpt"):
        gradient = diffusers.load(tmp_path / name, CPU).run(fused, 1, 64, 64)
        assert gradient.isfinite().all() and gradient.abs().max() > 0
        (tmp_path / name).unlink()
