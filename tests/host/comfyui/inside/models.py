"""Models as the host's own loaders give them."""

import os
from functools import cache
from pathlib import Path

import comfy.model_sampling
import comfy.sd
import comfy.utils
import torch

CHECKPOINTS = Path(os.environ["MIST_CHECKPOINTS"])
POOLED = {"sd2": 0, "sdxl": 1280}
WIDTH = {"sd2": 1024, "sdxl": 2048}


def path(name):
    return str(CHECKPOINTS / f"{name}.safetensors")


@cache
def checkpoint(name="sd1"):
    """(model, clip, vae), as CheckpointLoaderSimple gives them."""
    return comfy.sd.load_checkpoint_guess_config(path(name))[:3]


@cache
def diffusion_model(name):
    """As UNETLoader gives it."""
    return comfy.sd.load_diffusion_model(path(name))


@cache
def autoencoder(name):
    """As VAELoader gives it."""
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(path(name)))


def with_lora(model, clip):
    """As LoraLoader gives them."""
    return comfy.sd.load_lora_for_models(model, clip, comfy.utils.load_torch_file(path("lora")), 1.0, 1.0)


def v_prediction(model):
    """As ModelSamplingDiscrete gives it."""

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    model = model.clone()
    model.add_object_patch("model_sampling", Sampling(model.model.model_config))
    return model


def conditioning(family):
    """Random, of the family's shape: these have no text encoder here."""
    pooled = {"pooled_output": torch.randn(1, POOLED[family])} if POOLED[family] else {}
    return [[torch.randn(1, 77, WIDTH[family]), pooled]]
