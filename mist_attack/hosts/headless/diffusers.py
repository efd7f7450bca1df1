"""Stable Diffusion from a checkpoint file or folder, through diffusers: the headless command's model.

Nothing here reaches for the network. diffusers and transformers are imported when a model is loaded, not before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...devices import pick_device, require_working
from ...errors import CheckpointError, MistError
from ...needs import NEEDS
from ...noising import Added, Noising
from ...surrogate import Objective, Result, Surrogate
from ..borrowing import heap
from ..borrowing.denoiser import denoised, noise_levels
from ..borrowing.lean import lean
from ..borrowing.lending import fastest_format, frozen, named, recomputed
from . import prompts
from .checkpoints import ACCEPTED, check_sd_v1, read_tensors

SD_V1 = Path(__file__).parent / "sd_v1"
RECOMPUTED = {"ResnetBlock2D", "BasicTransformerBlock"}  # they hold nearly all activations, and never each other


class DiffusersSurrogate:
    """`mist_attack.surrogate.Surrogate` over diffusers' modules. Make one with `load`.

    The UNet computes in the dtype it was loaded in, the autoencoder in float32: bfloat16 cannot tell neighbouring
    grey levels apart, and float16 overflows in the backward.
    """

    def __init__(
        self,
        name: str,
        vae: Any,
        unet: Any | None,
        schedule: Mapping[str, Any],
        encode_prompt: prompts.PromptEncoder,
        device: torch.device,
        *,
        is_demo: bool = False,
    ) -> None:
        self.name, self.device, self.is_demo = name, device, is_demo
        self.vae, self.unet = vae, unet
        self.sigmas = (_sigmas(schedule) if unet else torch.empty(0)).to(device)
        self.noising: Noising = Added()
        self.differentiable = True
        self._predicts_v = schedule.get("prediction_type") == "v_prediction"
        self._encode_prompt = encode_prompt
        self._conditionings: dict[str, Tensor] = {}

    def encode(self, images: Tensor) -> Tensor:
        mean = self.vae.encode(images * 2 - 1).latent_dist.mean
        return (mean - (self.vae.config.shift_factor or 0.0)) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        latents = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        return (self.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)

    def spatial_multiple(self, objective: Objective) -> int:
        multiple = 2 ** (len(self.vae.config.block_out_channels) - 1)
        if NEEDS[objective].denoiser and self.unet:
            multiple *= 2 ** (len(self.unet.config.block_out_channels) - 1)
        return multiple

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: Tensor) -> Tensor:
        if self.unet is None:
            raise CheckpointError(
                f"{self.name} is an autoencoder without a UNet: only the textural objective can use it."
            )
        unet = self.unet

        def predicted(latents: Tensor, timesteps: Tensor) -> Tensor:
            return unet(latents.to(unet.dtype), timesteps, conditioning.expand(len(latents), -1, -1)).sample

        return denoised(predicted, noised_latents, sigma, self.sigmas, predicts_v=self._predicts_v)

    def conditioning(self, prompt: str) -> Tensor:
        """(1, tokens, width) in the UNet's dtype, on `device`."""
        if self.unet is None:
            raise CheckpointError(f"{self.name} is an autoencoder without a UNet: it takes no prompt.")
        if prompt not in self._conditionings:
            if len(self._conditionings) >= 64:  # a gallery of prompts must not fill the memory
                self._conditionings.clear()
            with torch.inference_mode(False):
                with _as_checkpoint_errors(f"The text encoder of {self.name}"):
                    encoded = self._encode_prompt(prompt)
                self._conditionings[prompt] = encoded.to(self.device, self.unet.dtype)
        return self._conditionings[prompt]

    def run(
        self,
        job: Callable[[Surrogate], Result],
        batch: int,
        height: int,
        width: int,
        *,
        low_vram: bool = False,
    ) -> Result:
        modules = [module for module in (self.vae, self.unet) if module is not None]
        memory = nullcontext() if low_vram else heap.reused(self.device)  # faster, at the price of some memory
        with torch.inference_mode(False), torch.enable_grad(), frozen(modules), lean(modules), memory:
            for module in modules:
                module.to(self.device, memory_format=fastest_format(self.device))
            # Not by diffusers' enable_gradient_checkpointing: before 0.32 that acts in training mode only, and it
            # computes the autoencoder's middle block three times.
            with recomputed(named(modules, RECOMPUTED) if low_vram else ()):
                return job(self)


def load(
    checkpoint: Path,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    config: Path = SD_V1,
) -> DiffusersSurrogate:
    """The model in `checkpoint`, on the CPU; it moves to `device` (default: `pick_device()`) when it is first run.

    `checkpoint` is a single file in Stable Diffusion v1's original layout, a diffusers folder, a folder with only
    an autoencoder, or a demo model's folder. `dtype` is the UNet's. `config` describes the modules of a single file.
    Raises CheckpointError that says what was found instead, and where diffusers is not installed; DeviceError.
    """
    device = device or pick_device()
    require_working(device)  # before gigabytes are read for it
    with torch.inference_mode(False), _as_checkpoint_errors(str(checkpoint)):
        if checkpoint.is_dir():
            return _load_folder(checkpoint, device, dtype)
        return _load_file(checkpoint, device, dtype, config)


