"""Random-weight checkpoints that ComfyUI's own detection accepts. Run by the host's Python:

    python make_checkpoints.py COMFYUI_DIR FOLDER NAME...

Weights are normal(0, 1 / fan_in): signals keep their size, so that every layer matters to the result and to gradients.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SD1 = {"context_dim": 768, "num_heads": 8, "use_linear_in_transformer": False}
TWO_LEVELS = {
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
}
UNETS = {
    "sd1": SD1 | TWO_LEVELS,
    "sd2": TWO_LEVELS | {"context_dim": 1024, "num_head_channels": 64, "use_linear_in_transformer": True},
    "sdxl": {  # the smallest shape that is detected as one of its family
        "context_dim": 2048,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 1, 1],
        "transformer_depth": [0, 0, 1, 1, 2, 2],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        "transformer_depth_middle": 1,
    },
    "full": SD1
    | {
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
    },
}
UNET_COMMON = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "dtype": torch.float32,
}
VAE = {
    "double_z": True,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
WAN = {"num_res_blocks": 2, "dim_mult": [1, 2, 4, 4], "attn_scales": [], "temperal_downsample": [False, True, True]}
UNET_PREFIX, VAE_PREFIX, CLIP_PREFIX = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
LORA_RANK = 4


def randomised(module, prefix=""):
    """The module's state in float16, every weight drawn anew."""
    state = {}
    for name, value in module.state_dict().items():
        if value.ndim >= 2:
            value = torch.randn(value.shape) / value[0].numel() ** 0.5
        elif value.is_floating_point():
            value = torch.ones(value.shape) if name.endswith("weight") else torch.zeros(value.shape)
        state[prefix + name] = value.half() if value.is_floating_point() else value
    return state


def unet(family, prefix=""):
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    config = {**UNET_COMMON, **UNETS[family]}
    return randomised(UNetModel(**config, operations=comfy.ops.disable_weight_init), prefix)


def vae(channels, prefix=""):
    """4 channels: SD1, SD2 and SDXL. 16: SD3 and Flux, which have no quantisation layers."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    state = randomised(AutoencoderKL(ddconfig=VAE | {"z_channels": channels}, embed_dim=channels), prefix)
    return {name: value for name, value in state.items() if channels == 4 or "quant_conv" not in name}


def wan21():
    """Of Wan 2.1 and Qwen-Image, at full width: 0.3.64 knows no other."""
    from comfy.ldm.wan.vae import WanVAE

    return randomised(WanVAE(dim=96, z_dim=16, **WAN))


def tiny(part):
    """One of the two files of a TAESD."""
    from comfy.taesd import taesd

    return randomised({"encoder": taesd.Encoder, "decoder": taesd.Decoder}[part](latent_channels=4))


def clip():
    from comfy.sd1_clip import SD1ClipModel

    state = randomised(SD1ClipModel(device="cpu", dtype=torch.float32))
    unwanted = ("clip_l.logit_scale", "clip_l.transformer.text_projection.weight")
    return {name.replace("clip_l.", CLIP_PREFIX, 1): v for name, v in state.items() if name not in unwanted}


def checkpoint(family):
    return unet(family, UNET_PREFIX) | vae(4, VAE_PREFIX) | clip()


def linears(state):
    """The linear weights of the UNet's transformers, which real LoRA and quantised files hold."""
    return [
        name
        for name in state
        if name.startswith(UNET_PREFIX) and "transformer_blocks" in name and state[name].ndim == 2
    ]


def lora(state):
    """Low-rank additions to every linear weight, strong enough to be seen."""
    result = {}
    for name in linears(state):
        rows, columns = state[name].shape
        key = "lora_unet_" + name.removeprefix(UNET_PREFIX).removesuffix(".weight").replace(".", "_")
        result[f"{key}.lora_up.weight"] = torch.randn(rows, LORA_RANK).half()
        result[f"{key}.lora_down.weight"] = (torch.randn(LORA_RANK, columns) / columns**0.5).half()
        result[f"{key}.alpha"] = torch.tensor(1.0)
    return result


def quantised(state, form):
    """The linear weights in the host's own format of 2026: a scale, and `comfy_quant` naming the format."""
    dtype, largest = {"float8_e4m3fn": (torch.float8_e4m3fn, 448.0), "int8_tensorwise": (torch.int8, 127.0)}[form]
    result = dict(state)
    for name in linears(state):
        weight, layer = state[name].float(), name.removesuffix(".weight")
        scale = weight.abs().max() / largest
        steps = (weight / scale).clamp(-largest, largest)
        result[name] = (steps.round() if dtype is torch.int8 else steps).to(dtype)
        result[f"{layer}.weight_scale"] = scale
        result[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps({"format": form}).encode()), dtype=torch.uint8)
    return result


def content(name, folder):
    if name.startswith("lora"):
        return lora(load_file(folder / "sd1.safetensors"))
    if name.startswith("sd1-"):
        form = {"sd1-fp8": "float8_e4m3fn", "sd1-int8": "int8_tensorwise"}[name]
        return quantised(load_file(folder / "sd1.safetensors"), form)
    if name.startswith("vae"):
        return vae(int(name.removeprefix("vae")))
    if name.startswith("taesd_"):
        return tiny(name.removeprefix("taesd_"))
    if name == "wan21":
        return wan21()
    return checkpoint(name) if name in ("sd1", "full") else unet(name)


def write(name, folder):
    torch.manual_seed(0)
    part = folder / f"{name}.part"
    save_file({key: value.contiguous() for key, value in content(name, folder).items()}, part)
    part.rename(folder / f"{name}.safetensors")


def main(comfyui, folder, *names):
    sys.path.insert(0, comfyui)
    from comfy.cli_args import args

    args.cpu = True
    with torch.no_grad():
        for name in names:
            write(name, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
