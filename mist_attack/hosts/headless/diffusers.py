"""A diffusion model from a checkpoint file or folder, through diffusers: the headless command's model.

Nothing here reaches for the network. diffusers and transformers are imported when a model is loaded, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ...devices import pick_device, require_working
from ...errors import CheckpointError, MistError
from ...needs import NEEDS
from ...noising import Added, Flow, Noising
from ...surrogate import Conditioning, Objective, Result, Surrogate, require_trainable
from ..borrowing import heap
from ..borrowing.denoiser import denoised
from ..borrowing.lean import lean
from ..borrowing.lending import fastest_format, frozen, named, recomputed
from ..tiny.modules import Block
from . import memory
from .autoencoders import AUTOENCODERS
from .checkpoints import ACCEPTED
from .families import Family, StableDiffusion
from .folders import load_folder
from .lora import adapted
from .prompts import PromptEncoder
from .schedules import sigmas_of
from .single_files import SD_V1, load_file

__all__ = ["SD_V1", "DiffusersSurrogate", "fastest_format", "load", "pick_device"]

RECOMPUTED = {  # they hold nearly all activations, and never each other
    "ResnetBlock2D",
    "BasicTransformerBlock",
    "JointTransformerBlock",
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
    "Flux2TransformerBlock",
    "Flux2SingleTransformerBlock",
    "QwenImageTransformerBlock",
    "ZImageTransformerBlock",
    Block.__name__,
}


class DiffusersSurrogate:
    """`mist_attack.surrogate.Surrogate` over diffusers' modules. Make one with `load`.

    The denoiser computes in the dtype it was loaded in, the autoencoder in float32: bfloat16 cannot tell neighbouring
    grey levels apart, and float16 overflows in the backward.
    """

    def __init__(
        self,
        name: str,
        vae: Any,
        unet: Any | None,
        schedule: Mapping[str, Any],
        encode_prompt: PromptEncoder,
        device: torch.device,
        *,
        family: Family | None = None,
        is_demo: bool = False,
        about: str = "",
    ) -> None:
        self.name, self.device, self.is_demo, self.about = name, device, is_demo, about
        self.vae, self.unet = vae, unet
        self.family = family or StableDiffusion()
        self.autoencoder = AUTOENCODERS[type(vae).__name__]
        self.noising: Noising = Flow() if self.family.is_flow else Added()
        self.differentiable = True
        self.sigmas = (sigmas_of(schedule, is_flow=self.family.is_flow) if unet else torch.empty(0)).to(device)
        self._predicts_v = schedule.get("prediction_type") == "v_prediction"
        self._encode_prompt = encode_prompt
        self._conditionings: dict[str, Conditioning] = {}

    def encode(self, images: Tensor) -> Tensor:
        return self.autoencoder.latents(self.vae, images * 2 - 1)

    def decode(self, latents: Tensor) -> Tensor:
        return (self.autoencoder.pictures(self.vae, latents) / 2 + 0.5).clamp(0, 1)

    def spatial_multiple(self, objective: Objective) -> int:
        multiple = self.autoencoder.factor(self.vae)
        if NEEDS[objective].denoiser and self.unet:
            multiple *= self.family.multiple(self.unet)
        return multiple

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        if self.unet is None:
            raise CheckpointError(
                f"{self.name} is an autoencoder without a UNet: only the textural objective can use it."
            )
        unet = self.unet

        def predicted(latents: Tensor, times: Tensor) -> Tensor:
            prompt = tree_map(lambda part: part.expand(len(latents), *part.shape[1:]), conditioning)
            return self.family.predicted(unet, latents.to(unet.dtype), times, prompt)

        if self.family.is_flow:
            return noised_latents - sigma.view(-1, 1, 1, 1) * predicted(noised_latents, sigma).float()
        return denoised(predicted, noised_latents, sigma, self.sigmas, predicts_v=self._predicts_v)

    def conditioning(self, prompt: str) -> Conditioning:
        """(1, ...) tensors in the denoiser's dtype, on `device`: one of Stable Diffusion 1 and 2, else by name."""
        if self.unet is None:
            raise CheckpointError(f"{self.name} is an autoencoder without a UNet: it takes no prompt.")
        if prompt not in self._conditionings:
            if len(self._conditionings) >= 64:  # a gallery of prompts must not fill the memory
                self._conditionings.clear()
            with torch.inference_mode(False):
                with _as_checkpoint_errors(f"The text encoder of {self.name}"):
                    encoded = self._encode_prompt(prompt)
                here = self.device, self.unet.dtype
                self._conditionings[prompt] = tree_map(lambda part: part.to(*here), encoded)
        return self._conditionings[prompt]

    def lora(self, rank: int, seed: int) -> AbstractContextManager[list[Any]]:
        """Within `run`: a LoRA on the denoiser's attention while open, and the weights of it to train.

        By peft. Raises CheckpointError without a denoiser, and without peft."""
        require_trainable(self)
        return adapted(self.unet, rank, seed)

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
        kept = nullcontext() if low_vram else heap.reused(self.device)  # faster, at the price of some memory
        with torch.inference_mode(False), torch.enable_grad(), frozen(modules), lean(modules), kept:
            for module in modules:
                _to(module, self.device)
            # Not by diffusers' enable_gradient_checkpointing: before 0.32 that acts in training mode only, and it
            # computes the autoencoder's middle block three times.
            with recomputed(named(modules, RECOMPUTED) if low_vram else ()):
                return job(self)


def _to(module: nn.Module, device: torch.device) -> None:
    """In the fastest format, which those of films have not."""
    films = any(parameter.ndim == 5 for parameter in module.parameters())
    options: dict[str, Any] = {} if films else {"memory_format": fastest_format(device)}
    module.to(device, **options)


def load(
    checkpoint: Path,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    config: Path | None = None,
    autoencoder: Path | None = None,
) -> DiffusersSurrogate:
    """The model in `checkpoint`, on the CPU; it moves to `device` (default: `pick_device()`) when it is first run.

    `checkpoint` is a single file in the original layout of Stable Diffusion 1, 2 or XL, a folder of diffusers (see
    families.py), a folder with only an autoencoder, or a demo model's folder. `dtype` is the denoiser's. `config`
    describes the modules of a single file; None for those of its family as it was published. `autoencoder` is a small
    one's file, in place of a folder's own.
    Raises CheckpointError that says what was found instead, and where diffusers is not installed; DeviceError.
    """
    device = device or pick_device()
    require_working(device)  # before gigabytes are read for it
    memory.require(checkpoint, dtype, device)
    with torch.inference_mode(False), _as_checkpoint_errors(str(checkpoint)):
        if checkpoint.is_dir():
            parts = load_folder(checkpoint, dtype, autoencoder)
        else:
            parts = load_file(checkpoint, dtype, config)
        return DiffusersSurrogate(
            parts.name,
            parts.vae,
            parts.denoiser,
            parts.schedule,
            parts.encode_prompt,
            device,
            family=parts.family,
            is_demo=parts.is_demo,
            about=parts.about,
        )


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
