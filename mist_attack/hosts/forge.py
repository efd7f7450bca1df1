"""The model that Forge has loaded, or loads now, of every family that makes pictures from a prompt alone.

Loading, memory, LoRA and precision are Forge's. Its weights are inference tensors and its UNet computes in place;
`OutOfPlace` shows torch other tensors and other operations instead, so nothing of the host is replaced. A transformer,
and weights that are quantised, are asked for predictions alone, as in a generation: nothing is borrowed of them.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import backend.nn.unet
import backend.nn.vae
import torch
from backend import attention, memory_management, stream, utils
from backend.modules.k_prediction import Prediction
from backend.text_processing import classic_engine
from modules import prompt_parser, sd_models, shared
from torch import Tensor, nn

from ..errors import CheckpointError
from ..needs import NEEDS
from ..noising import Added, Flow, Noising
from ..surrogate import Conditioning, Objective, Result, Surrogate, out_of_memory, require_trainable
from .borrowing.adapting import low_rank
from .borrowing.aliases import OutOfPlace, alias, is_plain, unwatched
from .borrowing.denoiser import with_loss_scale
from .borrowing.lean import lean
from .borrowing.lending import attributes, layers_of, memory, named, recomputed

RECOMPUTED = {"ResBlock", "BasicTransformerBlock", "ResnetBlock"}  # nearly all activations, and never each other
CONDITION = {"crossattn": "c_crossattn", "vector": "y"}  # a prompt's parts, as `KModel.apply_model` names them
DISTILLED_LEVELS = 4  # of Flux schnell


def loaded(*, keep_extra_networks: bool = False) -> ForgeSurrogate:
    """The model of the chosen checkpoint; ask each time, inside the web UI's queue lock. Raises CheckpointError.

    `keep_extra_networks`: within a running generation, whose model and LoRAs the picture is made with. Else the chosen
    checkpoint, loaded now where it is not yet, without the LoRAs of an earlier generation.
    """
    if keep_extra_networks and hasattr(shared.sd_model, "forge_objects"):
        return ForgeSurrogate(shared.sd_model, keep_extra_networks=True)
    return ForgeSurrogate(_load(), keep_extra_networks=keep_extra_networks)


def _load() -> Any:
    try:
        model, _ = sd_models.forge_model_reload()
    except Exception as error:  # assertions, lookups, and whatever a broken file gives rise to
        if out_of_memory(error):
            raise
        raise CheckpointError(
            f"Forge could not load a model ({type(error).__name__}: {error}). Choose a checkpoint at the top of the "
            "page, and under 'VAE / Text Encoder' what it does not contain itself."
        ) from error
    return model


class ForgeSurrogate:
    """`mist_attack.surrogate.Surrogate` over a model of Forge's `backend`. Make one with `loaded`.

    The UNet computes in the host's dtype; the autoencoder in float32: half precision cannot tell neighbouring grey
    levels apart. Raises CheckpointError for an autoencoder that is not of the KL kind.
    """

    def __init__(self, model: Any, *, keep_extra_networks: bool = False) -> None:
        self.model = model
        self.objects = model.forge_objects_after_applying_lora if keep_extra_networks else model.forge_objects_original
        _check_autoencoder(self.objects.vae)
        self.lack = _lack(model, self.objects)
        self.differentiable = self.lack is None and _has_gradient(self.objects.unet.model)
        self.name = _name(model, has_denoiser=self.lack is None)
        self.device: torch.device = self.objects.vae.device if self.lack else self.objects.unet.load_device
        self.sigmas = (torch.empty(0) if self.lack else _sigmas(self.objects.unet.model)).to(self.device)
        self.noising: Noising = Added() if self.lack else _noising(self.objects.unet.model.predictor)

    @property
    def modules(self) -> list[nn.Module]:
        """What a run borrows: the autoencoder, and the UNet where gradients go through it."""
        unet = [self.objects.unet.model.diffusion_model] if self.differentiable else []
        return [self.objects.vae.first_stage_model, *unet]

    def encode(self, images: Tensor) -> Tensor:
        """Below the host's `encode`, which samples."""
        autoencoder = self.objects.vae.first_stage_model
        coded = autoencoder.encoder(images.to(self.objects.vae.device, torch.float32) * 2 - 1)
        if autoencoder.quant_conv is not None:
            coded = autoencoder.quant_conv(coded)
        mean, _ = coded.to(self.device).chunk(2, dim=1)
        return autoencoder.process_in(mean)

    def decode(self, latents: Tensor) -> Tensor:
        autoencoder, device = self.objects.vae.first_stage_model, self.objects.vae.device
        decoded = autoencoder.decode(autoencoder.process_out(latents).to(device))
        return (decoded / 2 + 0.5).clamp(0, 1).to(self.device)

    def spatial_multiple(self, objective: Objective) -> int:
        multiple = int(self.objects.vae.downscale_ratio)
        if NEEDS[objective].denoiser and self.lack is None:
            multiple *= _patch(self.objects.unet.model.diffusion_model)
        return multiple

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self._require_denoiser()
        batch = len(noised_latents)
        parts = {name: part.expand(batch, *part.shape[1:]) for name, part in conditioning.items()}
        apply = self.objects.unet.model.apply_model
        if not self.differentiable:
            if torch.is_grad_enabled() and noised_latents.requires_grad:
                raise CheckpointError(f"{self.name}: nobody has checked its derivative. Use the gradient sds.")
            with torch.inference_mode(), unwatched():
                denoised = apply(noised_latents, sigma, transformer_options={}, **parts).float()
            return alias(denoised)
        return with_loss_scale(lambda latents: apply(latents, sigma, transformer_options={}, **parts), noised_latents)

    def conditioning(self, prompt: str) -> Conditioning:
        """{name: (1, ...) tensor} for `KModel.apply_model`. Emphasis and embeddings work as in prompts.

        SDXL is told the size it is trained at, 1024 x 1024: imitators train it on whole pictures of that size.
        """
        self._require_denoiser()
        prompts = prompt_parser.SdConditioning([prompt], width=1024, height=1024)
        with (
            attributes([self.model], forge_objects=self.objects),
            attributes([classic_engine], last_extra_generation_params={}),  # for the running generation's infotext
        ):
            self.model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
            answer = self.model.get_learned_conditioning(prompts)
        parts = answer if isinstance(answer, dict) else {"crossattn": answer}
        with torch.inference_mode(False), torch.no_grad():
            return {CONDITION.get(name, name): part.clone().to(self.device) for name, part in parts.items()}

    def lora(self, rank: int, seed: int) -> AbstractContextManager[list[Any]]:
        require_trainable(self)
        return low_rank(self.objects.unet.model.diffusion_model, rank, seed, self.device)

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
        autoencoder = self.modules[0]
        recomputed_layers = named((module for module in self.modules if low_vram or _is_copied(module)), RECOMPUTED)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            self._online_loras(),
            # A backward would outlive what the second stream may write over.
            attributes([stream], stream_activated=False),
            # PyTorch's attention: the host's other kinds have no backward in every case.
            attributes([backend.nn.unet] * self.differentiable, attention_function=attention.attention_pytorch),
            attributes(
                [backend.nn.vae],
                attention_function_single_head_spatial=attention.pytorch_attention_single_head_spatial,
            ),
            attributes(layers_of(self.modules), training=False),
            attributes(autoencoder.modules(), parameters_manual_cast=True),  # to the float32 of the pictures
            lean([autoencoder]),
            recomputed(recomputed_layers),
            OutOfPlace(),
        ):
            return job(self)

    @torch.inference_mode()
    def _load_weights(self, pixels: int, low_vram: bool) -> None:
        """Bring the weights to their devices, with their LoRAs merged, and make room for a forward and backward."""
        patchers, unet = [self.objects.vae.patcher], self.objects.unet
        unet_bytes = unet.model.computation_dtype.itemsize if self.differentiable else 0
        needed = memory(pixels, unet_bytes, low_vram=low_vram)
        if self.lack is None:
            patchers = [unet, *patchers]
        if self.lack is None and not self.differentiable:
            latents = pixels // self.objects.vae.downscale_ratio**2
            needed += unet.model.memory_required([1, self.objects.vae.latent_channels, 1, latents])
        memory_management.load_models_gpu(patchers, memory_required=needed)

    @contextmanager
    def _online_loras(self) -> Iterator[None]:
        """LoRAs that are merged anew for each call, which fp8 weights need: on the device, as in a generation."""
        unet = self.objects.unet
        if self.lack or not unet.has_online_lora():
            yield
            return
        dtype = unet.model.computation_dtype
        try:
            utils.nested_move_to_device(unet.lora_patches, device=unet.current_device, dtype=dtype)
            yield
        finally:
            utils.nested_move_to_device(unet.lora_patches, device=unet.offload_device)

    def _require_denoiser(self) -> None:
        if self.lack:
            raise CheckpointError(
                f"{self.name} works with the textural objective only: {self.lack}. Choose that objective, or a "
                "checkpoint that makes pictures from a prompt alone."
            )


