"""Small random-weight checkpoints of each family, with the yaml that the web UI reads beside them.

Run by the host's own Python, which has the model classes: `python checkpoints.py WEBUI_DIR DATA_DIR`.
"""

from __future__ import annotations

import copy
import gzip
import json
import sys
from pathlib import Path

CLIP = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
}
OPEN_CLIP = "ViT-S-32-alt"  # text width 256
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 64,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 2, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 1, 2, 2],
    "num_heads": 4,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 64,
    "use_checkpoint": False,
    "legacy": False,
}
UNET_XL = {
    **{key: value for key, value in UNET.items() if key not in ("image_size", "num_heads")},
    "attention_resolutions": [4, 2],
    "channel_mult": [1, 1, 2],
    "num_head_channels": 16,
    "use_linear_in_transformer": True,
    "transformer_depth": [1, 1, 1],
    "context_dim": 320,
    "adm_in_channels": 640,
    "num_classes": "sequential",
    "spatial_transformer_attn_type": "softmax",
}


def ldm_config(unet, conditioner, **params):
    return {
        "model": {
            "base_learning_rate": 1e-4,
            "target": params.pop("target", "ldm.models.diffusion.ddpm.LatentDiffusion"),
            "params": {
                "linear_start": 0.00085,
                "linear_end": 0.012,
                "num_timesteps_cond": 1,
                "timesteps": 1000,
                "first_stage_key": "jpg",
                "cond_stage_key": "txt",
                "image_size": 64,
                "channels": 4,
                "cond_stage_trainable": False,
                "conditioning_key": "crossattn",
                "monitor": "val/loss",
                "scale_factor": 0.18215,
                "use_ema": False,
                "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
                "first_stage_config": first_stage("ldm.models.autoencoder.AutoencoderKL"),
                "cond_stage_config": conditioner,
                **params,
            },
        }
    }


def first_stage(target):
    return {
        "target": target,
        "params": {"embed_dim": 4, "monitor": "val", "ddconfig": VAE, "lossconfig": {"target": "torch.nn.Identity"}},
    }


def xl_config():
    denoiser = "sgm.modules.diffusionmodules"
    size = {"target": "sgm.modules.encoders.modules.ConcatTimestepEmbedderND", "params": {"outdim": 64}}
    sizes = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
    clip_l = {"layer": "hidden", "layer_idx": 1}
    clip_g = {"arch": OPEN_CLIP, "freeze": True, "layer": "penultimate", "always_return_pooled": True, "legacy": False}
    embedders = "sgm.modules.encoders.modules"
    return {
        "model": {
            "target": "sgm.models.diffusion.DiffusionEngine",
            "params": {
                "scale_factor": 0.13025,
                "disable_first_stage_autocast": True,
                "denoiser_config": {
                    "target": f"{denoiser}.denoiser.DiscreteDenoiser",
                    "params": {
                        "num_idx": 1000,
                        "weighting_config": {"target": f"{denoiser}.denoiser_weighting.EpsWeighting"},
                        "scaling_config": {"target": f"{denoiser}.denoiser_scaling.EpsScaling"},
                        "discretization_config": {"target": f"{denoiser}.discretizer.LegacyDDPMDiscretization"},
                    },
                },
                "network_config": {"target": f"{denoiser}.openaimodel.UNetModel", "params": UNET_XL},
                "conditioner_config": {
                    "target": "sgm.modules.GeneralConditioner",
                    "params": {
                        "emb_models": [
                            {"input_key": "txt", "target": f"{embedders}.FrozenCLIPEmbedder", "params": clip_l},
                            {"input_key": "txt", "target": f"{embedders}.FrozenOpenCLIPEmbedder2", "params": clip_g},
                            *({"input_key": key, **size} for key in sizes),
                        ]
                    },
                },
                "first_stage_config": first_stage("sgm.models.autoencoder.AutoencoderKLInferenceWrapper"),
            },
        }
    }


