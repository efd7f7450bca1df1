"""Checkpoint files: what loads, what is refused and how it is said, and that diffusers' own answers are ours."""

import json
import pickle
import shutil
import socket
import sys
import types

import pytest
import torch
from diffusers import DDPMScheduler
from fakes import ldm
from safetensors.torch import save_file

from mist_attack.errors import CheckpointError, SettingsError
from mist_attack.hosts import checkpoints, diffusers
from mist_attack.hosts.prompts import FIXED_PROMPTS

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the loader tried to use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("MIST_CHECKPOINT", raising=False)


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
            torch.testing.assert_close(model.encode(images), expected, rtol=1e-3, atol=1e-4)
            tokens = torch.tensor([[49406, 320, 3086] + [49407] * 74])
            prompt = text(tokens).last_hidden_state
            torch.testing.assert_close(model.conditioning("a painting"), prompt, rtol=1e-3, atol=1e-4)
            for timestep in (0, 17, 500, 999):
                eps = unet(scheduler.add_noise(latents, noise, torch.tensor([timestep])), timestep, prompt).sample
                sigma = model.sigmas[[timestep]]
                noised = model.noised(latents, noise, sigma)
                found = (noised - model.denoise(noised, sigma, prompt)) / sigma
                torch.testing.assert_close(found, eps, rtol=1e-3, atol=1e-4)

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
    before = torch.serialization.get_safe_globals()
    assert_same_model(load(tmp_path / "model.ckpt", config), modules)
    assert torch.serialization.get_safe_globals() == before


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_a_ckpt_is_never_run(tmp_path):
    torch.save({"state_dict": Code(str(tmp_path / "ran"))}, tmp_path / "evil.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps(Code(str(tmp_path / "ran"))))
    for name in ("evil.ckpt", "old.ckpt"):
        with pytest.raises(CheckpointError, match=r"never run|no checkpoint"):
            diffusers.load(tmp_path / name, CPU)
    assert not (tmp_path / "ran").exists()


def test_a_diffusers_folder(tiny, tmp_path):
    config, (unet, vae, text), _ = tiny
    unet.save_pretrained(tmp_path / "m" / "unet"), vae.save_pretrained(tmp_path / "m" / "vae")
    text.save_pretrained(tmp_path / "m" / "text_encoder")
    shutil.copytree(config / "scheduler", tmp_path / "m" / "scheduler")
    surrogate = diffusers.load(tmp_path / "m", CPU)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = vae.encode(images * 2 - 1).latent_dist.mean * vae.config.scaling_factor
        found = surrogate.run(lambda model: model.encode(images).detach(), 1, 64, 64)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert surrogate.name == "diffusers model (m)"


def test_an_autoencoder_alone_serves_the_textural_objective(tiny, tmp_path):
    from mist_attack.protect import protect
    from mist_attack.settings import Settings

    _, (_, vae, _), _ = tiny
    vae.save_pretrained(tmp_path / "m" / "vae")
    surrogate = diffusers.load(tmp_path / "m", CPU)
    picture = torch.rand(1, 3, 40, 40).mul(255).round() / 255
    report = protect(picture, surrogate, Settings(objective="textural", steps=2)).reports[0]
    assert report.after["target_distance"] < report.before["target_distance"]
    with pytest.raises(CheckpointError, match="autoencoder alone"):
        protect(picture, surrogate, Settings(objective="fused", steps=1))


FOREIGN = {
    "a LoRA": {"lora_unet_down_blocks_0.lora_down.weight": (4, 4)},
    "a textual inversion": {"emb_params": (1, 768)},
    "Stable Diffusion XL": {"conditioner.embedders.0.x": (1,), checkpoints.UNET_IN: (320, 4, 3, 3)},
    "Stable Diffusion 2": {"cond_stage_model.model.ln_final.weight": (1024,), checkpoints.UNET_IN: (320, 4, 3, 3)},
    "Stable Diffusion 3": {"model.diffusion_model.joint_blocks.0.x": (1,)},
    "Flux": {"double_blocks.0.img_attn.qkv.weight": (1,)},
    "9 input channels": {checkpoints.UNET_IN: (320, 9, 3, 3), checkpoints.VAE_IN: (128, 3, 3, 3)},
    "a VAE alone": {checkpoints.VAE_IN: (128, 3, 3, 3)},
    "without its VAE": {checkpoints.UNET_IN: (320, 4, 3, 3)},
    "another kind": {"layers.0.weight": (2, 2)},
    "no tensors": {},
}


@pytest.mark.parametrize("said", FOREIGN)
def test_other_models_are_named_and_refused(tmp_path, said):
    save_file({name: torch.zeros(shape) for name, shape in FOREIGN[said].items()}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=said) as error:
        diffusers.load(tmp_path / "m.safetensors", CPU)
    assert "Accepted:" in str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("content", ["", "cut", "words"])
def test_broken_files_are_refused(tiny, tmp_path, suffix, content):
    path = tmp_path / f"m{suffix}"
    if content == "cut":
        small = {"a": torch.zeros(100)}
        save_file(small, path) if suffix == ".safetensors" else torch.save(small, path)
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.write_text(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        diffusers.load(path, CPU)


def test_a_missing_tensor_is_refused_and_not_made_up(tiny, tmp_path):
    config, _, tensors = tiny
    save_file({k: v for k, v in tensors.items() if "middle_block.0.in_layers.2" not in k}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(tmp_path / "m.safetensors", config)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "m.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"safetensors or \.ckpt"):
        diffusers.load(tmp_path / "m.bin", CPU)


def test_prompts_of_a_single_file_are_fixed_and_listed(tiny, tmp_path):
    config, _, tensors = tiny
    save_file(tensors, tmp_path / "m.safetensors")
    surrogate = load(tmp_path / "m.safetensors", config)
    for prompt in FIXED_PROMPTS:
        assert surrogate.conditioning(prompt).shape == (1, 77, 32)
    with pytest.raises(CheckpointError, match="a painting"):
        surrogate.conditioning("a house by the sea")


def test_v_prediction_is_understood(tiny, tmp_path):
    config, (unet, vae, _), _ = tiny
    unet.save_pretrained(tmp_path / "m" / "unet"), vae.save_pretrained(tmp_path / "m" / "vae")
    schedule = json.loads(next((config / "scheduler").iterdir()).read_text()) | {"prediction_type": "v_prediction"}
    (tmp_path / "m" / "scheduler").mkdir()
    (tmp_path / "m" / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    surrogate = diffusers.load(tmp_path / "m", CPU)
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
            lambda model: model.denoise(model.noised(latents, noise, sigma), sigma, prompt).detach(), 1, 64, 64
        )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_where_a_checkpoint_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="No model") as error:
        checkpoints.find_checkpoint(None)
    assert "MIST_CHECKPOINT" in str(error.value) and "model.ckpt" in str(error.value)
    usual = tmp_path / "models/ldm/stable-diffusion-v1/model.ckpt"
    usual.parent.mkdir(parents=True)
    usual.write_bytes(b"x")
    assert checkpoints.find_checkpoint(None).resolve() == usual
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"x")
    monkeypatch.setenv("MIST_CHECKPOINT", str(other))
    assert checkpoints.find_checkpoint(None) == other
    assert checkpoints.find_checkpoint(str(usual)) == usual
    with pytest.raises(CheckpointError, match="nowhere"):
        checkpoints.find_checkpoint("nowhere.ckpt")
    assert checkpoints.find_checkpoint("demo").name == "seed0"
    with pytest.raises(CheckpointError, match="demo:7"):
        checkpoints.find_checkpoint("demo:7")


def test_without_diffusers_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
    with pytest.raises(CheckpointError, match=r"mist-protect\[headless\]"):
        diffusers.load(checkpoints.find_checkpoint("demo"), CPU)


def test_devices_come_from_torchs_own_list(monkeypatch):
    assert diffusers.pick_device("cpu") == CPU
    for wrong in ("warp:3", "cuda:99"):
        with pytest.raises(SettingsError, match="Available: cpu"):
            diffusers.pick_device(wrong)
    monkeypatch.setattr(diffusers, "_accelerator", lambda: ("xpu", 2))
    assert diffusers.pick_device() == torch.device("xpu")
    assert diffusers.pick_device("xpu:1") == torch.device("xpu:1")
    with pytest.raises(SettingsError, match="xpu:0, xpu:1"):
        diffusers.pick_device("xpu:2")


@pytest.mark.slow
def test_a_full_size_checkpoint(tmp_path, lightning, monkeypatch):
    """SD v1's exact shapes with random weights in half precision: 2.1 GB, as .safetensors and as Lightning's .ckpt."""
    torch.manual_seed(0)
    tensors = {name: t.half() for name, t in ldm.to_ldm(*ldm.new_modules(diffusers.SD_V1)).items()}
    save_file(tensors, tmp_path / "full.safetensors")
    torch.save({"state_dict": tensors, "callbacks": {lightning: {"monitor": lightning()}}}, tmp_path / "full.ckpt")
    del tensors
    forget_lightning(monkeypatch)

    def fused(model):
        x = torch.rand(1, 3, 64, 64, requires_grad=True)
        latents = model.encode(x)
        sigma = model.sigmas[[300]]
        noised = model.noised(latents, torch.randn_like(latents), sigma)
        eps = (noised - model.denoise(noised, sigma, model.conditioning("a painting"))) / sigma
        return torch.autograd.grad(eps.square().mean() + latents.square().mean(), x)[0]

    for name in ("full.safetensors", "full.ckpt"):
        gradient = diffusers.load(tmp_path / name, CPU).run(fused, 1, 64, 64)
        assert gradient.isfinite().all() and gradient.abs().max() > 0
        (tmp_path / name).unlink()
