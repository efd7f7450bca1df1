"""Checkpoints in the original (LDM) key layout of Stable Diffusion 1, 2 and XL, made from diffusers' modules.

The inverse of what the adapter asks of diffusers, written from the two layouts' definitions and not from its code.
"""

from __future__ import annotations

import json
import re

import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig

from mist_attack.hosts.headless.diffusers import SD_V1

UNET_INNER = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def unet_outer(unet):
    """Parts of diffusers' UNet -> of the original, in which blocks are counted through."""
    levels = len(unet.config.block_out_channels)
    found = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for i in range(levels):
        last = 2 if "CrossAttn" in unet.config.up_block_types[i] else 1
        found[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{3 * i + 3}.0.op"
        found[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{3 * i + 2}.{last}.conv"
        for place, part in enumerate(("resnets", "attentions")):
            found |= {f"down_blocks.{i}.{part}.{j}": f"input_blocks.{3 * i + j + 1}.{place}" for j in range(2)}
            found |= {f"up_blocks.{i}.{part}.{j}": f"output_blocks.{3 * i + j}.{place}" for j in range(3)}
    return found


VAE_OUTER = {
    "encoder.conv_norm_out": "encoder.norm_out",
    "decoder.conv_norm_out": "decoder.norm_out",
    **{
        f"{side}.mid_block.{part}": f"{side}.mid.{new}"
        for side in ("encoder", "decoder")
        for part, new in {"resnets.0": "block_1", "resnets.1": "block_2", "attentions.0": "attn_1"}.items()
    },
    **{f"encoder.down_blocks.{i}.resnets.{j}": f"encoder.down.{i}.block.{j}" for i in range(4) for j in range(2)},
    **{f"encoder.down_blocks.{i}.downsamplers.0": f"encoder.down.{i}.downsample" for i in range(3)},
    **{f"decoder.up_blocks.{i}.resnets.{j}": f"decoder.up.{3 - i}.block.{j}" for i in range(4) for j in range(3)},
    **{f"decoder.up_blocks.{i}.upsamplers.0": f"decoder.up.{3 - i}.upsample" for i in range(3)},
}
VAE_INNER = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


NARROW = {
    "unet": {"block_out_channels": [16, 24, 32, 32], "cross_attention_dim": 32, "norm_num_groups": 8},
    "vae": {"block_out_channels": [16, 16, 24, 32], "norm_num_groups": 8},
    "text_encoder": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2},
    "scheduler": {},
}
SIZES = {
    "sd_v1": {},
    "sd_v2": {"unet": {"attention_head_dim": [2, 2, 4, 4]}},
    "sd_xl": {
        "unet": {
            "block_out_channels": [16, 24, 32],
            "attention_head_dim": [2, 2, 4],
            "cross_attention_dim": 64,
            "transformer_layers_per_block": [1, 1, 2],
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 32 + 6 * 8,
        },
        "text_encoder_2": {**NARROW["text_encoder"], "projection_dim": 32},
    },
}


def write_tiny_config(folder, kind="sd_v1"):
    """A config folder like the published one, with its topology and narrow layers."""
    for original in sorted((SD_V1.parent / kind).glob("*/*.json")):
        part = original.parent.name
        (folder / part).mkdir(parents=True)
        changes = NARROW.get(part, {}) | SIZES[kind].get(part, {})
        (folder / part / original.name).write_text(json.dumps(json.loads(original.read_text()) | changes))
    return folder


def new_modules(config, device="cpu"):
    """UNet, autoencoder and text encoders of a config folder, with random weights."""
    read = {part.name: json.loads(next(part.iterdir()).read_text()) for part in sorted(config.iterdir())}
    texts = [settings for part, settings in read.items() if part.startswith("text_encoder")]
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(read["unet"])
        vae = AutoencoderKL.from_config(read["vae"])
        encoders = [
            getattr(transformers, settings["architectures"][0])(CLIPTextConfig(**settings)) for settings in texts
        ]
    return unet.eval(), vae.eval(), *(text.eval() for text in encoders)


def to_ldm(unet, vae, text, text_2=None):
    """One state dict with the original layout's names and shapes."""
    outer = unet_outer(unet)
    tensors = {f"model.diffusion_model.{_unet_name(k, outer)}": v for k, v in unet.state_dict().items()}
    for key, tensor in vae.state_dict().items():
        is_attention_weight = "attentions" in key and tensor.ndim == 2
        tensors[f"first_stage_model.{_vae_name(key)}"] = tensor[:, :, None, None] if is_attention_weight else tensor
    is_open = text_2 is None and text.config.hidden_act == "gelu"  # Stable Diffusion 2's
    if is_open:
        tensors |= open_clip(text, "cond_stage_model.model.")
    else:
        prefix = "cond_stage_model.transformer." if text_2 is None else "conditioner.embedders.0.transformer."
        for key, tensor in text.state_dict().items():
            tensors[f"{prefix}text_model.{key.removeprefix('text_model.')}"] = tensor
    if text_2 is not None:
        tensors |= open_clip(text_2, "conditioner.embedders.1.model.")
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def open_clip(text, prefix):
    """OpenCLIP's layout: queries, keys and values in one matrix, the projection the other way round."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in text.state_dict().items()}
    found = {new: state[old] for old, new in OPEN_CLIP.items()}
    if "text_projection.weight" in state:
        found["text_projection"] = state["text_projection.weight"].T
    for i in range(text.config.num_hidden_layers):
        layer, block = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            found |= {f"{block}{new}.{kind}": state[f"{layer}{old}.{kind}"] for old, new in OPEN_CLIP_LAYER.items()}
            parts = [state[f"{layer}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{block}attn.in_proj_{kind}"] = torch.cat(parts)
    return {prefix + key: tensor for key, tensor in found.items()}


def _unet_name(key, outer):
    place = next(old for old in outer if key.startswith(old + "."))
    rest = key.removeprefix(place)
    if ".resnets." in key or place.startswith("mid_block.resnets"):
        rest = re.sub(r"\b(" + "|".join(UNET_INNER) + r")\b", lambda found: UNET_INNER[found[1]], rest)
    return outer[place] + rest


def _vae_name(key):
    outer = next((old for old in VAE_OUTER if key.startswith(old + ".")), "")
    rest = key.removeprefix(outer)
    for old, new in VAE_INNER.items():
        rest = rest.replace(f".{old}.", f".{new}.")
    return VAE_OUTER.get(outer, "") + rest
