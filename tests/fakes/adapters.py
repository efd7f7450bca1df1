"""Every adapter, on a small model of its kind, at a place: on a device, in a dtype, in a memory format."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import cycle

import pytest
import torch
from safetensors.torch import save_file

from mist_attack.hosts.headless import checkpoints, choice, diffusers

from . import comfy, forge, tiny, webui
from .toy import ToyFlow, ToySurrogate

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Place:
    """device: of everything. dtype: of the weights, as the host keeps them. memory_format: of the weights, too."""

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format

    def __str__(self) -> str:
        names = (self.device, self.dtype, self.memory_format)
        return ", ".join(str(name).removeprefix("torch.") for name in names)

    def put(self, *modules: torch.nn.Module) -> None:
        """Inference tensors remain such."""
        with torch.inference_mode():
            for module in modules:
                is_inference = next(module.parameters()).is_inference()
                with torch.inference_mode(is_inference):
                    module.to(self.device, self.dtype, memory_format=self.memory_format)


HERE = Place()
DTYPES = torch.float32, torch.float16, torch.bfloat16
FORMATS = torch.channels_last, torch.contiguous_format


def places(device: torch.device) -> list[Place]:
    """Each dtype and each format once at least."""
    return [Place(device, dtype, memory_format) for dtype, memory_format in zip(DTYPES, cycle(FORMATS), strict=False)]


def _toy(kind):
    return lambda folder, place: kind(device=place.device)


def _single_file(folder, place):
    """A checkpoint in Stable Diffusion's original layout."""
    from . import ldm  # here: it needs diffusers, which a host that runs this suite may lack

    torch.manual_seed(0)
    config = ldm.write_tiny_config(folder / "config")
    save_file(ldm.to_ldm(*ldm.new_modules(config)), folder / "tiny.safetensors")
    return _arranged(diffusers.load(folder / "tiny.safetensors", place.device, place.dtype, config=config), place)


def _small_autoencoder(folder, place):
    surrogate = choice.load(tiny.write(folder), place.device)
    place.put(*surrogate.modules)
    return surrogate


def _demo(folder, place):
    return _arranged(diffusers.load(checkpoints.find_checkpoint("demo"), place.device, place.dtype), place)


def _small_with_denoiser(folder, place):
    """A folder of a denoiser, with a small autoencoder's files in vae/."""
    demo = checkpoints.find_checkpoint("demo")
    for part in ("unet", "scheduler"):
        shutil.copytree(demo / part, folder / part)
    shutil.copy(demo / "prompts.safetensors", folder)
    (folder / "vae").mkdir()
    tiny.write(folder / "vae")
    return _arranged(choice.load(folder, place.device, place.dtype), place)


def _arranged(surrogate, place):
    for module in (surrogate.vae, surrogate.unet):
        module.to(memory_format=place.memory_format)
    return surrogate


def _comfyui(kind):
    def build(folder, place):
        comfy.install()
        from mist_attack.hosts.comfyui.adapter import ComfySurrogate

        model, clip, vae = comfy.checkpoint(kind=kind)
        place.put(model.model.diffusion_model, vae.first_stage_model)
        model.load_device = vae.device = vae.patcher.load_device = place.device
        model.model.diffusion_model.dtype = place.dtype
        model.model.model_sampling.sigmas = model.model.model_sampling.sigmas.to(place.device)
        return ComfySurrogate(vae, model, clip)

    return build


def _webui(family):
    def build(folder, place):
        webui.modules["devices"].device = place.device
        model = webui.Model(family)
        place.put(model.first_stage_model, model.model)
        for name in ("alphas_cumprod", "alphas_cumprod_original"):
            setattr(model, name, getattr(model, name).to(place.device))
        return webui.surrogate(model)

    return build


def _forge(family):
    def build(folder, place):
        model = forge.Engine(family)
        for objects in (model.forge_objects_original, model.forge_objects_after_applying_lora):
            objects.unet.load_device = objects.unet.current_device = objects.vae.device = place.device
        objects = model.forge_objects_original
        place.put(objects.unet.model.diffusion_model, objects.vae.first_stage_model)
        objects.unet.model.predictor.to(place.device)
        objects.unet.model.computation_dtype = place.dtype
        return forge.surrogate(model)

    return build


ADAPTERS = {
    "toy": _toy(ToySurrogate),
    "toy flow": _toy(ToyFlow),
    "diffusers file": _single_file,
    "diffusers demo": _demo,
    "small autoencoder": _small_autoencoder,
    "small autoencoder with a denoiser": _small_with_denoiser,
    "comfyui": _comfyui(comfy.ModelType.EPS),
    "comfyui flow": _comfyui(comfy.ModelType.FLOW),
    "webui": _webui("sd1"),
    "webui SD2-v": _webui("sd2v"),
    "webui SDXL": _webui("sdxl"),
    "webui SD3": _webui("sd3"),
    "forge": _forge("sd1"),
    "forge SD2-v": _forge("sd2v"),
    "forge SDXL": _forge("sdxl"),
}
HAS_DTYPES = ADAPTERS.keys() - {"toy", "toy flow", "small autoencoder"}


def require_denoiser(surrogate):
    """Skips the test of an adapter that has none."""
    if not len(surrogate.sigmas):
        pytest.skip("an autoencoder alone")
