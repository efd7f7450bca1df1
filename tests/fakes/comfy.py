"""The part of ComfyUI that the adapter calls, small enough to read: `install()` puts it into `sys.modules`.

It keeps what makes the real host hard: weights are inference tensors, everything happens in inference mode, and with
`streaming(model)` a layer's weight is a view of memory that the next layer reuses.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import cache
from types import ModuleType, SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

DEFAULT_SIGMAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()


# comfy.ops


class CastWeightBiasOp:
    comfy_cast_weights = False
    weight_function: list = []  # noqa: RUF012
    bias_function: list = []  # noqa: RUF012

    def forward(self, x):
        if self.comfy_cast_weights or self.weight_function or self.bias_function:
            weight, bias, stream = cast_bias_weight(self, x, offloadable=True)
            try:
                return self.compute(x, weight, bias)
            finally:
                uncast_bias_weight(self, weight, bias, stream)
        return self.compute(x, self.weight, self.bias)


class Linear(CastWeightBiasOp, nn.Linear):
    def compute(self, x, weight, bias):
        return F.linear(x, weight, bias)


class Conv2d(CastWeightBiasOp, nn.Conv2d):
    def compute(self, x, weight, bias):
        return self._conv_forward(x, weight, bias)


class Conv3d(CastWeightBiasOp, nn.Conv3d):
    def compute(self, x, weight, bias):
        return self._conv_forward(x, weight, bias)


class CausalConv3d(Conv3d):
    """Sees this frame and those before, so that its padding is not that of its class."""

    def __init__(self, *args):
        super().__init__(*args)
        self.before, self.padding = 2 * self.padding[0], (0, *self.padding[1:])

    def forward(self, x, cache=None):
        frames = [x.new_zeros(*x.shape[:2], self.before, *x.shape[3:]) if cache is None else cache, x]
        return super().forward(torch.cat(frames, 2))


class GroupNorm(CastWeightBiasOp, nn.GroupNorm):
    def compute(self, x, weight, bias):
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


class Quantised(torch.Tensor):
    """A weight whose layer also rounds its input, unless the weight has functions, as the newer hosts' layers do."""

    def dequantize(self):
        return self.as_subclass(torch.Tensor)


class QuantisedLinear(Linear):
    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features)
        self.weight = nn.Parameter(linear.weight.detach().as_subclass(Quantised), requires_grad=False)
        self.bias = linear.bias

    def compute(self, x, weight, bias):
        if type(weight) is Quantised:
            x, weight = (x * 8).round() / 8, weight.dequantize()
        return super().compute(x, weight, bias)


def cast_bias_weight(layer, input=None, dtype=None, device=None, offloadable=False):
    device, dtype = device or input.device, dtype or input.dtype
    weight, bias = layer.weight.to(device, dtype), layer.bias.to(device, dtype)
    if hasattr(layer, "_v"):
        weight, bias = layer._v.fetch(weight, 0), layer._v.fetch(bias, weight.numel())
    for function in layer.weight_function:
        weight = function(weight.dequantize() if type(weight) is Quantised else weight)
    return (weight, bias, None) if offloadable else (weight, bias)


def uncast_bias_weight(layer, weight, bias, stream):
    if hasattr(layer, "_v"):
        layer._v.released += 1


class Buffer:
    """Memory for one layer at a time: new tensors over old storage, so that no version counter betrays the reuse."""

    def __init__(self, numbers):
        with torch.inference_mode():
            self.memory = torch.zeros(numbers)
        self.released = 0

    def fetch(self, weight, offset):
        storage = self.memory.untyped_storage()
        with torch.no_grad():
            view = torch.empty(0).set_(storage, offset, weight.shape, weight.contiguous().stride())
            return view.copy_(weight)


@contextmanager
def streaming(*modules):
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, CastWeightBiasOp)]
    buffer = Buffer(max(layer.weight.numel() + layer.bias.numel() for layer in layers))
    for layer in layers:
        layer._v, layer.comfy_cast_weights = buffer, True
    try:
        yield buffer
    finally:
        for layer in layers:
            del layer._v, layer.comfy_cast_weights


# comfy.ldm


