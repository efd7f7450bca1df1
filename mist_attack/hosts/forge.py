"""The model that Forge has loaded, or loads now: SD1, SD2 and SDXL, and the autoencoder of every family.

Loading, memory, LoRA and precision are Forge's. Its weights are inference tensors and its UNet computes in place;
`OutOfPlace` shows torch other tensors and other operations instead, so nothing of the host is replaced.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from ..noising import Added, Noising
from ..surrogate import Conditioning, Objective, Result, Surrogate, out_of_memory
from .borrowing.aliases import OutOfPlace, is_plain
from .borrowing.denoiser import with_loss_scale
from .borrowing.lean import lean
from .borrowing.lending import attributes, layers_of, memory, named, recomputed

RECOMPUTED = {"ResBlock", "BasicTransformerBlock", "ResnetBlock"}  # nearly all activations, and never each other
CONDITION = {"crossattn": "c_crossattn", "vector": "y"}  # a prompt's parts, as `KModel.apply_model` names them


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
        has_denoiser = _is_known(self.objects) and not model.is_inpaint
        self.name = _name(model, has_denoiser)
        self.device: torch.device = self.objects.unet.load_device if has_denoiser else self.objects.vae.device
        self.sigmas = _sigmas(self.objects.unet.model.predictor) if has_denoiser else torch.empty(0)
        self.sigmas = self.sigmas.to(self.device)
        self.noising: Noising = Added()
        self.differentiable = True

    @property
    def modules(self) -> list[nn.Module]:
        """What a run borrows: the autoencoder, and the UNet where its loss is known."""
        unet = [self.objects.unet.model.diffusion_model] if len(self.sigmas) else []
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
        if NEEDS[objective].denoiser and len(self.sigmas):
            multiple *= 2 ** (len(self.objects.unet.model.diffusion_model.channel_mult) - 1)
        return multiple

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self._require_denoiser()
        batch = len(noised_latents)
        parts = {name: part.expand(batch, *part.shape[1:]) for name, part in conditioning.items()}
        apply = self.objects.unet.model.apply_model
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
            return {CONDITION[name]: part.clone().to(self.device) for name, part in parts.items()}

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
            attributes([backend.nn.unet], attention_function=attention.attention_pytorch),
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
        patchers, unet_bytes = [self.objects.vae.patcher], 0
        if len(self.sigmas):
            unet = self.objects.unet
            patchers, unet_bytes = [unet, *patchers], unet.model.computation_dtype.itemsize
        needed = memory(pixels, unet_bytes, low_vram=low_vram)
        memory_management.load_models_gpu(patchers, memory_required=needed)

    @contextmanager
    def _online_loras(self) -> Iterator[None]:
        """LoRAs that are merged anew for each call, which fp8 weights need: on the device, as in a generation."""
        unet = self.objects.unet
        if not (len(self.sigmas) and unet.has_online_lora()):
            yield
            return
        dtype = unet.model.computation_dtype
        try:
            utils.nested_move_to_device(unet.lora_patches, device=unet.current_device, dtype=dtype)
            yield
        finally:
            utils.nested_move_to_device(unet.lora_patches, device=unet.offload_device)

    def _require_denoiser(self) -> None:
        if not len(self.sigmas):
            raise CheckpointError(
                f"{self.name} works with the textural objective only. Choose it, or load an SD 1.x, SD 2.x or SDXL "
                "checkpoint that is not for inpainting and is stored in floating point (not GGUF or NF4)."
            )


def _check_autoencoder(vae: Any) -> None:
    found = type(vae.first_stage_model)
    if not issubclass(found, backend.nn.vae.IntegratedAutoencoderKL):
        raise CheckpointError(
            f"Expected an autoencoder of the KL kind (SD1, SD2, SDXL, SD3, Flux); found {found.__name__}. "
            "Load another checkpoint."
        )


def _is_known(objects: Any) -> bool:
    """A UNet of SD1, SD2 or SDXL that takes a prompt alone, with weights through which there is a gradient."""
    unet, predictor = objects.unet.model.diffusion_model, objects.unet.model.predictor
    return (
        isinstance(unet, backend.nn.unet.IntegratedUNet2DConditionModel)
        and type(predictor) is Prediction
        and predictor.prediction_type in {"epsilon", "v_prediction"}
        and unet.in_channels == objects.vae.latent_channels
        and all(is_plain(p) and p.is_floating_point() for p in unet.parameters())
    )


def _name(model: Any, has_denoiser: bool) -> str:
    families = {"is_sd3": "SD3", "is_sdxl": "SDXL", "is_sd2": "SD2", "is_sd1": "SD1"}
    family = next((name for flag, name in families.items() if getattr(model, flag, False)), type(model).__name__)
    return f"{family}{'' if has_denoiser else ', autoencoder only'} ({model.sd_checkpoint_info.model_name})"


def _sigmas(predictor: Any) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return predictor.sigmas.clone().float()


def _is_copied(module: nn.Module) -> bool:
    """Weights elsewhere or in another dtype than they compute in: a graph would keep the copy of each of them."""
    return any(getattr(layer, "parameters_manual_cast", False) for layer in module.modules())
