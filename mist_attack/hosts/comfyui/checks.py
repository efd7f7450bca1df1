"""Which of ComfyUI's models are refused and what to do then, and of which nobody has checked the gradient."""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.model_sampling
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import nn

from ...errors import CheckpointError
from .autoencoders import Autoencoder, kind_of
from .changes import is_quantised

_OF_HOST = ("comfy.", "comfy_kitchen.", "torch.nn.")
_KNOWN_SAMPLING = ("EPS", "CONST", "COSMOS_RFLOW")
_OF_PICTURES_TO_PICTURES = ("IMG_TO_IMG", "IMG_TO_IMG_FLOW", "ModelSamplingAV")
_PICTURES_BESIDE = (
    "c_concat",
    "ref_latents",
    "ref_contexts",
    "reference_latent",
    "context_latents",
    "image_cond",
    "siglip_feats",
    "clip_fea",
    "time_dim_concat",
)
_FRAMES = ("", ", and frames")
_FOR_EDITING = (
    "Expected a model that makes whole pictures of a prompt; found one, or a conditioning, for inpainting, editing or "
    "control, which takes pictures too. Connect others, or choose the mode textural."
)


def check_vae(vae: Any) -> None:
    """Refuse what has no image encoder that we can differentiate. Raises CheckpointError."""
    autoencoder = getattr(vae, "first_stage_model", None)
    if autoencoder is None:
        raise CheckpointError("Expected a VAE, but this checkpoint holds none. Load one with Load VAE and connect it.")
    if kind_of(vae) is None:
        raise CheckpointError(
            "Expected a VAE for pictures (SD 1 to 3, SDXL, Flux, Qwen-Image, Wan, HunyuanVideo, or a small one: TAESD "
            f"and its kin); found {_described(vae)}. Load the one of your picture model with Load VAE."
        )
    check_layers(autoencoder, "This VAE")


def _described(vae: Any) -> str:
    """The class, and what the host uses it for as far as the VAE tells."""
    for_what = {1: " (for sound or shapes)", 3: " (for videos)"}.get(vae.latent_dim, "")
    for_what = " (for sound)" if getattr(vae, "output_channels", 3) == 2 else for_what
    return type(vae.first_stage_model).__name__ + for_what


def check_model(model: Any) -> None:
    """Refuse models that cannot be asked what is under noise: those that make no pictures of noise and a prompt alone.
    Raises CheckpointError."""
    base, name = model.model, type(model.model.model_config).__name__
    if base.latent_format.latent_dimensions == 1:
        raise CheckpointError(f"Expected a model of pictures; found {name}, which makes sound or shapes.")
    if base.concat_keys or getattr(base.diffusion_model, "in_channels", 0) > _channels_of_pictures(base):
        raise CheckpointError(_FOR_EDITING)
    if not _adds_noise(base, model.get_model_object("model_sampling")):
        raise CheckpointError(
            f"Expected a model that removes noise from a picture; found {name}, which does something else. "
            "Connect another one, or choose the mode textural."
        )


def _channels_of_pictures(base: Any) -> float:
    """What a UNet takes where it takes nothing beside the latents; others count patches."""
    return base.latent_format.latent_channels if isinstance(base.diffusion_model, UNetModel) else float("inf")


def _adds_noise(base: Any, sampling: Any) -> bool:
    kinds = comfy.model_sampling
    alien = tuple(getattr(kinds, name) for name in _OF_PICTURES_TO_PICTURES if hasattr(kinds, name))
    known = tuple(getattr(kinds, name) for name in _KNOWN_SAMPLING if hasattr(kinds, name))
    return isinstance(sampling, known) and not isinstance(sampling, alien) and hasattr(sampling, "sigmas")


def check_fit(vae: Any, model: Any) -> None:
    """Refuse a VAE of another family: its latents have another size. Raises CheckpointError."""
    wanted, pixels = model.model.latent_format, Autoencoder(vae).multiple
    needed = wanted.latent_channels, int(getattr(wanted, "spacial_downscale_ratio", pixels)), wanted.latent_dimensions
    if (int(vae.latent_channels), pixels, vae.latent_dim) != needed:
        raise CheckpointError(
            f"Expected the VAE of this model ({type(model.model.model_config).__name__}), whose latents have "
            f"{needed[0]} channels, one for {needed[1]} pixels{_FRAMES[needed[2] == 3]}; found one with "
            f"{vae.latent_channels}, one for {pixels} pixels{_FRAMES[vae.latent_dim == 3]}. Connect the model's own."
        )


def check_prepared(conds: list[dict[str, Any]]) -> None:
    """Refuse a conditioning that brings pictures, and models that want some beside the latents: both would know the
    picture from elsewhere. Raises CheckpointError."""
    if any(name in cond.get("model_conds", {}) for cond in conds for name in _PICTURES_BESIDE):
        raise CheckpointError(_FOR_EDITING)


def unverified(model: Any) -> str | None:
    """Why nobody vouches for the derivative of this denoiser, a sentence; None where it is verified."""
    base, kinds = model.model, comfy.model_base.ModelType
    if not isinstance(base.diffusion_model, UNetModel) or base.model_type not in (kinds.EPS, kinds.V_PREDICTION):
        return f"{type(base.model_config).__name__} is none of SD1, SD2 and SDXL."
    try:
        check_layers(base.diffusion_model, "This model")
    except CheckpointError as error:
        return str(error)
    return None


def check_layers(module: nn.Module, subject: str) -> None:
    """Refuse what nobody has checked: foreign layers and weights in foreign formats. Raises CheckpointError."""
    for layer in module.modules():
        kind = type(layer)
        if next(layer.parameters(recurse=False), None) is None:
            continue
        if not kind.__module__.startswith(_OF_HOST):
            raise _refused(subject, f"layers of {kind.__module__}.{kind.__qualname__}")
        for weight in layer.parameters(recurse=False):
            if is_quantised(weight) and not type(weight).__module__.startswith(_OF_HOST):
                raise _refused(subject, f"weights of the format {type(weight).__name__}")
        if _multiplies_in_fp8(layer):
            raise _refused(subject, "layers that multiply in fp8", "Start ComfyUI without --fast fp8_matrix_mult.")


_LOAD_ANOTHER = "Load a safetensors checkpoint with one of ComfyUI's own loaders (GGUF does not work)."


def _refused(subject: str, found: str, remedy: str = _LOAD_ANOTHER) -> CheckpointError:
    return CheckpointError(f"{subject} has {found}, whose gradient may be wrong. {remedy}")


def _multiplies_in_fp8(layer: nn.Module) -> bool:
    """The host's fp8 product, which clamps its input in place and has no backward."""
    return type(layer).__qualname__.startswith(("fp8_ops", "cublas_ops")) or (
        "scaled_fp8_op" in type(layer).__qualname__ and _closure(layer).get("fp8_matrix_mult", False)
    )


def _closure(layer: Any) -> dict[str, Any]:
    function = type(layer).forward_comfy_cast_weights
    cells = function.__closure__ or ()
    return dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in cells), strict=True))
