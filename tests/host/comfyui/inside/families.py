"""A small model of each family, by the host's own classes, loader and sampling, with random weights: made here.

`by_detection`: the host's detection takes the small one. Else it fixes widths (its loader makes a model of the full
width, whatever the file holds), and is told the small widths.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

import autoencoders
import comfy.model_detection
import comfy.model_management
import comfy.sd
import comfy.supported_models
import pytest
import torch
from models import autoencoder

FLUX = {
    "image_model": "flux",
    "axes_dim": [16, 56, 56],
    "num_heads": 1,
    "mlp_ratio": 4.0,
    "theta": 10000,
    "out_channels": 16,
    "qkv_bias": True,
    "in_channels": 16,
    "hidden_size": 128,
    "context_in_dim": 64,
    "patch_size": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "vec_in_dim": 32,
    "txt_ids_dims": [],
}
CHROMA = FLUX | {"image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 128}
LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "cap_feat_dim": 64,
    "n_layers": 1,
    "qk_norm": True,
    "n_heads": 1,
    "n_kv_heads": 1,
    "axes_lens": [300, 512, 512],
}
COSMOS = {
    "in_channels": 16,
    "out_channels": 16,
    "model_channels": 128,
    "num_blocks": 1,
    "num_heads": 1,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 1024,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "min_fps": 1,
    "max_fps": 30,
    "use_adaln_lora": True,
    "adaln_lora_dim": 32,
    "extra_per_block_abs_pos_emb": False,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
    "extra_h_extrapolation_ratio": 1.0,
    "extra_w_extrapolation_ratio": 1.0,
    "extra_t_extrapolation_ratio": 1.0,
    "rope_enable_fps_modulation": False,
}


@dataclass(frozen=True, kw_only=True)
class Family:
    label: str
    """What people call it."""
    kind: str
    """Of comfy.supported_models."""
    config: dict
    vae: str
    text: int
    """Width of the text encoder's output, per token."""
    more: dict = field(default_factory=dict)
    """name -> shape: what else its conditioning holds."""
    by_detection: bool = True


FAMILIES = {
    "sd3": Family(
        label="Stable Diffusion 3",
        kind="SD3",
        config={
            "in_channels": 16,
            "out_channels": 16,
            "patch_size": 2,
            "depth": 2,
            "input_size": None,
            "adm_in_channels": 2048,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 64, "out_features": 128},
            },
            "num_patches": 256,
            "pos_embed_max_size": 16,
            "pos_embed_scaling_factor": None,
            "qk_norm": "rms",
            "x_block_self_attn_layers": [],
        },
        vae="taesd3",
        text=64,
        more={"pooled_output": (1, 2048)},
    ),
    "flux": Family(
        label="Flux dev",
        kind="Flux",
        config=FLUX | {"guidance_embed": True},
        vae="taef1",
        text=64,
        more={"pooled_output": (1, 32)},
    ),
    "flux-schnell": Family(
        label="Flux schnell",
        kind="FluxSchnell",
        config=FLUX | {"guidance_embed": False},
        vae="taef1",
        text=64,
        more={"pooled_output": (1, 32)},
    ),
    "flux2": Family(
        label="Flux 2",
        kind="Flux2",
        config=FLUX
        | {
            "image_model": "flux2",
            "axes_dim": [32, 32, 32, 32],
            "mlp_ratio": 3.0,
            "theta": 2000,
            "out_channels": 128,
            "in_channels": 128,
            "patch_size": 1,
            "global_modulation": True,
            "mlp_silu_act": True,
            "qkv_bias": False,
            "ops_bias": False,
            "default_ref_method": "index",
            "txt_ids_dims": [3],
            "vec_in_dim": None,
            "guidance_embed": True,
        },
        vae="taef2",
        text=64,
    ),
    "z-image": Family(
        label="Z-Image",
        kind="ZImage",
        config=LUMINA
        | {
            "dim": 256,
            "n_heads": 2,
            "n_kv_heads": 2,
            "axes_dims": [32, 48, 48],
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 8 / 3,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        },
        vae="taef1",
        text=64,
        more={"attention_mask": (1, 7)},
        by_detection=False,
    ),
    "lumina2": Family(
        label="Lumina 2",
        kind="Lumina2",
        config=LUMINA | {"dim": 96, "axes_dims": [32, 32, 32], "rope_theta": 10000.0, "ffn_dim_multiplier": 4.0},
        vae="taef1",
        text=64,
        more={"attention_mask": (1, 7)},
        by_detection=False,
    ),
    "qwen-image": Family(
        label="Qwen-Image",
        kind="QwenImage",
        config={
            "image_model": "qwen_image",
            "in_channels": 64,
            "num_layers": 1,
            "num_attention_heads": 1,
            "joint_attention_dim": 64,
        },
        vae="wan21",
        text=64,
        by_detection=False,
    ),
    "chroma": Family(
        label="Chroma",
        kind="Chroma",
        config=CHROMA | {"hidden_dim": 64, "n_layers": 1, "vec_in_dim": None},
        vae="taef1",
        text=64,
        more={"pooled_output": (1, 32)},
        by_detection=False,
    ),
    "hidream": Family(
        label="HiDream I1",
        kind="HiDream",
        config={
            "image_model": "hidream",
            "attention_head_dim": 128,
            "axes_dims_rope": [64, 32, 32],
            "caption_channels": [64, 64],
            "max_resolution": [128, 128],
            "in_channels": 16,
            "out_channels": 16,
            "llama_layers": [0, 1],
            "num_attention_heads": 1,
            "num_routed_experts": 4,
            "num_activated_experts": 2,
            "num_layers": 1,
            "num_single_layers": 1,
            "patch_size": 2,
            "text_emb_dim": 32,
        },
        vae="taef1",
        text=64,
        more={"pooled_output": (1, 32), "conditioning_llama3": (1, 2, 7, 64)},
        by_detection=False,
    ),
    "anima": Family(
        label="Anima",
        kind="Anima",
        config=COSMOS | {"image_model": "anima"},
        vae="wan21",
        text=1024,
        by_detection=False,
    ),
    "krea2": Family(
        label="Krea 2",
        kind="Krea2",
        config={
            "image_model": "krea2",
            "features": 128,
            "channels": 16,
            "patch": 2,
            "layers": 1,
            "heads": 1,
            "kvheads": 1,
            "txtlayers": 2,
            "txtdim": 320,
        },
        vae="wan21",
        text=640,
    ),
    "wan21": Family(
        label="Wan 2.1, one frame",
        kind="WAN21_T2V",
        config={
            "image_model": "wan2.1",
            "model_type": "t2v",
            "dim": 128,
            "out_dim": 16,
            "num_heads": 1,
            "ffn_dim": 128,
            "num_layers": 1,
            "patch_size": (1, 2, 2),
            "freq_dim": 256,
            "window_size": (-1, -1),
            "qk_norm": True,
            "cross_attn_norm": True,
            "eps": 1e-6,
            "in_dim": 16,
        },
        vae="wan21",
        text=4096,
    ),
    "cosmos-predict2": Family(
        label="Cosmos Predict 2",
        kind="CosmosT2IPredict2",
        config=COSMOS | {"image_model": "cosmos_predict2"},
        vae="wan21",
        text=1024,
        by_detection=False,
    ),
}
KNOWN = [
    name
    for name, family in FAMILIES.items()
    if hasattr(comfy.supported_models, family.kind) and family.vae in autoencoders.FAMILIES
]
"""Those of this host."""


