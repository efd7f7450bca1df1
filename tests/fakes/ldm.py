"""Checkpoints in Stable Diffusion v1's original (LDM) key layout, made from diffusers' modules of the same topology.

The inverse of what the adapter asks of diffusers, written from the two layouts' definitions and not from its code.
"""

from __future__ import annotations

import json
import re

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from mist_attack.hosts.headless.diffusers import SD_V1

UNET_INNER = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    **{
        f"down_blocks.{i}.{part}.{j}": f"input_blocks.{3 * i + j + 1}.{place}"
        for i in range(4)
        for j in range(2)
        for place, part in enumerate(("resnets", "attentions"))
    },
    **{f"down_blocks.{i}.downsamplers.0.conv": f"input_blocks.{3 * i + 3}.0.op" for i in range(3)},
    **{
        f"up_blocks.{i}.{part}.{j}": f"output_blocks.{3 * i + j}.{place}"
        for i in range(4)
        for j in range(3)
        for place, part in enumerate(("resnets", "attentions"))
    },
    **{f"up_blocks.{i}.upsamplers.0.conv": f"output_blocks.{3 * i + 2}.{1 if i == 0 else 2}.conv" for i in range(3)},
}
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


def write_tiny_config(folder):
    """A config folder like `SD_V1` with its topology and narrow layers."""
    narrow = {
        "unet": {"block_out_channels": [16, 24, 32, 32], "cross_attention_dim": 32, "norm_num_groups": 8},
        "vae": {"block_out_channels": [16, 16, 24, 32], "norm_num_groups": 8},
        "text_encoder": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2},
        "scheduler": {},
    }
    for part, changes in narrow.items():
        [original] = (SD_V1 / part).iterdir()
        (folder / part).mkdir(parents=True)
        config = json.loads(original.read_text()) | changes
        (folder / part / original.name).write_text(json.dumps(config))
    return folder


def new_modules(config, device="cpu"):
    """UNet, autoencoder and text encoder of a config folder, with random weights."""
    read = {part.name: json.loads(next(part.iterdir()).read_text()) for part in config.iterdir()}
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(read["unet"])
        vae = AutoencoderKL.from_config(read["vae"])
        text = CLIPTextModel(CLIPTextConfig(**read["text_encoder"]))
    return unet.eval(), vae.eval(), text.eval()


def to_ldm(unet, vae, text):
    """One state dict with the original layout's names and shapes."""
    tensors = {f"model.diffusion_model.{_unet_name(k)}": v for k, v in unet.state_dict().items()}
    for key, tensor in vae.state_dict().items():
        is_attention_weight = "attentions" in key and tensor.ndim == 2
        tensors[f"first_stage_model.{_vae_name(key)}"] = tensor[:, :, None, None] if is_attention_weight else tensor
    for key, tensor in text.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = tensor
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def _unet_name(key):
    outer = next((old for old in UNET_OUTER if key.startswith(old + ".")), None)
    rest = key.removeprefix(outer)
    if ".resnets." in key or outer.startswith("mid_block.resnets"):
        rest = re.sub(r"\b(" + "|".join(UNET_INNER) + r")\b", lambda found: UNET_INNER[found[1]], rest)
    return UNET_OUTER[outer] + rest


def _vae_name(key):
    outer = next((old for old in VAE_OUTER if key.startswith(old + ".")), "")
    rest = key.removeprefix(outer)
    for old, new in VAE_INNER.items():
        rest = rest.replace(f".{old}.", f".{new}.")
    return VAE_OUTER.get(outer, "") + rest
