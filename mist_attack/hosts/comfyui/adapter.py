"""The model that a ComfyUI graph already holds, as the engine asks for it.

The host keeps all it does: the loop runs as a `comfy.samplers.Sampler` inside its CFGGuider, which loads the models,
applies LoRAs, hooks and model sampling, and prepares the conditioning. Only around the loop inference mode is left,
and everything that is borrowed is put back on every exit.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...needs import NEEDS
from ...surrogate import Objective, Result, Surrogate, require_trainable
from ..borrowing.adapting import low_rank
from ..borrowing.aliases import Aliases, unwatched
from ..borrowing.lean import lean
from ..borrowing.lending import instance_attributes, layers_of, memory
from .autoencoders import Autoencoder, Scale, unframed
from .changes import autoencoder_changes, freed_of_aliases, marked_as_training, quantised_changes, recomputed
from .checks import check_fit, check_model, check_vae, unverified
from .denoiser import (
    Denoiser,
    Loop,
    cloned,
    dtype_of,
    framed,
    inference_memory,
    misfit,
    noising_of,
    patch_of,
    sigmas_of,
)
from .layers import fetched, refetching
from .weights import lasting, spare_memory


class ComfySurrogate:
    """`mist_attack.surrogate.Surrogate` over what the nodes of a graph hand on.

    vae: a VAE. model: a MODEL (ModelPatcher), with its LoRAs and other patches; None serves the textural objective
    alone. clip: a CLIP, for prompts. positive: a CONDITIONING to use instead. The autoencoder computes in float32 also
    where the host keeps it in half precision; the denoiser computes in the host's dtype.
    Raises CheckpointError for what is refused: see `check_vae` and `check_model`.
    """

    def __init__(self, vae: Any, model: Any = None, clip: Any = None, positive: Any = None) -> None:
        check_vae(vae)
        if model is not None:
            check_model(model)
            check_fit(vae, model)
        self.vae, self.clip, self.positive = vae, clip, positive
        self.autoencoder = Autoencoder(vae)
        self.model: Any = model
        self.name = _name(vae, model)
        self.device = vae.device if model is None else model.load_device
        self.differentiable = model is not None and unverified(model) is None
        self.sigmas = torch.empty(0)
        if model is not None:
            self.noising, self.sigmas = noising_of(model), sigmas_of(model).to(self.device)
        self._prompts: dict[str, Any] = {}
        self._denoiser: Denoiser | None = None
        self._running = False

    @property
    def modules(self) -> list[nn.Module]:
        """What a run borrows: the autoencoder, and the denoiser where its derivative is to be had."""
        unet = [self.model.model.diffusion_model] if self.differentiable else []
        return [self.vae.first_stage_model, *unet]

    def encode(self, images: Tensor) -> Tensor:
        with unwatched():
            latents = self.autoencoder.encode(images).to(self.device)
        return unframed(self._scale.into(latents))

    def decode(self, latents: Tensor) -> Tensor:
        latents = self._scale.out_of(self.autoencoder.framed(latents))
        return self.autoencoder.decode(latents).to(self.device)

    @property
    def _scale(self) -> Scale:
        if self.model is None:
            return self.autoencoder.scale
        return Scale(self.model.model.process_latent_in, self.model.model.process_latent_out)

    def spatial_multiple(self, objective: Objective) -> int:
        multiple = self.autoencoder.multiple
        if NEEDS[objective].denoiser and self.model is not None:
            multiple *= patch_of(self.model)
        return multiple

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: Any) -> Tensor:
        if self._denoiser is None:
            raise CheckpointError(
                f"{self.name}: the semantic and fused modes need a model, and none is connected. Connect one."
            )
        if torch.is_grad_enabled() and noised_latents.requires_grad and not self.differentiable:
            raise CheckpointError(
                f"{self.name}: the gradient exact goes through the model, and nobody has checked its derivative. "
                "Use sds, or amortised."
            )
        return self._denoiser(noised_latents, sigma, conditioning)

    def conditioning(self, prompt: str) -> Any:
        """A CONDITIONING. The user's own takes the place of every prompt."""
        if self.positive is not None:
            return self.positive
        if self.clip is None:
            raise CheckpointError(
                "A prompt needs a text encoder, and none is connected. Connect a clip, or a conditioning."
            )
        if prompt not in self._prompts:
            self._prompts[prompt] = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))
        return self._prompts[prompt]

    def lora(self, rank: int, seed: int) -> AbstractContextManager[list[Any]]:
        require_trainable(self)
        return low_rank(self.model.model.diffusion_model, rank, seed, self.device)

    def run(
        self, job: Callable[[Surrogate], Result], batch: int, height: int, width: int, *, low_vram: bool = False
    ) -> Result:
        if self._running:  # a run inside a run
            with self._recomputed(low_vram):
                return job(self)
        unet_bytes = dtype_of(self.model.model).itemsize if self.differentiable else 0
        floats = self.autoencoder.floats
        needed = memory(batch * height * width, unet_bytes, low_vram=low_vram, autoencoder=floats)
        if self.model is None:
            comfy.model_management.load_models_gpu([self.vae.patcher], memory_required=needed)
            return self._differentiate(lambda: job(self), None, needed, low_vram)
        empty = self._empty(batch, height, width)
        if not self.differentiable:
            needed += inference_memory(self.model, empty.shape)
        return self._sample(lambda: job(self), empty, needed, low_vram)

    def _recomputed(self, low_vram: bool) -> AbstractContextManager[None]:
        return recomputed(self.autoencoder.encoding, self.modules[1:]) if low_vram else nullcontext()

    def _empty(self, batch: int, height: int, width: int) -> Tensor:
        """Latents as the denoiser takes them."""
        factor, channels = self.autoencoder.multiple, self.model.model.latent_format.latent_channels
        return framed(self.model, torch.zeros(batch, channels, height // factor, width // factor))

    def _sample(self, job: Callable[[], Result], empty: Tensor, needed: float, low_vram: bool) -> Result:
        """The loop as the host's sampler, so that the host loads and prepares all that a generation needs."""
        conditioning = self.conditioning("")
        guider = comfy.samplers.CFGGuider(cloned(self.model, self.vae, needed, differentiable=self.differentiable))
        guider.inner_set_conds({"positive": conditioning})

        def loop(guider: Any, extra_args: dict[str, Any], noise: Tensor) -> Result:
            asked = Denoiser(guider, extra_args, noise, conditioning, differentiable=self.differentiable)
            return self._differentiate(job, asked, needed, low_vram)

        sampler = Loop(loop)
        try:
            guider.sample(empty, empty.clone(), sampler, self.sigmas[[-1, 0]].cpu(), seed=0)
        except (LookupError, TypeError, AttributeError) as error:
            if sampler.begun:
                raise
            raise misfit(error) from error  # while the host prepared the conditioning
        return sampler.result

    def _differentiate(
        self, job: Callable[[], Result], denoiser: Denoiser | None, needed: float, low_vram: bool
    ) -> Result:
        autoencoder = self.vae.first_stage_model

        def differentiable(modules: list[nn.Module], device: torch.device, dtype: torch.dtype) -> None:
            spare = 0.0 if low_vram else spare_memory(device, needed)
            borrowed.enter_context(lasting(modules, device, dtype, spare))
            borrowed.enter_context(refetching(modules, device, dtype))

        with ExitStack() as borrowed:
            borrowed.enter_context(torch.inference_mode(False))
            borrowed.enter_context(torch.enable_grad())
            borrowed.enter_context(marked_as_training())
            borrowed.enter_context(
                instance_attributes({layer: {"training": False} for layer in layers_of(self.modules)})
            )
            borrowed.enter_context(instance_attributes(autoencoder_changes(autoencoder)))
            borrowed.enter_context(instance_attributes(quantised_changes(self.modules)))
            borrowed.enter_context(lean([autoencoder], fetched))
            differentiable(self.autoencoder.encoding, self.vae.device, torch.float32)
            if denoiser is not None and denoiser.differentiable:
                differentiable([self.model.model.diffusion_model], self.device, denoiser.dtype)
                borrowed.enter_context(freed_of_aliases(self.model.model.diffusion_model))
            borrowed.enter_context(self._recomputed(low_vram))
            borrowed.enter_context(Aliases())
            self._denoiser, self._running = denoiser, True
            try:
                return job()
            finally:
                self._denoiser, self._running = None, False


def _name(vae: Any, model: Any) -> str:
    if model is None:
        return f"{type(vae.first_stage_model).__name__}, {vae.latent_channels} channels, in ComfyUI"
    return f"{type(model.model.model_config).__name__} in ComfyUI"
