"""Nodes of `make gpu-check` alone: what a step on the loaded model gives and costs, and whether samplers still agree.

They write to the files that MIST_FOUND names, and take the engine from MIST_ROOT."""

import copy
import json
import os
import sys
from pathlib import Path

import torch

FOUND = Path(os.environ["MIST_FOUND"])
FEW = 2
sys.path.append(os.environ["MIST_ROOT"])


class MistGpuMeasure:
    """Writes FOUND.pt, the gradient, and figures for `MistGpuCompare`; gives `latent` on, so that it comes before."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "run", ("LATENT",)
    figures: dict = {}  # noqa: RUF012  # of the last run

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802  # the host's name
        numbers = {name: ("INT", {"default": 1, "min": 1, "max": 4096}) for name in ("side", "steps")}
        models = {"model": ("MODEL",), "clip": ("CLIP",), "vae": ("VAE",)}
        return {"required": {**models, "after": ("LATENT",), "latent": ("LATENT",), **numbers}}

    def run(self, model, clip, vae, after, latent, side, steps):
        from mist_attack.devices.agreement import step_gradient
        from mist_attack.hosts.comfyui.adapter import ComfySurrogate
        from mist_attack.settings import Settings

        surrogate, settings = ComfySurrogate(vae, model, clip), Settings(working_size=side)
        surrogate.run(
            lambda ready: torch.save(step_gradient(ready, settings, side), FOUND.with_suffix(".pt")), 1, side, side
        )
        figures = surrogate.run(lambda ready: costs(ready, side, steps), 1, side, side)
        asked = self.asked(surrogate, side)
        self.figures.clear()
        self.figures.update(figures, asked_GiB=asked, over_bare=over_bare(figures["ms"], surrogate, side))
        return (latent,)

    @staticmethod
    def asked(surrogate, side):
        from mist_attack.hosts.borrowing.lending import memory
        from mist_attack.hosts.comfyui.adapter import _dtype

        return memory(side * side, _dtype(surrogate.model.model).itemsize, low_vram=False) / 2**30


def costs(ready, side, steps):
    """Within a run: milliseconds of a step, and the most memory of one besides what lies there before."""
    from mist_attack.bench.cost import our_steps
    from mist_attack.bench.meters import Clock, peak_bytes
    from mist_attack.settings import Settings

    loop, clock = our_steps(ready, side, Settings(working_size=side)), Clock(ready.device)
    loop(1)
    on_card = ready.device.type == "cuda"
    held = torch.cuda.memory_allocated(ready.device) if on_card else 0
    peak = peak_bytes(ready.device, lambda: loop(1)) if on_card else None
    ms = 1000 * (clock.time(lambda: loop(FEW + steps)) - clock.time(lambda: loop(FEW))) / steps
    dtype = str(ready.model.model.get_dtype()).removeprefix("torch.")
    return {"ms": ms, "peak_GiB": peak and (peak - held) / 2**30, "unet_dtype": dtype}


def over_bare(ms, surrogate, side):
    """A step over the encoder and the UNet alone, plain copies of them; None where they cannot be copied."""
    from mist_attack.bench.meters import Clock

    try:
        with torch.inference_mode(False), torch.enable_grad():
            step, clock = bare_step(surrogate, side), Clock(surrogate.device)
            step()
            return ms / (1000 * min(clock.time(step) for _ in range(3)))
    except Exception as error:
        print(f"no bare modules: {type(error).__name__}: {error}")
        return None


def bare_step(surrogate, side):
    from comfy.ldm.modules.attention import attention_pytorch

    device, unet = surrogate.device, surrogate.model.model.diffusion_model
    dtype = surrogate.model.model.manual_cast_dtype or surrogate.model.model.get_dtype()
    encoder = copy.deepcopy(surrogate.vae.first_stage_model).requires_grad_(False).to(device, torch.float32)
    unet = copy.deepcopy(unet).requires_grad_(False).to(device, dtype)
    width = next(layer for name, layer in unet.named_modules() if name.endswith("attn2.to_k")).in_features
    image = torch.rand(1, 3, side, side, device=device).requires_grad_()
    context, timestep = torch.randn(1, 77, width, device=device, dtype=dtype), torch.tensor([500], device=device)
    options = {
        "optimized_attention_override": lambda _, *args, **named: attention_pytorch(
            *args, **{**named, "_inside_attn_wrapper": True}
        )
    }

    def step():
        latents = encoder.encode(image)
        leaf = latents.detach().to(dtype).requires_grad_()
        predicted = unet(leaf, timestep, context=context, transformer_options=options)
        (gradient,) = torch.autograd.grad(predicted, leaf, torch.ones_like(predicted))
        torch.autograd.grad(latents, image, gradient.to(latents.dtype))

    return step


class MistGpuCompare:
    """Writes FOUND.json: the figures, and whether two samplers gave the same bits."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"first": ("LATENT",), "second": ("LATENT",)}}

    def run(self, first, second):
        same = torch.equal(first["samples"], second["samples"])
        figures = MistGpuMeasure.figures | {"generation_identical": same}
        FOUND.with_suffix(".json").write_text(json.dumps(figures), encoding="utf-8")
        return {}


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (MistGpuMeasure, MistGpuCompare)}
