"""The part of Forge Classic's `modules` and `ldm_patched` that the adapter calls, and a small model in their shape.

Written from the real one, where the adapter has run. Weights are inference tensors, and the autoencoder's are in half
precision, as the host keeps them on a card."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import nn

from . import webui
from .webui import new_module


class Layer(nn.Conv2d):
    ldm_patched_cast_weights = False

    def forward(self, x):
        if self.ldm_patched_cast_weights:
            return self._conv_forward(x, self.weight.to(x), self.bias.to(x))
        return super().forward(x)


class AttnBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.optimized_attention = _own_attention

    def forward(self, h):
        return self.optimized_attention(h)


class AutoencoderKL(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(Layer(3, 8, 8, 8), AttnBlock())
        self.quant_conv = Layer(8, 8, 1)
        self.decoder = nn.Sequential(nn.Upsample(scale_factor=8), Layer(4, 3, 1))

    def encode(self, x):
        raise AssertionError("what the host offers here is a sample")

    def decode(self, latents):
        return torch.tanh(self.decoder(latents))


class UNetModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.context = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(5, 4)

    def forward(self, x, timesteps, context):
        assert torch.is_inference_mode_enabled(), "as in a generation"
        x = self.inner(x)
        x += self.context(context).mean(1)[:, :, None, None] + timesteps.view(-1, 1, 1, 1) / 1000
        return x


class EPS:
    sigma_data = 1.0

    def __init__(self):
        self.sigmas = torch.linspace(0.03, 14, 1000)


class BaseModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.diffusion_model, self.model_sampling = UNetModel(), EPS()
        self.model_config = SimpleNamespace(unet_config={"in_channels": 4, "channel_mult": [1, 2]})
        process_in, process_out = (lambda z: z * 0.5), (lambda z: z / 0.5)
        self.latent_format = SimpleNamespace(process_in=process_in, process_out=process_out)

    def apply_model(self, x, t, c_crossattn=None, transformer_options={}):  # noqa: B006
        sigma = t.view(-1, 1, 1, 1)
        timesteps = (self.model_sampling.sigmas - t[:, None]).abs().argmin(1).float()
        return x - self.diffusion_model(x / (sigma**2 + 1) ** 0.5, timesteps, c_crossattn) * sigma


class Patcher:
    load_device = torch.device("cpu")

    def __init__(self, model):
        self.model = model

    def memory_required(self, shape):
        return 10.0 * shape[0] * shape[2] * shape[3]


class Model:
    """What `load_model_for_a1111` makes."""

    is_sd1, is_sd2, is_sdxl = True, False, False

    def __init__(self):
        self.sd_checkpoint_info, self.asked = SimpleNamespace(model_name="tiny"), []
        with torch.inference_mode():
            torch.manual_seed(0)
            autoencoder, denoiser = AutoencoderKL().eval().to(torch.bfloat16), BaseModel().eval()
        vae = SimpleNamespace(
            first_stage_model=autoencoder,
            patcher=Patcher(autoencoder),
            device=torch.device("cpu"),
            downscale_ratio=8,
        )
        self.forge_objects_original = SimpleNamespace(unet=Patcher(denoiser), vae=vae, clip="clip")
        lora = SimpleNamespace(unet=Patcher(denoiser), vae=vae, clip="clip with LoRA")
        self.forge_objects = self.forge_objects_after_applying_lora = lora

    def get_learned_conditioning(self, prompts):
        self.asked.append((list(prompts), prompts.width, self.forge_objects.clip))
        return torch.ones(1, 3, 5) * len(prompts[0])


def _own_attention(h):
    raise AssertionError("the host's own attention, which need not have a backward")


asked, activated = [], []


def _fake_modules():
    contents = {
        "modules": {},
        "modules.extra_networks": {"activate": lambda p, data: activated.append(data)},
        "modules.processing": {"StableDiffusionProcessingTxt2Img": SimpleNamespace},
        "modules.prompt_parser": {"SdConditioning": webui.SdConditioning},
        "modules.shared": {"sd_model": None},
        "modules_forge": {},
        "ldm_patched": {},
        "ldm_patched.ldm": {},
        "ldm_patched.ldm.models": {},
        "ldm_patched.ldm.models.autoencoder": {"AutoencoderKL": AutoencoderKL},
        "ldm_patched.ldm.modules": {},
        "ldm_patched.ldm.modules.diffusionmodules": {},
        "ldm_patched.ldm.modules.diffusionmodules.model": {"pytorch_attention": lambda h: h + torch.tanh(h)},
        "ldm_patched.modules": {},
        "ldm_patched.modules.model_management": {
            "load_models_gpu": lambda patchers, memory_required: asked.append((patchers, memory_required))
        },
        "ldm_patched.modules.model_sampling": {"EPS": EPS},
    }
    made = {name: new_module(name, values) for name, values in contents.items()}
    for name, module in made.items():
        parent, _, own = name.rpartition(".")
        module.__path__ = []
        if parent:
            setattr(made[parent], own, module)
    return made


modules = _fake_modules()


@contextmanager
def installed():
    """`modules` and `ldm_patched` in sys.modules, as in Classic's process."""
    with webui.in_sys_modules(modules):
        yield


def surrogate(model=None, **options):
    with installed():
        return importlib.import_module("mist_attack.hosts.classic").ClassicSurrogate(model or Model(), **options)