def _check_autoencoder(vae: Any) -> None:
    found = type(vae.first_stage_model)
    if not issubclass(found, backend.nn.vae.IntegratedAutoencoderKL):
        raise CheckpointError(
            f"Expected an autoencoder of the KL kind (SD1, SD2, SDXL, SD3, Flux); found {found.__name__}. "
            "Load another checkpoint."
        )


def _lack(model: Any, objects: Any) -> str | None:
    """Why the denoiser cannot be asked; None where it can."""
    denoiser = objects.unet.model
    if model.is_inpaint:
        return "it is for inpainting, and wants a picture beside the prompt"
    if getattr(denoiser.predictor, "prediction_type", None) not in {"epsilon", "v_prediction", "edm", "const"}:
        return f"what it predicts ({type(denoiser.predictor).__name__}) is not known"
    channels = denoiser.config.unet_config.get("in_channels", objects.vae.latent_channels)
    if channels != objects.vae.latent_channels:
        return f"it takes {channels} channels and not the {objects.vae.latent_channels} of its autoencoder"
    return None


def _has_gradient(denoiser: Any) -> bool:
    """A UNet of SD1, SD2 or SDXL, whose gradient is verified, with weights through which there is one."""
    unet, predictor = denoiser.diffusion_model, denoiser.predictor
    return (
        isinstance(unet, backend.nn.unet.IntegratedUNet2DConditionModel)
        and type(predictor) is Prediction
        and predictor.prediction_type in {"epsilon", "v_prediction"}
        and all(is_plain(p) and p.is_floating_point() for p in unet.parameters())
    )


