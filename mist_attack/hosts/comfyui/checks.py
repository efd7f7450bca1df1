"""Which of ComfyUI's models are refused, and what to do then: those whose gradient nobody has checked."""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

import comfy.model_base
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import nn

from ...errors import CheckpointError
from .autoencoders import kind_of
from .changes import is_quantised

_OF_HOST = ("comfy.", "comfy_kitchen.", "torch.nn.")


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
    """Refuse models whose denoising loss we cannot differentiate: others than SD1, SD2 and SDXL, inpainting models,
    foreign layers and formats. Raises CheckpointError."""
    base, kinds = model.model, comfy.model_base.ModelType
    if not isinstance(getattr(base, "diffusion_model", None), UNetModel) or base.model_type not in (
        kinds.EPS,
        kinds.V_PREDICTION,
    ):
        raise CheckpointError(
            f"Expected a model of the SD1, SD2 or SDXL family; found {type(base.model_config).__name__}. "
            "For this one choose the mode textural: it needs the VAE alone."
        )
    if base.concat_keys or base.diffusion_model.in_channels != base.latent_format.latent_channels:
        raise CheckpointError(
            "Expected a model that makes whole pictures; found one for inpainting or editing. "
            "Connect another one, or choose the mode textural."
        )
    if not hasattr(model.get_model_object("model_sampling"), "sigmas"):
        raise CheckpointError(
            "Expected a noise schedule of discrete steps; this model has another. Choose the mode textural."
        )
    check_layers(base.diffusion_model, "This model")


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