def configs():
    clip = {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"}
    open_clip = {
        "target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
        "params": {"arch": OPEN_CLIP, "freeze": True, "layer": "penultimate"},
    }
    unet_2 = {**{k: v for k, v in UNET.items() if k != "num_heads"}, "num_head_channels": 16, "context_dim": 256}
    inpaint = {"target": "ldm.models.diffusion.ddpm.LatentInpaintDiffusion", "finetune_keys": None}
    return {
        "sd1": ldm_config(UNET, clip),
        "sd2v": ldm_config({**unet_2, "use_linear_in_transformer": True}, open_clip, parameterization="v"),
        "sdxl": xl_config(),
        "inpaint": ldm_config({**UNET, "in_channels": 9}, clip, conditioning_key="hybrid", **inpaint),
    }


def random_weights(module, seed):
    """Zero-initialised output layers too: with them the UNet's gradient would be exactly 0."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if not parameter.any():
            spread = 0.05 if name.endswith("bias") else parameter[0].numel() ** -0.5
            parameter.data.normal_(0, spread, generator=generator)
    return module


def state_of(name, config):
    import open_clip
    import torch
    from ldm.models.autoencoder import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(len(name))
    params = copy.deepcopy(config["model"]["params"])
    network = params.get("unet_config") or params["network_config"]
    if name == "sdxl":
        from sgm.modules.diffusionmodules.openaimodel import UNetModel
    else:
        from ldm.modules.diffusionmodules.openaimodel import UNetModel
    vae = {key: value for key, value in params["first_stage_config"]["params"].items() if key != "monitor"}
    parts = {
        "model.diffusion_model.": UNetModel(**network["params"]),
        "first_stage_model.": AutoencoderKL(**vae),
    }
    if name != "sd2v":
        prefix = "conditioner.embedders.0.transformer." if name == "sdxl" else "cond_stage_model.transformer."
        parts[prefix] = CLIPTextModel(CLIPTextConfig(**CLIP))
    if name in ("sd2v", "sdxl"):
        text = open_clip.create_model(OPEN_CLIP)
        del text.visual
        parts["conditioner.embedders.1.model." if name == "sdxl" else "cond_stage_model.model."] = text
    tensors = {}
    for prefix, module in parts.items():
        random_weights(module, seed=1)
        tensors |= {prefix + key: value.contiguous() for key, value in module.state_dict().items()}
    return tensors


def lora():
    """Of two attention layers of `sd1`, strong enough to be seen."""
    import torch

    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for layer in ("attn1_to_q", "attn1_to_v", "attn2_to_k"):
        name = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_{layer}"
        width = 64 if layer == "attn2_to_k" else 32
        tensors[f"{name}.lora_down.weight"] = torch.randn(4, width, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(32, 4, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(4.0)
    return tensors


def write_tokenizer(folder):
    """CLIP's vocabulary, rebuilt from the merges that open_clip brings, and the small text encoder's shape."""
    import open_clip

    packed = (Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = gzip.decompress(packed).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair.split()) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = json.dumps({word: number for number, word in enumerate(words)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(vocabulary, encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(CLIP), encoding="utf-8")


def main(webui, data):
    for repository in ("stable-diffusion-stability-ai", "generative-models"):
        sys.path.insert(0, str(Path(webui) / "repositories" / repository))
    from safetensors.torch import save_file

    checkpoints = Path(data) / "models" / "Stable-diffusion"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for name, config in configs().items():
        save_file(state_of(name, config), checkpoints / f"{name}.safetensors")
        (checkpoints / f"{name}.yaml").write_text(json.dumps(config))  # JSON is YAML
    (Path(data) / "models" / "Lora").mkdir(exist_ok=True)
    save_file(lora(), Path(data) / "models" / "Lora" / "left.safetensors")
    write_tokenizer(Path(data) / "openai" / "clip-vit-large-patch14")


if __name__ == "__main__":
    main(*sys.argv[1:])
