"""The model that AUTOMATIC1111's web UI has loaded: SD1, SD2, SDXL and SD3, through the host's own hijacks.

Loading, attention, memory and precision are the web UI's; `run` borrows them and gives them back.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from modules import devices, extra_networks, processing, prompt_parser, sd_hijack, sd_models, sd_unet, shared
from modules.sd_hijack_optimizations import SdOptimizationSdp
from torch import Tensor, nn

from ..errors import CheckpointError
from ..needs import NEEDS
from ..noising import Added, Flow, Noising
from ..surrogate import Conditioning, Objective, Result, Surrogate, require_trainable
from .borrowing.adapting import low_rank
from .borrowing.denoiser import denoised, noise_levels, with_loss_scale
from .borrowing.lean import lean
from .borrowing.lending import attributes, cast, frozen, layers_of, named, recompute, recomputed

DIFFERENTIABLE_ATTENTION = {"sdp", "sdp-no-mem", "sub-quadratic", "V1", "InvokeAI", "Doggettx"}
RECOMPUTED_IN_UNET = {
    "ResBlock",
    "BasicTransformerBlock",
    "JointBlock",
}  # they hold nearly all activations, and never each other
RECOMPUTED_IN_VAE = {"ResnetBlock"}


def loaded(*, keep_extra_networks: bool = False) -> WebuiSurrogate:
    """The model now loaded; ask each time, inside the web UI's queue lock. Raises CheckpointError without one.

    `keep_extra_networks`: leave LoRA and hypernetworks as they are, which the next image of a running generation needs.
    Else the weights of an earlier generation are taken off, as the web UI does itself before the next one.
    """
    model = shared.sd_model
    if model is None:
        raise CheckpointError(
            "The web UI has no Stable Diffusion model loaded. Choose a checkpoint at the top of the page; "
            "if loading it fails, the console says why (on a CPU, start the web UI with --no-half)."
        )
    return WebuiSurrogate(model, keep_extra_networks=keep_extra_networks)


class WebuiSurrogate:
    """`mist_attack.surrogate.Surrogate` over a model of `modules.sd_models`. Make one with `loaded`.

    The UNet computes as the web UI computes; the autoencoder in float32: half precision cannot tell neighbouring grey
    levels apart. With --medvram and --lowvram, where one part's weights leave the device when another works, the
    encoder is computed once more in its backward, so that its graph and the UNet's never stand side by side.
    """

    def __init__(self, model: Any, *, keep_extra_networks: bool = False) -> None:
        self.model, self.keep_extra_networks = model, keep_extra_networks
        self.device = torch.device(devices.device)
        self.name = f"{_family(model)} ({model.sd_checkpoint_info.model_name})"
        self.sigmas = (_sigmas(model) if _takes_a_prompt_alone(model) else torch.empty(0)).to(self.device)
        self.noising: Noising = Flow() if model.is_sd3 else Added()
        self.differentiable = True
        self._in_low_vram = False

    @property
    def vae(self) -> Any:
        return self.model.first_stage_model

    @property
    def unet(self) -> Any:
        return self.model.model.diffusion_model

    def encode(self, images: Tensor) -> Tensor:
        mean = self._mean(images)
        if self.model.is_sd3:
            return self.model.latent_format.process_in(mean)
        return mean * self.model.scale_factor

    def _mean(self, images: Tensor) -> Tensor:
        if not (self.model.lowvram and torch.is_grad_enabled()):
            return self._posterior_mean(images)
        if not self._in_low_vram:
            return recompute(self._posterior_mean, images)
        mean = self._posterior_mean(images)
        if mean.requires_grad:  # the UNet worked in between, and sent the autoencoder's weights away
            mean.register_hook(lambda _: _to_device(self.vae))
        return mean

    def _posterior_mean(self, images: Tensor) -> Tensor:
        """Below the host's `encode_first_stage`, which allows no gradient, and `encode`, which in SDXL samples."""
        _to_device(self.vae)
        with devices.without_autocast():
            hidden = self.vae.encoder(images * 2 - 1)
            if hasattr(self.vae, "quant_conv"):
                hidden = self.vae.quant_conv(hidden)
        return hidden.chunk(2, dim=1)[0]

    def decode(self, latents: Tensor) -> Tensor:
        if self.model.is_sd3:
            latents = self.model.latent_format.process_out(latents)
        else:
            latents = latents / self.model.scale_factor
        with devices.without_autocast():
            return (self.vae.decode(latents).float() / 2 + 0.5).clamp(0, 1)

    def spatial_multiple(self, objective: Objective) -> int:
        multiple = 2 ** (self.vae.encoder.num_resolutions - 1)
        if NEEDS[objective].denoiser and len(self.sigmas):
            multiple *= self.unet.patch_size if self.model.is_sd3 else 2 ** (len(self.unet.channel_mult) - 1)
        return multiple

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self._require_denoiser()
        if self.model.is_sd3:  # which the host lets answer with the clean latents
            prompts = _for_batch(conditioning, len(noised_latents))
            return with_loss_scale(lambda noised: self.model.apply_model(noised, sigma, prompts), noised_latents)

        def unet(latents: Tensor, timesteps: Tensor) -> Tensor:
            prompts = _for_batch(conditioning, len(latents))
            return with_loss_scale(lambda scaled: self.model.apply_model(scaled, timesteps, prompts), latents)

        return denoised(unet, noised_latents, sigma, self.sigmas, predicts_v=self.model.parameterization == "v")

    def conditioning(self, prompt: str) -> Conditioning:
        """{name: (1, ...) tensor}, as `_for_batch` hands it to the host. Emphasis and embeddings work as in prompts.

        SDXL is told the size it is trained at, 1024 x 1024: imitators train it on whole pictures of that size.
        """
        self._require_denoiser()
        self._prepare()
        prompts = prompt_parser.SdConditioning([prompt], width=1024, height=1024)
        with torch.inference_mode(False), torch.no_grad(), devices.autocast(), _generation_parameters_kept():
            answer = self.model.get_learned_conditioning(prompts)
        return answer if isinstance(answer, dict) else {"c_crossattn": answer}

    def lora(self, rank: int, seed: int) -> AbstractContextManager[list[Any]]:
        require_trainable(self)
        return low_rank(self.unet, rank, seed, self.device)

    def run(
        self,
        job: Callable[[Surrogate], Result],
        batch: int,
        height: int,
        width: int,
        *,
        low_vram: bool = False,
    ) -> Result:
        self._prepare()
        devices.torch_gc()
        unet_layers, vae_layers = self._recomputed_layers(low_vram)
        layers = layers_of([self.vae, self.unet])
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            attributes([self], _in_low_vram=low_vram),
            _original_unet(),
            _zero_padding(),
            _differentiable_attention(),
            attributes(layers, use_checkpoint=False, checkpoint=False),  # the host's is reentrant
            frozen([self.vae, self.unet]),
            _casts_that_last(),
            cast(self.vae, torch.float32),
            lean([self.vae]),
            recomputed(unet_layers, devices.autocast, _to_device),
            recomputed(vae_layers),
        ):
            return job(self)

    def _prepare(self) -> None:
        if not self.keep_extra_networks:
            extra_networks.activate(processing.StableDiffusionProcessingTxt2Img(), {})
        sd_models.send_model_to_device(self.model)

    def _recomputed_layers(self, low_vram: bool) -> tuple[list[nn.Module], list[nn.Module]]:
        """Of the UNet and of the encoder."""
        encoder = named([self.vae.encoder], RECOMPUTED_IN_VAE) if low_vram else []
        if _block_by_block(self.model):  # --lowvram: a block's weights must come back for its backward
            unet = self.unet
            return [*unet.input_blocks, unet.middle_block, *unet.output_blocks], encoder
        return (named([self.unet], RECOMPUTED_IN_UNET) if low_vram else []), encoder

    def _require_denoiser(self) -> None:
        if not len(self.sigmas):
            raise CheckpointError(
                f"{self.name} works with the textural objective only. Choose it, or load an SD 1.x, SD 2.x, SDXL or "
                "SD 3 checkpoint that is not for inpainting."
            )


