"""The part of Forge's `modules` and `backend` that the adapter calls, and a small model in their shape.

Written from the real Forge; `tests/host/forge` runs the same adapter in the real one. As there, weights are inference
tensors, the UNet writes over what it has computed, and LoRAs are merged when a patcher is loaded.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import nn

from . import webui
from .webui import new_module


class Layer(nn.Conv2d):
    """Forge's kind: with `parameters_manual_cast` it computes in the dtype of what comes in."""

    parameters_manual_cast = False

    def __init__(self, *shape, **options):
        super().__init__(*shape, **options)
        self.parameters_manual_cast = False

    def forward(self, x):
        weight, bias = self.weight, self.bias
        if self.parameters_manual_cast:
            weight, bias = weight.to(x), bias.to(x)
        return self._conv_forward(x, weight, bias)


class Norm(nn.GroupNorm):
    parameters_manual_cast = False

    def __init__(self, *shape, **options):
        super().__init__(*shape, **options)
        self.parameters_manual_cast = False

    def forward(self, x):
        weight, bias = self.weight, self.bias
        if self.parameters_manual_cast:
            weight, bias = weight.to(x), bias.to(x)
        return nn.functional.group_norm(x, self.num_groups, weight, bias, self.eps)


class ResnetBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm1, self.conv1 = Norm(4, channels), Layer(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = Norm(4, channels), Layer(channels, channels, 3, padding=1)
        self.swish = nn.SiLU(inplace=True)

    def forward(self, x, temb=None):
        h = self.conv1(self.swish(self.norm1(x)))
        return x + self.conv2(self.swish(self.norm2(h)))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in, self.block, self.conv_out = Layer(3, 8, 4, 4), ResnetBlock(8), Layer(8, 8, 2, 2)

    def forward(self, x):
        h = modules["backend.nn.vae"].attention_function_single_head_spatial(self.block(self.conv_in(x)))
        return self.conv_out(h)


class IntegratedAutoencoderKL(nn.Module):
    scaling_factor, shift_factor = 0.5, 0.0

    def __init__(self):
        super().__init__()
        self.encoder, self.quant_conv = Encoder(), Layer(8, 8, 1)
        self.decoder = nn.Sequential(nn.Upsample(scale_factor=8), Layer(4, 3, 1))

    def encode(self, x):
        raise AssertionError("what the host offers here is a sample")

    def decode(self, latents):
        return torch.tanh(self.decoder(latents))

    def process_in(self, latents):
        return (latents - self.shift_factor) * self.scaling_factor

    def process_out(self, latents):
        return latents / self.scaling_factor + self.shift_factor


class BasicTransformerBlock(nn.Module):
    def __init__(self, channels, context):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.to_q, self.to_k = nn.Linear(channels, channels), nn.Linear(context, channels)

    def forward(self, x, context=None, transformer_options={}):  # noqa: B006
        n = self.norm1(x)
        x += n  # over the input that norm1 has saved
        n = self.norm2(x)
        x += modules["backend.nn.unet"].attention_function(self.to_q(n), self.to_k(context))
        return x


class ResBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.emb = Layer(channels, channels, 3, padding=1), nn.Linear(8, channels)

    def forward(self, x, emb, transformer_options={}):  # noqa: B006
        return x + torch.tanh(self.conv(x) + self.emb(emb)[:, :, None, None])


class IntegratedUNet2DConditionModel(nn.Module):
    channel_mult, in_channels = (1, 2), 4

    def __init__(self, adm=0):
        super().__init__()
        self.time_embed, self.label_emb = nn.Linear(1, 8), nn.Linear(adm, 8) if adm else None
        self.down, self.res, self.attention = Layer(4, 8, 3, stride=2, padding=1), ResBlock(8), None
        self.attention, self.up, self.out = BasicTransformerBlock(8, 5), nn.ConvTranspose2d(8, 8, 2, 2), Layer(8, 4, 1)

    def forward(self, x, timesteps, context=None, y=None, transformer_options={}, **_):  # noqa: B006
        transformer_options["block"] = ("input", 0)
        emb = self.time_embed(timesteps[:, None].to(x.dtype) / 1000)
        emb = emb if y is None else emb + self.label_emb(y)
        h = self.res(self.down(x), emb, transformer_options)
        tokens = self.attention(h.flatten(2).transpose(1, 2).contiguous(), context=context)
        h = self.up(tokens.transpose(1, 2).reshape(h.shape))
        return self.out(h) + 0.5 * x


class IntegratedFluxTransformer2DModel(nn.Module):
    """It writes over what it is given, and has no backward."""

    guidance_embed, in_channels = True, 16

    def __init__(self):
        super().__init__()
        self.img_in, self.txt_in, self.out = nn.Linear(16, 8), nn.Linear(5, 8), nn.Linear(8, 16)

    def forward(self, x, timestep, context, y, guidance=None, transformer_options={}, **_):  # noqa: B006
        assert torch.is_inference_mode_enabled(), "as in a generation"
        assert guidance is not None or not self.guidance_embed
        batch, channels, height, width = x.shape
        patches = nn.functional.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)
        h = self.img_in(patches)
        h += self.txt_in(context).mean(1, keepdim=True) + timestep.view(-1, 1, 1) + y.mean()
        out = self.out(h).transpose(1, 2).reshape(batch, 4 * channels, height // 2, width // 2)
        return nn.functional.pixel_shuffle(out, 2)


class PredictionFlux(nn.Module):
    prediction_type, sigma_data = "const", 1.0

    def __init__(self):
        super().__init__()
        self.register_buffer("sigmas", torch.arange(1, 10001) / 10000)

    def timestep(self, sigma):
        return sigma


class Prediction(nn.Module):
    sigma_data = 1.0

    def __init__(self, prediction_type="epsilon"):
        super().__init__()
        self.prediction_type = prediction_type
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alphas_cumprod = (1 - betas).cumprod(0)
        self.register_buffer("sigmas", ((1 - alphas_cumprod) / alphas_cumprod).sqrt().float())

    def timestep(self, sigma):
        return (sigma.log() - self.sigmas.log()[:, None]).abs().argmin(dim=0)


class KModel(nn.Module):
    def __init__(self, diffusion_model, predictor):
        super().__init__()
        self.diffusion_model, self.predictor = diffusion_model, predictor
        self.computation_dtype = torch.float32
        self.config = SimpleNamespace(unet_config={"in_channels": 4})

    def memory_required(self, input_shape):
        return 10.0 * input_shape[0] * input_shape[2] * input_shape[3]

    def apply_model(self, x, t, c_crossattn=None, transformer_options={}, **more):  # noqa: B006
        assert transformer_options is not KModel.apply_model.__defaults__[1], "that dict is shared by all calls"
        sigma = t.view(-1, 1, 1, 1)
        if self.predictor.prediction_type == "const":
            velocity = self.diffusion_model(x, self.predictor.timestep(t), c_crossattn, **more)
            return x - velocity * sigma
        scaled = (x / (sigma**2 + 1) ** 0.5).to(self.computation_dtype)
        more = {name: value.to(scaled) for name, value in more.items()}
        timestep = self.predictor.timestep(t).float()
        answer = self.diffusion_model(
            scaled, timestep, c_crossattn.to(scaled), transformer_options=transformer_options, **more
        )
        if self.predictor.prediction_type == "edm":
            return x / (sigma**2 + 1) + answer.float() * sigma / (sigma**2 + 1) ** 0.5
        if self.predictor.prediction_type == "v_prediction":
            return x / (sigma**2 + 1) - answer.float() * sigma / (sigma**2 + 1) ** 0.5
        return x - answer.float() * sigma


class Patcher:
    """`ModelPatcher`: a model with LoRAs; loading another patcher of the same model takes them off."""

    load_device = current_device = torch.device("cpu")

    def __init__(self, model, lora=0.0):
        self.model, self.lora, self.lora_patches = model, lora, {}

    def has_online_lora(self):
        return bool(self.lora_patches)


def load_models_gpu(patchers, memory_required=0):
    assert torch.is_inference_mode_enabled(), "weights are moved and merged in place"
    asked.append((patchers, memory_required))
    for patcher in patchers:
        if isinstance(patcher.model, KModel):
            weight = patcher.model.diffusion_model.out.weight
            if not hasattr(patcher.model, "original"):
                patcher.model.original = weight.clone()
            weight.copy_(patcher.model.original + patcher.lora)


class VAE:
    device, downscale_ratio, latent_channels = torch.device("cpu"), 8, 4

    def __init__(self, first_stage_model):
        self.first_stage_model, self.patcher = first_stage_model, Patcher(first_stage_model)


class Engine:
    """`ForgeDiffusionEngine` of a family ("sd1", "sd2v", "sdxl", or another)."""

    lora = 0.05

    def __init__(self, family="sd1", *, seed=0):
        self.is_inpaint = self.is_sd3 = False
        self.is_sd1, self.is_sd2, self.is_sdxl = family == "sd1", family == "sd2v", family == "sdxl"
        self.sd_checkpoint_info = SimpleNamespace(model_name=f"tiny-{family}")
        self.asked, self.clip_skip = [], None
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = IntegratedUNet2DConditionModel(adm=6 if family == "sdxl" else 0)
            predictor = Prediction("v_prediction" if family == "sd2v" else "epsilon")
            if family == "flux":
                unet, predictor = IntegratedFluxTransformer2DModel(), PredictionFlux()
            model, vae = KModel(unet, predictor), VAE(IntegratedAutoencoderKL().eval())
        self.forge_objects_original = SimpleNamespace(unet=Patcher(model), vae=vae, clip="clip")
        with_lora = SimpleNamespace(unet=Patcher(model, self.lora), vae=vae, clip="clip with LoRA")
        self.forge_objects = self.forge_objects_after_applying_lora = with_lora

    def set_clip_skip(self, layers):
        self.clip_skip = layers

    @torch.inference_mode()
    def get_learned_conditioning(self, prompts):
        modules["backend.text_processing.classic_engine"].last_extra_generation_params["Emphasis"] = "No norm"
        self.asked.append((list(prompts), prompts.width, prompts.height, self.forge_objects.clip))
        generator = torch.Generator().manual_seed(sum(prompts[0].encode()))
        context = torch.randn(1, 3, 5, generator=generator, device="cpu")
        parts = {"crossattn": context, "vector": context.flatten(1)[:, :6]}
        if isinstance(self.forge_objects.unet.model.predictor, PredictionFlux):
            return parts | {"guidance": torch.tensor([3.5])}
        return parts if self.is_sdxl else context


class FakeInitialModel:
    """What `shared.sd_model` is until a model is needed."""


def forge_model_reload():
    loads.append("asked")
    if isinstance(chosen[0], Exception):
        raise chosen[0]
    modules["modules.shared"].sd_model = chosen[0]
    return chosen[0], True


def _attention(q, k):
    return torch.softmax(q @ k.transpose(1, 2), dim=-1) @ k


def _own_attention(q, k):
    assert torch.is_inference_mode_enabled(), "the host's own attention, which need not have a backward"
    return _attention(q, k)


def _own_spatial_attention(*_):
    raise AssertionError("the host's own attention, which need not have a backward")


def _fake_modules():
    attention = {
        "attention_pytorch": _attention,
        "pytorch_attention_single_head_spatial": lambda h: h + torch.tanh(h),
    }
    move = lambda patches, **where: moved.append(where["device"])  # noqa: E731
    contents = {
        "modules": {},
        "modules.prompt_parser": {"SdConditioning": webui.SdConditioning},
        "modules.sd_models": {"forge_model_reload": forge_model_reload},
        "modules.shared": {"sd_model": FakeInitialModel(), "opts": SimpleNamespace(CLIP_stop_at_last_layers=2)},
        "modules_forge": {},
        "backend": {},
        "backend.attention": attention,
        "backend.memory_management": {"load_models_gpu": load_models_gpu},
        "backend.stream": {"stream_activated": True},
        "backend.utils": {"nested_move_to_device": move},
        "backend.modules": {},
        "backend.modules.k_prediction": {"Prediction": Prediction},
        "backend.nn": {},
        "backend.nn.unet": {
            "IntegratedUNet2DConditionModel": IntegratedUNet2DConditionModel,
            "attention_function": _own_attention,
        },
        "backend.nn.vae": {
            "IntegratedAutoencoderKL": IntegratedAutoencoderKL,
            "attention_function_single_head_spatial": _own_spatial_attention,
        },
        "backend.text_processing": {},
        "backend.text_processing.classic_engine": {"last_extra_generation_params": {}},
    }
    made = {name: new_module(name, values) for name, values in contents.items()}
    for name, module in made.items():
        parent, _, own = name.rpartition(".")
        module.__path__ = []
        if parent:
            setattr(made[parent], own, module)
    return made


asked, loads, moved = [], [], []
chosen = [None]
modules = _fake_modules()


@contextmanager
def installed():
    """`modules` and `backend` in sys.modules, as in Forge's process."""
    with webui.in_sys_modules(modules):
        yield


def adapter():
    """`mist_attack.hosts.forge`, bound to these fakes."""
    with installed():
        return importlib.import_module("mist_attack.hosts.forge")


def surrogate(model=None, **options):
    return adapter().ForgeSurrogate(model or Engine(), **options)
