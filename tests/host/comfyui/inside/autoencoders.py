"""VAEs of every kind by the host's own detection and classes, with random weights and a fraction of the channels where
the full ones take gigabytes: made here, without a file."""

from functools import cache
from inspect import signature

import comfy.latent_formats
import comfy.sd
import pytest
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.wan import vae as wan21
from comfy.ldm.wan import vae2_2 as wan22
from comfy.taesd import taesd
from host.comfyui.make_checkpoints import VAE, WAN, randomised

try:
    from comfy.taesd.taehv import TAEHV
except ImportError:  # newer than 0.3.64
    TAEHV = None

RGBA = {"image_channels": 4, "conv_out_channels": 4}
HUNYUAN = VAE | {"z_channels": 16, "conv3d": True, "time_compress": 4, "ch": 32}
FAMILIES = {"taesd": "SD15", "taesdxl": "SDXL", "taesd3": "SD3", "taef1": "Flux"}
FAMILIES |= {"wan21": "Wan21", "wan22": "Wan22", "hunyuan_video": None}
if hasattr(comfy.latent_formats, "Flux2"):
    FAMILIES |= {"taef2": "Flux2"}
if "image_channels" in signature(wan21.WanVAE).parameters:
    FAMILIES |= {"wan21_rgba": "Wan21"}
if TAEHV is not None:
    FAMILIES |= {"taew21": "Wan21", "taew22": "Wan22", "taehv": "HunyuanVideo"}
"""name -> the host's latent format, None where a VAE alone does not tell it"""


def latent_format(name):
    return None if FAMILIES[name] is None else getattr(comfy.latent_formats, FAMILIES[name])()


def vae(name, dtype=torch.float32):
    """As the host's VAELoader gives it; the same one each time."""
    return loaded(name, dtype)


@cache
def loaded(name, dtype):
    torch.manual_seed(0)
    if name.startswith(("taehv", "taew")):
        return tiny_for_videos(name, dtype)
    return tiny(name, dtype) if name.startswith("tae") else MAKERS[name](dtype)


def tiny(name, dtype):
    family = latent_format(name)
    state = randomised(taesd.TAESD(latent_channels=family.latent_channels))
    state["vae_scale"] = torch.tensor(family.scale_factor)
    state["vae_shift"] = torch.tensor(getattr(family, "shift_factor", 0.0))
    return comfy.sd.VAE(sd=state, dtype=dtype, metadata={"tae_latent_channels": family.latent_channels})


def tiny_for_videos(name, dtype):
    state = randomised(TAEHV(latent_format(name).latent_channels))
    if name != "taehv":  # the host tells it from Wan's by its precision
        state = {key: value.float() for key, value in state.items()}
    return comfy.sd.VAE(sd=state, dtype=dtype)


def narrow(place, name, make):
    """A loader of what `make()` gives, put where the host would make the full one of the same keys."""

    def load(dtype):
        with pytest.MonkeyPatch.context() as patch:
            state = randomised(make())
            patch.setattr(place, name, lambda **_: make())
            return comfy.sd.VAE(sd=state, dtype=dtype)

    return load


MAKERS = {
    "wan21": narrow(wan21, "WanVAE", lambda make=wan21.WanVAE: make(dim=16, z_dim=16, **WAN)),
    "wan21_rgba": narrow(wan21, "WanVAE", lambda make=wan21.WanVAE: make(dim=16, z_dim=16, **WAN, **RGBA)),
    "wan22": narrow(wan22, "WanVAE", lambda make=wan22.WanVAE: make(dim=16, dec_dim=16, z_dim=48, **WAN)),
    "hunyuan_video": narrow(comfy.sd, "AutoencoderKL", lambda: AutoencoderKL(ddconfig=HUNYUAN, embed_dim=16)),
}
