"""ComfyUI's denoisers as the engine asks them: through the host's own guider, which has prepared all that they need.

Of families and formats whose derivative is verified gradients are possible; any other is only asked for predictions,
in the host's own mode, with its own kernels and weights: nothing is borrowed of it.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...errors import CheckpointError
from ...noising import Added, Flow, Noising
from ...surrogate import out_of_memory
from ..borrowing.aliases import alias, unwatched
from ..borrowing.denoiser import with_loss_scale
from .changes import marked_as_training
from .checks import check_prepared

KEY = "mist"
DISTILLED = {"FluxSchnell": 4}
"""Class of the host's -> how many noise levels it was distilled to."""


def sampling_of(model: Any) -> Any:
    return model.get_model_object("model_sampling")


def noising_of(model: Any) -> Noising:
    """Of any kind that `check_model` lets through."""
    sampling = sampling_of(model)
    if isinstance(sampling, comfy.model_sampling.CONST):
        return Flow(noise_scale=float(getattr(sampling, "noise_scale", 1.0)))
    return Added(sigma_data=float(getattr(sampling, "sigma_data", 1.0)))


def sigmas_of(model: Any) -> Tensor:
    """The schedule with the shift that the graph has given it; of a distilled model its few levels."""
    with torch.inference_mode(False):
        sigmas = sampling_of(model).sigmas.detach().clone().float()
    levels = DISTILLED.get(type(model.model.model_config).__name__, 0)
    return sigmas.view(levels, -1)[:, -1].contiguous() if levels else sigmas


def patch_of(model: Any) -> int:
    """Latents of which the sides must be multiples."""
    config = model.model.model_config.unet_config
    if "channel_mult" in config:
        return 2 ** (len(config["channel_mult"]) - 1)
    patch = getattr(model.model.diffusion_model, "patch_size", None) or config.get("patch_size", 2)
    return max(int(side) for side in (patch if isinstance(patch, (tuple, list)) else [patch]))


def framed(model: Any, latents: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 1, h, w) for a model of videos, which makes a picture of one frame."""
    return latents.unsqueeze(2) if model.model.latent_format.latent_dimensions == 3 else latents


class Loop(comfy.samplers.Sampler):
    """A sampler that samples nothing: it runs `loop` where the host would run its own."""

    def __init__(self, loop: Callable[[Any, dict[str, Any], Tensor], Any]) -> None:
        self.loop, self.begun = loop, False

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
        self.begun = True
        self.result = self.loop(model_wrap, extra_args, noise)
        return noise


class Denoiser:
    """The host's guider with its prepared conditioning, as `Surrogate.denoise`."""

    def __init__(
        self, guider: Any, extra_args: dict[str, Any], noise: Tensor, conditioning: Any, *, differentiable: bool
    ) -> None:
        self.guider, self.extra_args, self.noise, self.conditioning = guider, extra_args, noise, conditioning
        self.differentiable, self.answered = differentiable, False
        check_prepared(guider.conds["positive"])

    @property
    def dtype(self) -> torch.dtype:
        return dtype_of(self.guider.inner_model)

    def __call__(self, noised_latents: Tensor, sigma: Tensor, conditioning: Any) -> Tensor:
        if conditioning is not self.conditioning:
            self._prepare(conditioning)
        if not self.differentiable:
            return self._predicted(noised_latents, sigma)
        # A mean over the latents makes gradients so small that half precision would lose them inside the UNet.
        scale = 1.0 if self.dtype == torch.float32 else noised_latents[0].numel() / 2
        return with_loss_scale(lambda latents: self.guider(latents, sigma, **self.extra_args), noised_latents, scale)

    def _predicted(self, noised_latents: Tensor, sigma: Tensor) -> Tensor:
        """As in a generation: in inference mode, not marked as training."""
        shape = noised_latents.shape
        with ExitStack() as within:
            for mode in (torch.inference_mode(), unwatched(), marked_as_training(False)):
                within.enter_context(mode)
            latents = noised_latents.detach().reshape(len(noised_latents), *self.noise.shape[1:-2], *shape[-2:])
            denoised = self._asked(latents, sigma)
        return alias(denoised.float()).reshape(shape)

    def _asked(self, latents: Tensor, sigma: Tensor) -> Tensor:
        try:
            denoised = self.guider(latents, sigma, **self.extra_args)
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            if self.answered or out_of_memory(error):
                raise
            raise misfit(error) from error
        self.answered = True
        return denoised

    def _prepare(self, conditioning: Any) -> None:
        conds = {"positive": comfy.sampler_helpers.convert_cond(conditioning)}
        with torch.inference_mode(not self.differentiable):
            self.guider.conds = comfy.samplers.process_conds(
                self.guider.inner_model, self.noise, conds, self.noise.device, self.noise, None, 0
            )
        check_prepared(self.guider.conds["positive"])
        self.conditioning = conditioning


def misfit(error: Exception) -> CheckpointError:
    """What the host's model says of a conditioning that is not its own, or of latents that it cannot take."""
    return CheckpointError(
        f"The model cannot work with this prompt or conditioning ({type(error).__name__}: {error}). "
        "Connect the clip, or a conditioning, that was made for this model."
    )


def dtype_of(base: Any) -> torch.dtype:
    """In which the denoiser computes."""
    return base.manual_cast_dtype or base.get_dtype()


def cloned(model: Any, vae: Any, needed: float, *, differentiable: bool) -> Any:
    """The user's model with what the loop needs; its own options stay as they are. needed: bytes to ask for."""
    clone = model.clone()
    clone.set_additional_models(KEY, [vae.patcher])
    options = clone.model_options
    for name in ("sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function"):
        options.pop(name, None)  # they steer a generation, and may call the model once more
    if differentiable:
        options.setdefault("transformer_options", {})["optimized_attention_override"] = _attention

    def ask_for_more(prepare: Any, model: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
        """The host estimates an inference; the batch is the one number of its estimate that a caller can change."""
        return prepare(model, [shape[0] * needed / inference_memory(model, shape), *shape[1:]], *args, **kwargs)

    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, KEY, ask_for_more)
    return clone


def inference_memory(model: Any, shape: Any) -> float:
    """Bytes that the host asks for a forward of latents of this shape."""
    return max(1.0, float(model.model.memory_required(list(shape))))


def _attention(_: Any, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's own: the host's other kinds have no backward in every case."""
    return comfy.ldm.modules.attention.attention_pytorch(*args, **{**kwargs, "_inside_attn_wrapper": True})