@contextmanager
def _as_checkpoint_errors(subject: str) -> Iterator[None]:
    try:
        yield
    except (MistError, MemoryError):
        raise
    except ImportError as error:
        raise CheckpointError(
            f'{subject} needs diffusers and transformers ({error}): pip install "mist-protect[headless]"'
        ) from error
    except Exception as error:  # a broken file may raise anything in its reader
        detail = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{subject} cannot be loaded: {detail}. {ACCEPTED}") from error


def _load_file(path: Path, device: torch.device, dtype: torch.dtype, config: Path) -> DiffusersSurrogate:
    from diffusers.loaders import single_file_utils as ldm
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    tensors = read_tensors(path)
    check_sd_v1(tensors, path)
    schedule = _json(config / "scheduler" / "scheduler_config.json")
    unet_config, vae_config = _json(config / "unet" / "config.json"), _json(config / "vae" / "config.json")
    unet_weights = ldm.convert_ldm_unet_checkpoint(_part(tensors, "model.diffusion_model."), config=unet_config)
    vae_weights = ldm.convert_ldm_vae_checkpoint(_part(tensors, "first_stage_model."), config=vae_config)
    vae = _build(AutoencoderKL, vae_config, vae_weights, torch.float32)
    unet = _build(UNet2DConditionModel, unet_config, unet_weights, dtype)
    return DiffusersSurrogate(f"SD v1 ({path.name})", vae, unet, schedule, prompts.from_file(path, config), device)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _build(kind: Any, config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """`kind` with exactly these weights: from_single_file would fill what is missing with random numbers."""
    with torch.device("meta"):
        module = kind.from_config(config)
    module.load_state_dict(weights, assign=True)
    return nn.Module.to(module, dtype)  # diffusers' own `to` warns of an empty list of exceptions


def _load_folder(folder: Path, device: torch.device, dtype: torch.dtype) -> DiffusersSurrogate:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    table = folder / "prompts.safetensors"
    is_demo = table.is_file()
    name = f"demo model, {folder.name.replace('seed', 'seed ')}" if is_demo else f"diffusers model ({folder.name})"
    vae_folder = folder / "vae" if (folder / "vae").is_dir() else folder
    vae = _pretrained(AutoencoderKL, vae_folder, torch.float32)
    encode_prompt = prompts.from_table(table) if is_demo else prompts.from_folder(folder)
    if not (folder / "unet").is_dir():
        return DiffusersSurrogate(name, vae, None, {}, encode_prompt, device)
    unet = _pretrained(UNet2DConditionModel, folder / "unet", dtype)
    _check_unet(folder, unet.config)
    schedule = _json(folder / "scheduler" / "scheduler_config.json")
    return DiffusersSurrogate(name, vae, unet, schedule, encode_prompt, device, is_demo=is_demo)


def _pretrained(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    found = _json(folder / "config.json").get("_class_name") if (folder / "config.json").is_file() else "nothing"
    if found != kind.__name__:
        raise CheckpointError(f"{folder}: expected {kind.__name__}, found {found}. {ACCEPTED}")
    is_half = [file.name for file in folder.glob("*.safetensors")] == ["diffusion_pytorch_model.fp16.safetensors"]
    module, report = kind.from_pretrained(
        str(folder),
        local_files_only=True,
        use_safetensors=True,
        low_cpu_mem_usage=False,
        output_loading_info=True,
        variant="fp16" if is_half else None,
    )
    if report["missing_keys"]:
        raise CheckpointError(f"{folder}: {len(report['missing_keys'])} tensors are missing. {ACCEPTED}")
    return nn.Module.to(module, dtype)


def _check_unet(folder: Path, config: Mapping[str, Any]) -> None:
    if config["in_channels"] != config["out_channels"]:
        raise CheckpointError(f"{folder}: found an inpainting or editing UNet. {ACCEPTED}")
    if config["addition_embed_type"] or config["class_embed_type"]:
        raise CheckpointError(f"{folder}: found a UNet with more inputs than a prompt (SDXL's kind). {ACCEPTED}")


def _sigmas(schedule: Mapping[str, Any]) -> Tensor:
    """Of the training schedule, as `noise_levels` has them."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    if schedule.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"):
        raise CheckpointError(f"Expected a UNet that predicts epsilon or v, found {schedule['prediction_type']!r}.")
    known = signature(DDPMScheduler).parameters  # other schedulers' files hold more
    betas = DDPMScheduler(**{key: value for key, value in schedule.items() if key in known}).betas
    return noise_levels((1 - betas.double()).cumprod(0))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