@cache
def model(name):
    """A MODEL in float32, as the host's loader gives it; the same one each time."""
    return loaded(name)[0]


@cache
def loaded(name):
    """The MODEL, and whether the host's own detection took the small one: older hosts fix more widths."""
    family = FAMILIES[name]
    kind = getattr(comfy.supported_models, family.kind)
    config, module = _accepted(kind, family.config)
    state = randomised(module)
    if family.by_detection:
        with suppress(RuntimeError):
            return _load(state, kind), True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.model_detection, "model_config_from_unet", lambda *_, **__: kind(dict(config)))
        return _load(state, kind), False


def _load(state, kind):
    made = comfy.sd.load_diffusion_model_state_dict(dict(state), model_options={"dtype": torch.float32})
    assert type(made.model.model_config) is kind
    return made


def _accepted(kind, config):
    """The configuration without what older hosts' classes do not know, and the module."""
    while True:
        try:
            return config, new_module(kind, config)
        except TypeError as error:
            unknown = str(error).rpartition("argument '")[2].rstrip("'")
            if unknown not in config:
                raise
            config = {name: value for name, value in config.items() if name != unknown}


def new_module(kind, config):
    settings = kind(dict(config))
    settings.set_inference_dtype(torch.float32, None)
    return settings.get_model({}, "").diffusion_model


@torch.no_grad()
def randomised(module):
    """Its state, every weight drawn anew: those of residual branches too, which a model begins with as zeros."""
    torch.manual_seed(0)
    state = {}
    for name, value in module.state_dict().items():
        if value.is_floating_point() and value.numel():
            fan = value[0].numel() if value.ndim >= 2 else 25
            value = torch.randn(value.shape) / fan**0.5 + (value.ndim < 2 and "norm" in name)
        state[name] = value
    return state


def vae(name):
    made = FAMILIES[name].vae
    return autoencoders.vae(made) if made in autoencoders.FAMILIES else autoencoder(made)


def conditioning(name, seed=0):
    """Random, of the family's shape: none of them has a text encoder here."""
    family, generator = FAMILIES[name], torch.Generator().manual_seed(seed)
    more = {key: torch.randn(shape, generator=generator) for key, shape in family.more.items()}
    more |= {key: torch.ones(value.shape, dtype=torch.long) for key, value in more.items() if key == "attention_mask"}
    return [[torch.randn(1, 7, family.text, generator=generator), more]]