def _family(model: Any) -> str:
    families = {"is_sd3": "SD3", "is_sdxl": "SDXL", "is_sd2": "SD2", "is_sd1": "SD1"}
    family = next((name for flag, name in families.items() if getattr(model, flag, False)), "Stable Diffusion")
    return family if _takes_a_prompt_alone(model) else f"{family}, autoencoder only"


def _takes_a_prompt_alone(model: Any) -> bool:
    """Not of inpainting, editing or image variation, whose UNet wants more."""
    return not getattr(model, "is_sdxl_inpaint", False) and model.model.conditioning_key == "crossattn"


def _sigmas(model: Any) -> Tensor:
    """Noise levels of the training schedule, whatever the options make of it for sampling; of SD3 with its shift."""
    if model.is_sd3:
        sampling = model.model.model_sampling  # its table is halved with the model, and then has levels twice
        return sampling.sigma(torch.arange(1, len(sampling.sigmas) + 1, dtype=torch.float32, device="cpu"))
    return noise_levels(getattr(model, "alphas_cumprod_original", model.alphas_cumprod).detach().cpu())


def _for_batch(conditioning: dict[str, Tensor], batch: int) -> dict[str, Any]:
    """A new dict each time: the host's hijack casts what is in it, and a bare tensor not at all."""
    expanded = {name: value.expand(batch, *value.shape[1:]) for name, value in conditioning.items()}
    return {name: [value] if name == "c_crossattn" else value for name, value in expanded.items()}