class AutoencodingEngine(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(Conv2d(3, 16, 4, 4), ResnetBlock(16), Conv2d(16, 8, 2, 2))
        self.quant_conv = Conv2d(8, 8, 1)
        self.decoder = nn.Sequential(nn.Upsample(scale_factor=8), Conv2d(4, 3, 1))

    def encode(self, x):
        return self.quant_conv(self.encoder(x)).chunk(2, dim=1)[0]

    def decode(self, latents):
        return self.decoder(latents)


class ResnetBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm, self.conv = GroupNorm(4, channels), Conv2d(channels, channels, 3, padding=1)
        self.optimized_attention = lambda *_: None  # stands for a kind that has no backward

    def forward(self, x):
        return x + self.conv(F.silu(self.norm(x)))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Sequential(Conv2d(channels, channels, 3, 1, 1), nn.ReLU(inplace=True))

    def forward(self, x):
        return F.relu(x + self.conv(x))


class TAESD(nn.Module):
    def __init__(self):
        super().__init__()
        self.taesd_encoder = nn.Sequential(Conv2d(3, 16, 4, 4), Block(16), Conv2d(16, 4, 2, 2))
        self.taesd_decoder = nn.Sequential(nn.Upsample(scale_factor=8), Conv2d(4, 3, 1))
        self.vae_scale, self.vae_shift = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.25))

    def encode(self, x):
        return self.taesd_encoder(x * 0.5 + 0.5) / self.vae_scale + self.vae_shift

    def decode(self, latents):
        return self.taesd_decoder((latents - self.vae_shift) * self.vae_scale) * 2 - 1


class ResidualBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))
        self.conv = CausalConv3d(channels, channels, 3, 1, 1)

    def forward(self, x, cache=None):
        before = None
        if cache is not None:
            before, cache[0] = cache[0], x
        return x + self.conv(F.silu(F.normalize(x, dim=1) * self.gamma.to(x)), before)


class Encoder3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.block = Conv2d(3, 32, 8, 8), ResidualBlock(32)

    def forward(self, x, cache=None):
        return self.block(self.down(x.squeeze(2)).unsqueeze(2), cache)


class WanVAE(nn.Module):
    """Its cache is written while it encodes: a block that is computed again finds its own frame as the one before."""

    def __init__(self):
        super().__init__()
        self.encoder, self.conv1 = Encoder3d(), CausalConv3d(32, 32, 1)
        self.conv2, self.decoder = CausalConv3d(16, 3, 1), nn.Upsample(scale_factor=(1, 8, 8))

    def encode(self, x):
        assert x.shape[2] == 1, "one frame"
        return self.conv1(self.encoder(x, [None])).chunk(2, dim=1)[0]

    def decode(self, latents):
        return self.decoder(self.conv2(latents))


class Wan21:
    """A latent format with the mean and deviation of each channel."""

    mean, deviation = torch.arange(16.0).view(1, 16, 1, 1, 1), 1 + torch.arange(16.0).view(1, 16, 1, 1, 1)

    def process_in(self, latents):
        return (latents - self.mean) / self.deviation

    def process_out(self, latents):
        return latents * self.deviation + self.mean


class ResBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm, self.conv, self.emb = (
            GroupNorm(4, channels),
            Conv2d(channels, channels, 3, padding=1),
            Linear(1, channels),
        )

    def forward(self, x, emb):
        return x + self.conv(F.silu(self.norm(x)) + self.emb(emb)[:, :, None, None])


class UNetModel(nn.Module):
    """Two levels, so that sides must be even; one attention over the prompt."""

    in_channels, dtype = 4, torch.float32

    def __init__(self):
        super().__init__()
        self.down, self.block, self.up = Conv2d(4, 16, 2, 2), ResBlock(16), Conv2d(16, 16, 1)
        self.query, self.key, self.value = Linear(16, 16), Linear(8, 16), Linear(8, 16)

    def forward(self, x, timesteps, context, transformer_options):
        h = self.block(self.down(x), timesteps[:, None].to(x.dtype) / 1000)
        flat = h.flatten(2).transpose(1, 2)
        attend = transformer_options.get("optimized_attention_override", _no_backward)
        attended = attend(None, self.query(flat), self.key(context), self.value(context), transformer_options={})
        h = self.up(h + attended.transpose(1, 2).view_as(h))
        return F.pixel_shuffle(h, 2)


def _no_backward(_, *qkv, transformer_options):
    assert torch.is_inference_mode_enabled(), "the host's own attention was used"
    return F.scaled_dot_product_attention(*qkv)


