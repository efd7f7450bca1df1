"""The part of AUTOMATIC1111's `modules` that the adapter calls, and a small model in ldm's shape.

Written from the real web UI (v1.10.1); `tests/host/webui` runs the same adapter in the real one.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from contextlib import contextmanager, nullcontext
from types import ModuleType, SimpleNamespace

import torch
from torch import nn


class ResnetBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, temb=None):
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        return x + self.conv2(nn.functional.silu(self.norm2(h)))


class AttnBlock(nn.Module):
    """As the real one, it hands on what looks like channels-last: tokens seen as a picture."""

    def __init__(self, channels):
        super().__init__()
        self.out = nn.Linear(channels, channels)

    def forward(self, x):
        tokens = self.out(x.flatten(2).transpose(1, 2).contiguous())
        return x + tokens.transpose(1, 2).reshape(x.shape)


class Encoder(nn.Module):
    num_resolutions = 4

    def __init__(self):
        super().__init__()
        self.conv_in, self.block_1, self.attn = nn.Conv2d(3, 8, 4, 4), ResnetBlock(8), AttnBlock(8)
        self.block_2, self.conv_out = ResnetBlock(8), nn.Conv2d(8, 8, 2, 2)

    def forward(self, x):
        return self.conv_out(self.block_2(self.attn(self.block_1(self.conv_in(x)))))


class FirstStage(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.quant_conv = Encoder(), nn.Conv2d(8, 8, 1)
        self.decoder = nn.ConvTranspose2d(4, 3, 8, 8)

    def encode(self, x):
        raise AssertionError("what the host offers here is a sample")

    def decode(self, latents):
        return torch.tanh(self.decoder(latents))


class CrossAttention(nn.Module):
    def __init__(self, channels, context):
        super().__init__()
        self.to_q, self.to_k = nn.Linear(channels, channels), nn.Linear(context, channels)

    def forward(self, x, context):
        keys = self.to_k(context)
        return torch.softmax(self.to_q(x) @ keys.transpose(1, 2), dim=-1) @ keys


class BasicTransformerBlock(nn.Module):
    checkpoint = True

    def __init__(self, channels, context):
        super().__init__()
        self.checkpoint, self.attn2 = True, CrossAttention(channels, context)

    def forward(self, x, context):
        assert not self.checkpoint, "the host's own checkpointing is reentrant"
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        return x + self.attn2(tokens, context).transpose(1, 2).view(batch, channels, height, width)


class ResBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.emb = nn.Conv2d(channels, channels, 3, padding=1), nn.Linear(8, channels)

    def forward(self, x, emb):
        return x + torch.tanh(self.conv(x) + self.emb(emb)[:, :, None, None])


class Block(nn.Module):
    """`TimestepEmbedSequential`: what --lowvram sends to the device and away."""

    def __init__(self, first, context=None):
        super().__init__()
        self.first, self.res = first, ResBlock(8)
        self.attention = BasicTransformerBlock(8, context) if context else None

    def forward(self, x, emb, context):
        x = self.res(self.first(x), emb)
        return self.attention(x, context=context) if self.attention else x


class UNet(nn.Module):
    channel_mult = (1, 2)

    def __init__(self, adm=0):
        super().__init__()
        self.adm, self.time_embed = adm, nn.Linear(1, 8)
        self.label_emb = nn.Linear(6, 8) if adm else None
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(4, 8, 3, stride=2, padding=1), context=5)])
        self.middle_block = Block(nn.Identity(), context=5)
        self.output_blocks = nn.ModuleList([Block(nn.ConvTranspose2d(8, 8, 2, 2))])
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x, timesteps, context, y=None):
        emb = self.time_embed((timesteps.float()[:, None] / 1000).to(x.dtype))
        emb = emb + self.label_emb(y) if self.adm else emb
        h = self.input_blocks[0](x, emb, context)
        h = self.middle_block(h, emb, context)
        return self.out(self.output_blocks[0](h, emb, context)) + 0.5 * x


class MMDiT(nn.Module):
    patch_size = 2

    def __init__(self):
        super().__init__()
        self.img_in, self.block, self.out = nn.Linear(16, 8), JointBlock(), nn.Linear(8, 16)
        self.context_embedder, self.y_embedder = nn.Linear(5, 8), nn.Linear(6, 8)

    def forward(self, x, t, context, y):
        tokens = self.img_in(nn.functional.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2))
        vector = self.y_embedder(y)[:, None] + (t.view(-1, 1, 1) / 1000).to(x.dtype)
        tokens = self.block(self.context_embedder(context), tokens, c=vector)
        grid = self.out(tokens).transpose(1, 2).reshape(len(x), 16, x.shape[2] // 2, x.shape[3] // 2)
        return nn.functional.pixel_shuffle(grid, 2)


class JointBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, context, x, c):
        return x + torch.tanh(self.mix(x + context.mean(1, keepdim=True) + c))


class FlowSampling(nn.Module):
    """The host's `ModelSamplingDiscreteFlow`."""

    def __init__(self, shift=3.0):
        super().__init__()
        self.shift = shift
        self.register_buffer("sigmas", self.sigma(torch.arange(1, 1001)))

    def sigma(self, timestep):
        timestep = timestep / 1000.0
        return self.shift * timestep / (1 + (self.shift - 1) * timestep)


class SD3(nn.Module):
    """The host's `BaseModel` of SD3."""

    def __init__(self):
        super().__init__()
        self.diffusion_model, self.model_sampling = MMDiT(), FlowSampling()

    def forward(self, x, sigma, c_crossattn, y):
        dtype = self.diffusion_model.out.weight.dtype
        velocity = self.diffusion_model(x.to(dtype), sigma * 1000, context=c_crossattn.to(dtype), y=y.to(dtype))
        return x - velocity.float() * sigma.view(-1, 1, 1, 1)


