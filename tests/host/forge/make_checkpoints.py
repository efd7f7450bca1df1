"""Checkpoints with random weights: small ones of each family, and one of Stable Diffusion 1.5's exact shape.

Forge takes exact shapes alone, so each small family brings the folder of configurations that Forge has for the real
one, and a `family.json` by which the probe extension makes it known. Run by the host's own Python:
`python make_checkpoints.py FORGE_DIR DATA_DIR small|exact`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "webui"))

from checkpoints import CLIP, lora, random_weights  # noqa: E402

CLIP_L = {**CLIP, "hidden_act": "quick_gelu", "projection_dim": 64, "eos_token_id": 2, "bos_token_id": 0}
CLIP_G = {**CLIP_L, "hidden_act": "gelu", "hidden_size": 256, "intermediate_size": 512, "projection_dim": 256}
T5 = {"d_ff": 128, "d_kv": 16, "d_model": 64, "num_heads": 4, "num_layers": 2}
VAE = {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1}
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 1, 2, 2],
    "transformer_depth": [1] * 8,
    "transformer_depth_output": [1] * 12,
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "context_dim": 64,
    "num_heads": 4,
}
UNET_2 = {**UNET, "context_dim": 256, "use_linear_in_transformer": True}
UNET_XL = {
    **UNET_2,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 1, 2],
    "transformer_depth": [0, 0, 1, 1, 1, 1],
    "transformer_depth_output": [0, 0, 0, *[1] * 6],
    "context_dim": 64 + 256,
    "num_classes": "sequential",
    "adm_in_channels": 256 + 6 * 256,
}
FLUX = {
    "in_channels": 16,
    "vec_in_dim": 64,
    "context_in_dim": 64,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
}
SD3 = {
    "in_channels": 16,
    "depth": 1,
    "input_size": None,
    "adm_in_channels": 64 + 256,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 64}},
    "num_patches": 32**2,
    "pos_embed_max_size": 32,
}
HEADS = {"num_heads": 4, "num_head_channels": -1}
EXACT_UNET = {
    **UNET,
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "context_dim": 768,
    "num_heads": 8,
}


def known_by(unet):
    """The part of a UNet's shape by which Forge tells families apart."""
    found = {"use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False, **unet}
    names = ("context_dim", "model_channels", "use_linear_in_transformer", "adm_in_channels", "use_temporal_attention")
    return {name: found[name] for name in names}


def families():
    """Name -> (Forge's class and folder, text encoders by folder, class attributes)."""
    sd1, sd2 = "runwayml/stable-diffusion-v1-5", "stabilityai/stable-diffusion-2-1"
    sdxl, flux = "stabilityai/stable-diffusion-xl-base-1.0", "black-forest-labs/FLUX.1-dev"
    sd3 = "stabilityai/stable-diffusion-3-medium-diffusers"
    heads = {"unet_extra_config": HEADS}
    return {
        "sd1": ("SD15", sd1, {"text_encoder": CLIP_L}, {"unet_config": known_by(UNET), **heads}),
        "sd2v": ("SD20", sd2, {"text_encoder": CLIP_G}, {"unet_config": known_by(UNET_2), **heads}),
        "sdxl": (
            "SDXL",
            sdxl,
            {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G},
            {"unet_config": known_by(UNET_XL), **heads},
        ),
        "flux": (
            "Flux",
            flux,
            {"text_encoder": CLIP_L, "text_encoder_2": T5},
            {"unet_extra_config": FLUX, "required_keys": ["small"]},
        ),
        "sd3": (
            "SD3",
            sd3,
            {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5},
            {"required_keys": ["small"]},
        ),
    }


def write_families(forge, data):
    for name, (base, repository, texts, attributes) in families().items():
        folder = data / "families" / name
        shutil.copytree(forge / "backend" / "huggingface" / repository, folder)
        for part, changes in {"vae": VAE, **texts}.items():
            file = folder / part / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        if name == "sd3":  # whose own is a sentencepiece model, which not every protobuf can read
            shutil.rmtree(folder / "tokenizer_3")
            shutil.copytree(data / "families" / "flux" / "tokenizer_2", folder / "tokenizer_3")
        attributes = {"base": base, "huggingface_repo": str(folder), **attributes}
        (folder / "family.json").write_text(json.dumps(attributes))


def clip(config):
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextModel(CLIPTextConfig(**config))
    if config == CLIP_G:
        text.text_projection = torch.nn.Linear(config["hidden_size"], config["hidden_size"], bias=False)
    return text


def t5(folder):
    from backend.nn.t5 import IntegratedT5

    text = IntegratedT5(json.loads((folder / "config.json").read_text()))
    for parameter in text.parameters():  # which the host leaves as the memory was
        parameter.data.fill_(1) if parameter.ndim == 1 else parameter.data.normal_(0, 0.05)
    return text


def autoencoder(folder):
    from backend.nn.vae import IntegratedAutoencoderKL

    return IntegratedAutoencoderKL.from_config(IntegratedAutoencoderKL.load_config(folder))


def unet(config):
    from backend.nn.unet import IntegratedUNet2DConditionModel

    return IntegratedUNet2DConditionModel(**config)


def modules_of(name, folder):
    """{prefix of the keys: module}"""
    vae = autoencoder(folder / "vae")
    if name == "flux":
        from backend.nn.flux import IntegratedFluxTransformer2DModel

        return {
            "model.diffusion_model.": IntegratedFluxTransformer2DModel(**FLUX),
            "vae.": vae,
            "text_encoders.clip_l.transformer.": clip(CLIP_L),
            "text_encoders.t5xxl.": t5(folder / "text_encoder_2"),
        }
    if name == "sd3":
        from backend.nn.mmditx import MMDiTX

        return {
            "model.diffusion_model.": MMDiTX(**SD3),
            "first_stage_model.": vae,
            "text_encoders.clip_l.transformer.": clip(CLIP_L),
            "text_encoders.clip_g.transformer.": clip(CLIP_G),
            "text_encoders.t5xxl.": t5(folder / "text_encoder_3"),
        }
    texts = {
        "sd1": {"cond_stage_model.transformer.": clip(CLIP_L)},
        "sd2v": {"cond_stage_model.model.transformer.": clip(CLIP_G)},
        "sdxl": {
            "conditioner.embedders.0.transformer.": clip(CLIP_L),
            "conditioner.embedders.1.model.transformer.": clip(CLIP_G),
        },
    }
    shapes = {"sd1": UNET, "sd2v": UNET_2, "sdxl": UNET_XL}
    return {"model.diffusion_model.": unet(shapes[name]), "first_stage_model.": vae, **texts[name]}


def save(modules, file, dtype=None):
    import torch
    from safetensors.torch import save_file

    tensors = {"small": torch.zeros(1)} if dtype is None else {}
    for prefix, module in modules.items():
        random_weights(module, seed=1)
        for key, value in module.state_dict().items():
            tensors[prefix + key] = (value if dtype is None else value.to(dtype)).clone().contiguous()
    save_file(tensors, file)


def save_quantised(source, file):
    """The transformer's weights in eight bits, as GGUF has them; the rest as it is."""
    import gguf
    from safetensors.numpy import load_file

    writer = gguf.GGUFWriter(file, "flux")
    for name, values in load_file(source).items():
        kind = gguf.GGMLQuantizationType.F32
        if name.startswith("model.diffusion_model.") and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def small(forge, data):
    import torch
    from safetensors.torch import save_file

    checkpoints = data / "models" / "Stable-diffusion"
    checkpoints.mkdir(parents=True)
    write_families(forge, data)
    for name in families():
        torch.manual_seed(len(name))
        save(modules_of(name, data / "families" / name), checkpoints / f"{name}.safetensors")
    inpaint = {
        **modules_of("sd1", data / "families" / "sd1"),
        "model.diffusion_model.": unet({**UNET, "in_channels": 9}),
    }
    save(inpaint, checkpoints / "inpaint.safetensors")
    save_quantised(checkpoints / "flux.safetensors", checkpoints / "flux-q8.gguf")
    (checkpoints / "sd2v.yaml").write_text("model: {params: {parameterization: v}}")
    (data / "models" / "Lora").mkdir()
    save_file(lora(), data / "models" / "Lora" / "left.safetensors")


def exact(forge, data):
    """SD 1.5, 2.1 GB in half precision; Forge knows it by itself."""
    import torch

    torch.manual_seed(15)
    folder = forge / "backend" / "huggingface" / "runwayml" / "stable-diffusion-v1-5"
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    torch.set_default_dtype(torch.float16)
    modules = {
        "model.diffusion_model.": unet(EXACT_UNET),
        "first_stage_model.": autoencoder(folder / "vae"),
        "cond_stage_model.transformer.": clip(config),
    }
    save(modules, data / "models" / "Stable-diffusion" / "exact.safetensors", torch.float16)


def main(forge, data, which):
    forge = Path(forge)
    for folder in (forge, forge / "repositories" / "huggingface_guess", forge / "packages_3rdparty"):
        sys.path.insert(0, str(folder))
    sys.argv = [sys.argv[0], "--always-cpu"]  # Forge reads it when it is imported
    {"small": small, "exact": exact}[which](forge, Path(data))


if __name__ == "__main__":
    main(*sys.argv[1:])