def attention_pytorch(q, k, v, **kwargs):
    assert kwargs["_inside_attn_wrapper"]
    return F.scaled_dot_product_attention(q, k, v)


# comfy.model_base, comfy.model_patcher, comfy.samplers


class BaseModel(nn.Module):
    manual_cast_dtype = None
    concat_keys = ()

    def __init__(self, kind):
        super().__init__()
        self.diffusion_model, self.model_type = UNetModel(), kind
        alphas = (1 - DEFAULT_SIGMAS).cumprod(0)
        self.model_sampling = EPS() if kind != ModelType.FLOW else CONST()
        self.model_sampling.sigmas = ((1 - alphas) / alphas).sqrt().float()
        if kind == ModelType.FLOW:
            self.model_sampling.sigmas = torch.arange(1, 1001) / 1000
        self.model_config = type("SD15", (), {"unet_config": {"channel_mult": [1, 2]}})()
        self.latent_format = SimpleNamespace(latent_channels=4, latent_dimensions=2, spacial_downscale_ratio=8)

    def get_dtype(self):
        return self.diffusion_model.dtype

    def process_latent_in(self, latents):
        return latents * 0.18215

    def process_latent_out(self, latents):
        return latents / 0.18215

    def memory_required(self, shape):
        return 1000.0 * shape[0] * shape[2] * shape[3]

    def apply_model(self, x, sigma, context, transformer_options):
        scale = (1 + sigma.view(-1, 1, 1, 1) ** 2).rsqrt() if self.model_type != ModelType.FLOW else 1
        timesteps = (sigma[:, None] - self.model_sampling.sigmas).abs().argmin(dim=1)
        dtype, context = self.get_dtype(), context.expand(len(x), -1, -1)
        answer = self.diffusion_model((x * scale).to(dtype), timesteps, context.to(dtype), transformer_options).float()
        if self.model_type == ModelType.V_PREDICTION:
            return x * scale**2 - answer * sigma.view(-1, 1, 1, 1) * scale
        return x - sigma.view(-1, 1, 1, 1) * answer


ModelType = SimpleNamespace(EPS=1, V_PREDICTION=2, FLOW=6)


class EPS(nn.Module):
    """Noise on top; the host's classes of v-prediction and EDM are this one's children."""

    sigma_data = 1.0


class CONST(nn.Module):
    """Rectified flow."""


class Patcher:
    load_device = torch.device("cpu")

    def __init__(self, model):
        self.model, self.model_options, self.wrappers, self.additional = model, {"transformer_options": {}}, {}, {}

    def clone(self):
        clone = Patcher(self.model)
        clone.load_device = self.load_device
        clone.model_options = {
            **self.model_options,
            "transformer_options": dict(self.model_options["transformer_options"]),
        }
        return clone

    def get_model_object(self, name):
        return getattr(self.model, name)

    def set_additional_models(self, key, models):
        self.additional[key] = models

    def add_wrapper_with_key(self, kind, key, wrapper):
        self.wrappers[kind] = wrapper


class CFGGuider:
    def __init__(self, patcher):
        self.patcher = patcher

    def inner_set_conds(self, conds):
        self.original_conds = conds

    def sample(self, noise, latent_image, sampler, sigmas, seed=None):
        model_management.load_models_gpu(
            [self.patcher, *self.patcher.additional.get("mist", [])], memory_required=_asked(self.patcher, noise.shape)
        )
        self.inner_model, noise = self.patcher.model, noise.to(self.patcher.load_device)
        self.conds = process_conds(self.inner_model, noise, self.original_conds, noise.device)
        try:
            return sampler.sample(
                self, sigmas, {"model_options": self.patcher.model_options, "seed": seed}, None, noise
            )
        finally:
            model_management.cleaned += 1

    def __call__(self, x, sigma, model_options, seed):
        context = self.conds["positive"][0]["cross_attn"]
        return self.inner_model.apply_model(x, sigma, context, model_options["transformer_options"])


def _asked(patcher, shape):
    def prepare(model, shape, conds):
        return model.model.memory_required(shape)

    return patcher.wrappers["prepare_sampling"](prepare, patcher, list(shape), None)


def process_conds(model, noise, conds, device, latent_image=None, denoise_mask=None, seed=None):
    return {
        name: [{**cond, "cross_attn": cond["cross_attn"].to(device)} for cond in value] for name, value in conds.items()
    }