def _noising(predictor: Any) -> Noising:
    return Flow() if predictor.prediction_type == "const" else Added(sigma_data=float(predictor.sigma_data))


def _patch(unet: Any) -> int:
    """Latents, of which the sides must be multiples."""
    if hasattr(unet, "channel_mult"):
        return 2 ** (len(unet.channel_mult) - 1)
    return int(getattr(unet, "patch_size", 2))


def _name(model: Any, *, has_denoiser: bool) -> str:
    families = {"is_sd3": "SD3", "is_sdxl": "SDXL", "is_sd2": "SD2", "is_sd1": "SD1"}
    family = next((name for flag, name in families.items() if getattr(model, flag, False)), type(model).__name__)
    return f"{family}{'' if has_denoiser else ', autoencoder only'} ({model.sd_checkpoint_info.model_name})"


def _sigmas(denoiser: Any) -> Tensor:
    """The host's, which for flow models are shifted; of Flux without guidance the few that it was distilled to."""
    with torch.inference_mode(False), torch.no_grad():
        sigmas = denoiser.predictor.sigmas.clone().float()
    distilled = not getattr(denoiser.diffusion_model, "guidance_embed", True)
    return sigmas.view(DISTILLED_LEVELS, -1)[:, -1].contiguous() if distilled else sigmas


def _is_copied(module: nn.Module) -> bool:
    """Weights elsewhere or in another dtype than they compute in: a graph would keep the copy of each of them."""
    return any(getattr(layer, "parameters_manual_cast", False) for layer in module.modules())
