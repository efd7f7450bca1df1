"""The model that a ComfyUI graph already holds, as the engine asks for it.

The host keeps all it does: the loop runs as a `comfy.samplers.Sampler` inside its CFGGuider, which loads the models,
applies LoRAs, hooks and model sampling, and prepares the conditioning. Only around the loop inference mode is left,
and everything that is borrowed is put back on every exit.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ...needs import NEEDS
from ...noising import Added, Noising
from ...surrogate import Objective, Result, Surrogate
from ..borrowing.aliases import Aliases, unwatched
from ..borrowing.denoiser import with_loss_scale
from ..borrowing.lean import lean
from ..borrowing.lending import instance_attributes, layers_of, memory
from .changes import autoencoder_changes, freed_of_aliases, marked_as_training, quantised_changes, recomputed
from .checks import check_model, check_vae
from .layers import fetched, refetching
from .weights import lasting, spare_memory

KEY = "mist"


class ComfySurrogate:
    """`mist_attack.surrogate.Surrogate` over what the nodes of a graph hand on.

    vae: a VAE. model: a MODEL (ModelPatcher), with its LoRAs and other patches; None serves the textural objective
    alone. clip: a CLIP, for prompts. positive: a CONDITIONING to use instead. The autoencoder computes in float32 also
    where the host keeps it in half precision; the UNet computes in the host's dtype.
    Raises CheckpointError for what is refused: see `check_vae` and `check_model`.
    """

    def __init__(self, vae: Any, model: Any = None, clip: Any = None, positive: Any = None) -> None:
        check_vae(vae)
        if model is not None:
            check_model(model)
        self.vae, self.clip, self.positive = vae, clip, positive
        self.model: Any = model
        self.name = _name(vae, model)
        self.device = vae.device if model is None else model.load_device
        self.sigmas = torch.empty(0) if model is None else _sigmas(model).to(self.device)
        self.noising: Noising = Added()
        self._prompts: dict[str, Any] = {}
        self._denoiser: _Denoiser | None = None
        self._running = False

    @property
    def modules(self) -> list[nn.Module]:
        """What a run borrows: the autoencoder, and the UNet where there is a model."""
        unet = [] if self.model is None else [self.model.model.diffusion_model]
        return [self.vae.first_stage_model, *unet]

    def encode(self, images: Tensor) -> Tensor:
        with unwatched():
            latents = self.vae.first_stage_model.encode(self._seen(images)).float().to(self.device)
        return latents if self.model is None else self.model.model.process_latent_in(latents)

    def _seen(self, images: Tensor) -> Tensor:
        return self.vae.process_input(images.to(self.vae.device, torch.float32))

    def decode(self, latents: Tensor) -> Tensor:
        if self.model is not None:
            latents = self.model.model.process_latent_out(latents)
        decoded = self.vae.first_stage_model.decode(latents.to(self.vae.device)).float()
        return self.vae.process_output(decoded.clone()).to(self.device)

    def spatial_multiple(self, objective: Objective) -> int:
        multiple = int(self.vae.spacial_compression_encode())
        if NEEDS[objective].denoiser and self.model is not None:
            multiple *= 2 ** (len(self.model.model.model_config.unet_config["channel_mult"]) - 1)
        return multiple

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: Any) -> Tensor:
        if self._denoiser is None:
            raise CheckpointError(
                f"{self.name}: the semantic and fused modes need a model, and none is connected. Connect one."
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

    def run(
        self, job: Callable[[Surrogate], Result], batch: int, height: int, width: int, *, low_vram: bool = False
    ) -> Result:
        if self._running:  # a run inside a run
            with recomputed(self.modules if low_vram else ()):
                return job(self)
        unet_bytes = 0 if self.model is None else _dtype(self.model.model).itemsize
        needed = memory(batch * height * width, unet_bytes, low_vram=low_vram)
        if self.model is None:
            comfy.model_management.load_models_gpu([self.vae.patcher], memory_required=needed)
            return self._differentiate(lambda: job(self), None, needed, low_vram)
        return self._sample(lambda: job(self), self._shape(batch, height, width), needed, low_vram)

    def _shape(self, batch: int, height: int, width: int) -> tuple[int, ...]:
        """Of the latents."""
        factor = int(self.vae.spacial_compression_encode())
        return (batch, self.model.model.latent_format.latent_channels, height // factor, width // factor)

    def _sample(self, job: Callable[[], Result], shape: tuple[int, ...], needed: float, low_vram: bool) -> Result:
        """The loop as the host's sampler, so that the host loads and prepares all that a generation needs."""
        conditioning = self.conditioning("")
        guider = comfy.samplers.CFGGuider(_clone(self.model, self.vae, needed))
        guider.inner_set_conds({"positive": conditioning})
        sampler = _Loop(
            lambda guider, extra_args, noise: self._differentiate(
                job, _Denoiser(guider, extra_args, noise, conditioning), needed, low_vram
            )
        )
        guider.sample(torch.zeros(shape), torch.zeros(shape), sampler, self.sigmas[[-1, 0]].cpu(), seed=0)
        return sampler.result

    def _differentiate(
        self, job: Callable[[], Result], denoiser: _Denoiser | None, needed: float, low_vram: bool
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
            differentiable(_encoding(autoencoder), self.vae.device, torch.float32)
            if denoiser is not None:
                differentiable([self.model.model.diffusion_model], self.device, denoiser.dtype)
                borrowed.enter_context(freed_of_aliases(self.model.model.diffusion_model))
            borrowed.enter_context(recomputed(self.modules if low_vram else ()))
            borrowed.enter_context(Aliases())
            self._denoiser, self._running = denoiser, True
            try:
                return job()
            finally:
                self._denoiser, self._running = None, False


class _Loop(comfy.samplers.Sampler):
    """A sampler that samples nothing: it runs `loop` where the host would run its own."""

    def __init__(self, loop: Callable[[Any, dict[str, Any], Tensor], Any]) -> None:
        self.loop = loop

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        self.result = self.loop(model_wrap, extra_args, noise)
        return noise


class _Denoiser:
    """The host's guider with its prepared conditioning, as `Surrogate.denoise`."""

    def __init__(self, guider: Any, extra_args: dict[str, Any], noise: Tensor, conditioning: Any) -> None:
        self.guider, self.extra_args, self.noise, self.conditioning = guider, extra_args, noise, conditioning
        self.dtype = _dtype(guider.inner_model)

    def __call__(self, noised_latents: Tensor, sigma: Tensor, conditioning: Any) -> Tensor:
        if conditioning is not self.conditioning:
            self._prepare(conditioning)
        # A mean over the latents makes gradients so small that half precision would lose them inside the UNet.
        scale = 1.0 if self.dtype == torch.float32 else noised_latents[0].numel() / 2
        return with_loss_scale(lambda latents: self.guider(latents, sigma, **self.extra_args), noised_latents, scale)

    def _prepare(self, conditioning: Any) -> None:
        conds = {"positive": comfy.sampler_helpers.convert_cond(conditioning)}
        self.guider.conds = comfy.samplers.process_conds(
            self.guider.inner_model, self.noise, conds, self.noise.device, self.noise, None, 0
        )
        self.conditioning = conditioning


def _name(vae: Any, model: Any) -> str:
    if model is None:
        return f"{type(vae.first_stage_model).__name__}, {vae.latent_channels} channels, in ComfyUI"
    return f"{type(model.model.model_config).__name__} in ComfyUI"


def _encoding(autoencoder: nn.Module) -> list[nn.Module]:
    """All but what decodes, which takes part in no step."""
    return [child for name, child in autoencoder.named_children() if name not in ("decoder", "post_quant_conv")]


def _dtype(base: Any) -> torch.dtype:
    """In which the UNet computes."""
    return base.manual_cast_dtype or base.get_dtype()


def _sigmas(model: Any) -> Tensor:
    with torch.inference_mode(False):
        return model.get_model_object("model_sampling").sigmas.detach().clone().float()


def _clone(model: Any, vae: Any, needed: float) -> Any:
    """The user's model with what the loop needs; its own options stay as they are."""
    clone = model.clone()
    clone.set_additional_models(KEY, [vae.patcher])
    options = clone.model_options
    for name in ("sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function"):
        options.pop(name, None)  # they steer a generation, and may call the model once more
    options.setdefault("transformer_options", {})["optimized_attention_override"] = _attention

    def ask_for_more(prepare: Any, model: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
        """The host estimates an inference; the batch is the one number of its estimate that a caller can raise."""
        times = max(1, math.ceil(needed / max(1, model.memory_required(list(shape)))))
        return prepare(model, [shape[0] * times, *shape[1:]], *args, **kwargs)

    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, KEY, ask_for_more)
    return clone


def _attention(_: Any, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's own: the host's other kinds have no backward in every case."""
    return comfy.ldm.modules.attention.attention_pytorch(*args, **{**kwargs, "_inside_attn_wrapper": True})
