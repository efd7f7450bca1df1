"""The model that Forge Classic, or reForge, has loaded: A1111's page over modules of ComfyUI's kind, `ldm_patched`.

Loading, memory, LoRA and precision are the host's. Its denoiser is asked for predictions alone, as in a generation, so
nothing is borrowed of it; the autoencoder lends its layers for the gradient.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from ldm_patched.ldm.models.autoencoder import AutoencoderKL
from ldm_patched.ldm.modules.diffusionmodules import model as autoencoder_parts
from ldm_patched.modules import model_management, model_sampling
from modules import extra_networks, processing, prompt_parser, shared
from torch import Tensor, nn

from ..errors import CheckpointError
from ..needs import NEEDS
from ..noising import Added, Noising
from ..surrogate import Conditioning, Objective, Result, Surrogate, require_trainable
from .borrowing.aliases import OutOfPlace, alias, unwatched
from .borrowing.lean import lean
from .borrowing.lending import attributes, instance_attributes, memory, named, recomputed

RECOMPUTED = {"ResnetBlock"}
CONDITION = {"crossattn": "c_crossattn", "vector": "y"}  # a prompt's parts, as `BaseModel.apply_model` names them


def loaded(*, keep_extra_networks: bool = False) -> ClassicSurrogate:
    """The model of the chosen checkpoint; ask each time, inside the web UI's queue lock. Raises CheckpointError.

    `keep_extra_networks`: within a running generation, with its LoRAs. Else without those of an earlier one.
    """
    model = shared.sd_model
    if not hasattr(model, "forge_objects_original"):
        raise CheckpointError("No Stable Diffusion model is loaded. Choose a checkpoint at the top of the page.")
    if not keep_extra_networks:
        extra_networks.activate(processing.StableDiffusionProcessingTxt2Img(), {})
    return ClassicSurrogate(model, keep_extra_networks=keep_extra_networks)


class ClassicSurrogate:
    """`mist_attack.surrogate.Surrogate` over a model of `ldm_patched`. Make one with `loaded`."""

    differentiable = False

    def __init__(self, model: Any, *, keep_extra_networks: bool = False) -> None:
        self.model = model
        self.objects = model.forge_objects_after_applying_lora if keep_extra_networks else model.forge_objects_original
        self.autoencoder, self.denoiser = self.objects.vae.first_stage_model, self.objects.unet.model
        if not isinstance(self.autoencoder, AutoencoderKL):
            found = type(self.autoencoder).__name__
            raise CheckpointError(f"Expected an autoencoder of the KL kind (SD1, SD2, SDXL); found {found}.")
        self.lack = _lack(self.denoiser)
        self.name = _name(model, has_denoiser=self.lack is None)
        self.device: torch.device = self.objects.vae.device if self.lack else self.objects.unet.load_device
        sampling = self.denoiser.model_sampling
        self.noising: Noising = Added(sigma_data=float(sampling.sigma_data))
        with torch.inference_mode(False), torch.no_grad():
            sigmas = torch.empty(0) if self.lack else sampling.sigmas.clone().float()
        self.sigmas = sigmas.to(self.device)

    @property
    def modules(self) -> list[nn.Module]:
        """What a run borrows."""
        return [self.autoencoder]

    def encode(self, images: Tensor) -> Tensor:
        """Below the host's `encode`, which samples."""
        coded = self.autoencoder.quant_conv(
            self.autoencoder.encoder(images.to(self.objects.vae.device).float() * 2 - 1)
        )
        mean, _ = coded.to(self.device).chunk(2, dim=1)
        return self.denoiser.latent_format.process_in(mean)

    def decode(self, latents: Tensor) -> Tensor:
        decoded = self.autoencoder.decode(self.denoiser.latent_format.process_out(latents).to(self.objects.vae.device))
        return (decoded / 2 + 0.5).clamp(0, 1).to(self.device)

    def spatial_multiple(self, objective: Objective) -> int:
        multiple = int(self.objects.vae.downscale_ratio)
        if NEEDS[objective].denoiser and self.lack is None:
            multiple *= 2 ** (len(self.denoiser.model_config.unet_config["channel_mult"]) - 1)
        return multiple

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self._require_denoiser()
        if torch.is_grad_enabled() and noised_latents.requires_grad:
            raise CheckpointError(f"{self.name}: nobody has checked its derivative. Use the gradient sds.")
        batch = len(noised_latents)
        parts = {name: part.expand(batch, *part.shape[1:]) for name, part in conditioning.items()}
        with torch.inference_mode(), unwatched():
            denoised = self.denoiser.apply_model(noised_latents, sigma, transformer_options={}, **parts).float()
        return alias(denoised)

    def conditioning(self, prompt: str) -> Conditioning:
        """{name: (1, ...) tensor} for `BaseModel.apply_model`. Emphasis and embeddings work as in prompts.

        SDXL is told the size it is trained at, 1024 x 1024: imitators train it on whole pictures of that size.
        """
        self._require_denoiser()
        prompts = prompt_parser.SdConditioning([prompt], width=1024, height=1024)
        with attributes([self.model], forge_objects=self.objects), torch.inference_mode():
            answer = self.model.get_learned_conditioning(prompts)
        parts = answer if isinstance(answer, dict) else {"crossattn": answer}
        with torch.inference_mode(False), torch.no_grad():
            return {CONDITION[name]: part.clone().to(self.device) for name, part in parts.items()}

    def lora(self, rank: int, seed: int) -> NoReturn:
        """There is none."""
        require_trainable(self)
        raise AssertionError

    def run(
        self,
        job: Callable[[Surrogate], Result],
        batch: int,
        height: int,
        width: int,
        *,
        low_vram: bool = False,
    ) -> Result:
        self._load_weights(batch * height * width, low_vram)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            attributes(self.autoencoder.modules(), training=False),
            instance_attributes(_changes(self.autoencoder)),
            lean([self.autoencoder]),
            recomputed(named([self.autoencoder], RECOMPUTED) if low_vram else ()),
            OutOfPlace(),
        ):
            return job(self)

    @torch.inference_mode()
    def _load_weights(self, pixels: int, low_vram: bool) -> None:
        """Bring the weights to their devices, with their LoRAs merged, and make room for a gradient of the encoder."""
        unet = [] if self.lack else [self.objects.unet]
        needed = memory(pixels, 0, low_vram=low_vram) + sum(
            patcher.memory_required([1, 4, 1, pixels // self.objects.vae.downscale_ratio**2]) for patcher in unet
        )
        model_management.load_models_gpu([*unet, self.objects.vae.patcher], memory_required=needed)

    def _require_denoiser(self) -> None:
        if self.lack:
            raise CheckpointError(
                f"{self.name} works with the textural objective only: {self.lack}. Choose that objective, or a "
                "checkpoint that makes pictures from a prompt alone."
            )


def _changes(autoencoder: nn.Module) -> dict[Any, dict[str, Any]]:
    """Weights are cast to the float32 of the pictures, and attention is PyTorch's, which has a backward."""
    changes: dict[Any, dict[str, Any]] = {}
    for layer in autoencoder.modules():
        if hasattr(layer, "ldm_patched_cast_weights"):
            changes[layer] = {"ldm_patched_cast_weights": True}
        elif hasattr(layer, "optimized_attention"):
            changes[layer] = {"optimized_attention": autoencoder_parts.pytorch_attention}
    return changes


def _lack(denoiser: Any) -> str | None:
    """Why the denoiser cannot be asked; None where it can."""
    channels = denoiser.model_config.unet_config["in_channels"]
    if channels != 4:
        return f"it is for inpainting or editing, and takes {channels} channels and not 4"
    if not isinstance(denoiser.model_sampling, model_sampling.EPS):  # V_PREDICTION and EDM are kinds of it
        return f"what it predicts ({type(denoiser.model_sampling).__name__}) is not known"
    return None


def _name(model: Any, *, has_denoiser: bool) -> str:
    families = {"is_sdxl": "SDXL", "is_sd2": "SD2", "is_sd1": "SD1"}
    family = next((name for flag, name in families.items() if getattr(model, flag, False)), "Stable Diffusion")
    return f"{family}{'' if has_denoiser else ', autoencoder only'} ({model.sd_checkpoint_info.model_name})"
