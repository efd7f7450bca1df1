"""What the probe looks at in Forge alone; and the small families of `tests/host/forge/make_checkpoints.py`."""

import json
from pathlib import Path

import backend.loader
import backend.nn.unet
import backend.nn.vae
import torch
from backend import attention, stream
from backend.text_processing import classic_engine
from huggingface_guess import model_list
from modules import paths


def modules(model):
    objects = model.forge_objects
    return [objects.unet.model, objects.vae.first_stage_model, objects.clip.cond_stage_model]


def denoiser(model):
    """Whose `apply_model` is the UNet."""
    return model.forge_objects.unet.model


@torch.inference_mode()
def denoised(model, noised, sigma, conditioning):
    """As its samplers ask for it."""
    return denoiser(model).apply_model(noised, sigma, transformer_options={}, **conditioning)


def borrowed():
    return {
        "attention": backend.nn.unet.attention_function.__name__,
        "attention of the autoencoder": backend.nn.vae.attention_function_single_head_spatial.__name__,
        "stream": stream.stream_activated,
        "infotext": dict(classic_engine.last_extra_generation_params),
    }


def use_attention(name: str):
    """As Forge's flags do: attention_pytorch, attention_split, attention_sub_quad; the one before."""
    before = backend.nn.unet.attention_function.__name__
    backend.nn.unet.attention_function = getattr(attention, name)
    return {"before": before}


def know_small_families():
    for file in sorted(Path(paths.data_path, "families").glob("*/family.json")):
        attributes = json.loads(file.read_text())
        base = getattr(model_list, attributes.pop("base"))
        if not any(
            getattr(kind, "huggingface_repo", "") == attributes["huggingface_repo"] for kind in model_list.models
        ):
            model_list.models.insert(0, type(f"Small{base.__name__}", (base,), attributes))


def read_small_gguf():
    """One file for all: Forge itself takes autoencoder and text encoders of full size from files of their own."""
    read = backend.loader.load_torch_file

    def load_torch_file(path, *arguments, **options):
        return {
            name: value if name.startswith("model.diffusion_model.") else value.as_subclass(torch.Tensor).clone()
            for name, value in read(path, *arguments, **options).items()
        }

    backend.loader.load_torch_file = load_torch_file


know_small_families()
read_small_gguf()
ROUTES = (use_attention,)