class Model(nn.Module):
    """`LatentDiffusion` ("sd1", "sd2v"), `DiffusionEngine` ("sdxl") or `SD3Inferencer`, as the adapter sees it."""

    def __init__(self, family="sd1", *, conditioning_key="crossattn", seed=0):
        super().__init__()
        self.family, self.lowvram, self.scale_factor = family, False, 0.18215
        self.is_sd1, self.is_sd2, self.is_sdxl, self.is_sd3 = (family == f for f in ("sd1", "sd2v", "sdxl", "sd3"))
        self.is_sdxl_inpaint, self.parameterization = False, "v" if family == "sd2v" else "eps"
        self.sd_checkpoint_info = SimpleNamespace(model_name=f"tiny-{family}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first_stage_model, self.model = FirstStage(), nn.Module()
            if self.is_sd3:
                self.model = SD3()
                process_in, process_out = (lambda z: (z - 0.5) * 2), (lambda z: z / 2 + 0.5)
                self.latent_format = SimpleNamespace(process_in=process_in, process_out=process_out)
            else:
                self.model.diffusion_model = UNet(adm=6 if family == "sdxl" else 0)
        self.model.conditioning_key = conditioning_key
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.alphas_cumprod_original = (1 - betas).cumprod(0).float()
        self.alphas_cumprod = self.alphas_cumprod_original.half()  # as an option of the web UI leaves it
        self.asked = []
        self.eval()
        for parameter in self.first_stage_model.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def encode_first_stage(self, x):
        raise AssertionError("the host allows no gradient here")

    def apply_model(self, x, t, cond):
        if self.is_sd3:
            return self.model(x, t, c_crossattn=cond["crossattn"], y=cond["vector"])
        if self.family == "sdxl":
            context, y = cond["crossattn"], cond["vector"]
        else:
            (context,), y = cond["c_crossattn"], None  # a bare tensor is not cast by the host's hijack
        for name in cond:
            cond[name] = None  # the hijack writes into the dict it is given
        dtype = self.model.diffusion_model.out.weight.dtype
        context, y = context.to(dtype), None if y is None else y.to(dtype)
        return self.model.diffusion_model(x.to(dtype), t, context, y)

    def get_learned_conditioning(self, prompts):
        modules["sd_hijack"].model_hijack.extra_generation_params["Emphasis"] = "No norm"
        self.asked.append((list(prompts), prompts.width, prompts.height))
        generator = torch.Generator().manual_seed(sum(prompts[0].encode()))
        device = self.model.diffusion_model.out.weight.device
        context = torch.randn(1, 3, 5, generator=generator, device="cpu").to(device)
        parts = {"crossattn": context, "vector": context.flatten(1)[:, :6]}
        return parts if self.is_sdxl or self.is_sd3 else context


class SdConditioning(list):
    def __init__(self, prompts, width=None, height=None):
        super().__init__(prompts)
        self.width, self.height = width, height


class Hijack:
    def __init__(self):
        self.extra_generation_params, self.comments, self.circular_enabled = {}, [], False

    def apply_circular(self, enable):
        self.circular_enabled = enable


def _sdp(self, x, context):
    keys = self.to_k(context)
    return nn.functional.scaled_dot_product_attention(self.to_q(x), keys, keys, scale=1.0)


class SdOptimizationSdp:
    name = "sdp"

    def apply(self):
        CrossAttention.forward = _sdp


def _fake_modules():
    package = SimpleNamespace(
        modules=SimpleNamespace(
            attention=SimpleNamespace(CrossAttention=CrossAttention),
            diffusionmodules=SimpleNamespace(model=SimpleNamespace(AttnBlock=AttnBlock)),
        )
    )
    contents = {
        "devices": {
            "device": torch.device("cpu"),
            "autocast": nullcontext,
            "without_autocast": nullcontext,
            "torch_gc": lambda: None,
        },
        "extra_networks": {"activate": lambda p, data: activated.append(data)},
        "processing": {"StableDiffusionProcessingTxt2Img": SimpleNamespace},
        "prompt_parser": {"SdConditioning": SdConditioning},
        "sd_hijack": {"model_hijack": Hijack(), "current_optimizer": None, "ldm": package, "sgm": package},
        "sd_hijack_optimizations": {"SdOptimizationSdp": SdOptimizationSdp},
        "sd_models": {"send_model_to_device": lambda model: None},
        "sd_unet": {"current_unet": None, "apply_unet": lambda option=None: None},
        "sd_vae_taesd": {"encoder_model": None, "download_model": None},
        "shared": {"sd_model": None},
    }
    return {name: new_module(f"modules.{name}", values) for name, values in contents.items()}


def new_module(name, values):
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(values)
    return module


activated = []
modules = _fake_modules()


@contextmanager
def in_sys_modules(names):
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@contextmanager
def installed(**more):
    """`modules` in sys.modules, as in the web UI's process."""
    inside = modules | more
    root = new_module("modules", inside)
    root.__path__ = []
    with in_sys_modules({"modules": root} | {f"modules.{name}": module for name, module in inside.items()}):
        yield


def adapter():
    """`mist_attack.hosts.webui`, bound to these fakes."""
    with installed():
        return importlib.import_module("mist_attack.hosts.webui")


def surrogate(model=None, **options):
    return adapter().WebuiSurrogate(model or Model(), **options)