class Sampler:
    pass


class CLIP:
    def tokenize(self, prompt):
        return prompt

    def encode_from_tokens_scheduled(self, prompt):
        generator = torch.Generator().manual_seed(sum(prompt.encode()))
        return [{"cross_attn": torch.randn(1, 5, 8, generator=generator)}]


class VAE:
    device, output_channels = torch.device("cpu"), 3

    def __init__(self, autoencoder=None):
        self.first_stage_model = autoencoder or AutoencodingEngine()
        self.latent_dim, self.latent_channels = (3, 16) if type(self.first_stage_model) is WanVAE else (2, 4)
        self.patcher = Patcher(self.first_stage_model)

    def process_input(self, images):
        return images * 2 - 1

    def process_output(self, images):
        return images.add_(1).div_(2).clamp_(0, 1)

    def spacial_compression_encode(self):
        return 8


model_management = SimpleNamespace(in_training=False, loaded=[], cleaned=0, free=2**40)
model_management.get_free_memory = lambda device: model_management.free
model_management.minimum_inference_memory = lambda: 2**30
model_management.load_models_gpu = lambda models, memory_required: model_management.loaded.append(
    (models, memory_required)
)


@torch.inference_mode()
def checkpoint(seed=0, kind=ModelType.EPS):
    """(model, clip, vae) as a loader hands them on: all weights are inference tensors."""
    torch.manual_seed(seed)
    return Patcher(BaseModel(kind).eval()), CLIP(), VAE(AutoencodingEngine().eval())


@torch.inference_mode()
def autoencoder(kind, seed=0):
    """A VAE of another kind, as Load VAE hands it on."""
    torch.manual_seed(seed)
    return VAE(kind().eval())


def install():
    """The fake as `comfy`: the same modules each time, as what has imported them keeps the ones that it got."""
    sys.modules.update(_modules())


@cache
def _modules():
    layers = {"CastWeightBiasOp": CastWeightBiasOp, "Linear": Linear, "Conv2d": Conv2d, "GroupNorm": GroupNorm}
    contents = {
        "comfy": {},
        "comfy.ops": layers | {"cast_bias_weight": cast_bias_weight, "uncast_bias_weight": uncast_bias_weight},
        "comfy.ldm": {},
        "comfy.ldm.models": {},
        "comfy.latent_formats": {"Wan21": Wan21},
        "comfy.ldm.models.autoencoder": {"AutoencodingEngine": AutoencodingEngine},
        "comfy.ldm.modules": {},
        "comfy.ldm.modules.attention": {"attention_pytorch": attention_pytorch},
        "comfy.ldm.modules.diffusionmodules": {},
        "comfy.ldm.modules.diffusionmodules.model": {"pytorch_attention": F.scaled_dot_product_attention},
        "comfy.ldm.modules.diffusionmodules.openaimodel": {"UNetModel": UNetModel},
        "comfy.model_base": {"ModelType": ModelType},
        "comfy.model_sampling": {"EPS": EPS, "CONST": CONST},
        "comfy.model_management": vars(model_management),
        "comfy.patcher_extension": {"WrappersMP": SimpleNamespace(PREPARE_SAMPLING="prepare_sampling")},
        "comfy.sampler_helpers": {"convert_cond": lambda cond: cond},
        "comfy.samplers": {"CFGGuider": CFGGuider, "Sampler": Sampler, "process_conds": process_conds},
    }
    contents["comfy.ops"]["disable_weight_init"] = SimpleNamespace(
        Linear=Linear, Conv2d=Conv2d, Conv3d=Conv3d, GroupNorm=GroupNorm
    )
    made = {name: ModuleType(name) for name in contents}
    for name, module in made.items():
        vars(module).update(contents[name])
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
    own = (ResnetBlock, ResBlock, UNetModel, Linear, Conv2d, Conv3d, CausalConv3d, GroupNorm)
    for kind in (*own, Quantised, QuantisedLinear, Block, ResidualBlock, Encoder3d):
        kind.__module__ = "comfy.fake"  # the adapter vouches for the host's own layers alone
    AutoencodingEngine.__module__ = "comfy.ldm.models.autoencoder"
    WanVAE.__module__, TAESD.__module__ = "comfy.ldm.wan.vae", "comfy.taesd.taesd"
    return made