def _block_by_block(model: Any) -> bool:
    blocks = getattr(model.model.diffusion_model, "input_blocks", ())  # SD3 has none, and the host no such way for it
    hooks = (hook for block in blocks for hook in block._forward_pre_hooks.values())
    return model.lowvram and any(getattr(hook, "__name__", "") == "send_me_to_gpu" for hook in hooks)


def _to_device(module: nn.Module) -> None:
    """Run the hooks by which --medvram and --lowvram bring a module's weights, and send another's away."""
    for hook in list(module._forward_pre_hooks.values()):
        if getattr(hook, "__name__", "") == "send_me_to_gpu":
            hook(module, ())


@contextmanager
def _generation_parameters_kept() -> Iterator[None]:
    """Encoding a prompt adds to what the running generation will write into its files."""
    hijack = sd_hijack.model_hijack
    before = hijack.extra_generation_params, hijack.comments
    hijack.extra_generation_params, hijack.comments = {}, []
    try:
        yield
    finally:
        hijack.extra_generation_params, hijack.comments = before


@contextmanager
def _original_unet() -> Iterator[None]:
    """The checkpoint's own UNet, not a compiled one (TensorRT), which has no backward."""
    replaced = sd_unet.current_unet is not None
    if replaced:
        sd_unet.apply_unet("None")
    try:
        yield
    finally:
        if replaced:
            sd_unet.apply_unet()


@contextmanager
def _zero_padding() -> Iterator[None]:
    """Convolutions as imitators use them, after a job with "Tiling"."""
    hijack = sd_hijack.model_hijack
    circular = hijack.circular_enabled
    hijack.apply_circular(False)
    try:
        yield
    finally:
        hijack.apply_circular(circular)


@contextmanager
def _differentiable_attention() -> Iterator[None]:
    """Scaled dot product where the current optimisation (xformers, an extension's) is not known to have a backward."""
    current = sd_hijack.current_optimizer
    if current is None or current.name in DIFFERENTIABLE_ATTENTION:
        yield
        return
    families = (sd_hijack.ldm.modules, sd_hijack.sgm.modules)
    classes = [family.attention.CrossAttention for family in families]
    classes += [family.diffusionmodules.model.AttnBlock for family in families]
    before = [(kind, kind.forward) for kind in classes]
    try:
        SdOptimizationSdp().apply()
        yield
    finally:
        for kind, forward in before:
            kind.forward = forward


@contextmanager
def _casts_that_last() -> Iterator[None]:
    """Where the host casts weights for each layer (fp8 storage, MPS, XPU), the graph keeps those it was built with."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    with devices.autocast():
        casts = hasattr(nn.Linear, "org_forward")
    torch.__future__.set_overwrite_module_params_on_conversion(before or casts)
    try:
        yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
