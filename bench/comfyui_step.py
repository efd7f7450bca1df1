"""A step of the node over the bare forward and backward of ComfyUI's own modules, taken in turns in one process.

    COMFYUI_PYTHON bench/comfyui_step.py COMFYUI_DIR [CHECKPOINT] [--side 64] [--steps 40] [--objective fused]

Without a checkpoint: SD v1 in full depth and its least width, where calls cost more than sums.

Bare: the autoencoder's encoder and the UNet, with plain copies of the host's weights and PyTorch's attention, once
forward and once backward, without a loop, objective, host or graph. Costs are seconds of the processor, which other
processes disturb less than the clock.
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
WARM_UP = 2
WIDTH = 32  # the fewest channels that a norm with 32 groups takes


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--objective", choices=["fused", "textural", "semantic"], default="fused")
    return parser.parse_args()


def main(wanted):
    sys.path[0] = str(wanted.comfyui)
    sys.path += [str(ROOT), str(ROOT / "tests/host/comfyui")]
    from comfy.cli_args import args

    args.cpu = True
    import torch

    from mist_attack.bench.ratios import ratio
    from mist_attack.hosts.comfyui.adapter import ComfySurrogate
    from mist_attack.protection import protect
    from mist_attack.settings import Settings

    with torch.inference_mode():
        model, vae, positive = narrow() if wanted.checkpoint is None else loaded(wanted.checkpoint)
        turns = Turns(bare_step(model, vae, wanted), wanted.steps)
        image = torch.rand(1, 3, wanted.side, wanted.side)
        settings = Settings(objective=wanted.objective, steps=wanted.steps, working_size=wanted.side)
        protect(image, ComfySurrogate(vae, model, positive=positive), settings, on_step=turns.on_step)
    weights = wanted.checkpoint.stem if wanted.checkpoint else f"{WIDTH} channels"
    print(f"{wanted.comfyui.name}, {weights}, {wanted.objective}, {wanted.side} px, torch threads:", end=" ")
    print(f"{torch.get_num_threads()}; {len(turns.node)} pairs, bare {1000 * statistics.median(turns.bare):.1f} ms")
    print(f"node step over bare modules: {ratio(turns.node, turns.bare)}")


def loaded(checkpoint):
    """(model, vae, conditioning) as the host's own nodes give them."""
    import comfy.sd

    model, clip, vae = comfy.sd.load_checkpoint_guess_config(str(checkpoint))[:3]
    return model, vae, clip.encode_from_tokens_scheduled(clip.tokenize("a painting"))


def narrow():
    """The same with random weights: no checkpoint of another width is taken for Stable Diffusion's."""
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    import make_checkpoints
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL

    device = torch.device("cpu")
    shape = make_checkpoints.UNET_COMMON | make_checkpoints.UNETS["full"] | {"model_channels": WIDTH}
    base = comfy.supported_models.SD15(shape | {"context_dim": WIDTH}).get_model({}, device=device)
    base.diffusion_model.load_state_dict(make_checkpoints.randomised(base.diffusion_model))
    params = {"ddconfig": make_checkpoints.VAE | {"ch": WIDTH, "z_channels": 4}, "embed_dim": 4}
    vae = comfy.sd.VAE(make_checkpoints.randomised(AutoencoderKL(**params)), config={"params": params})
    model = comfy.model_patcher.ModelPatcher(base, load_device=device, offload_device=device)
    return model, vae, [[torch.randn(1, 77, WIDTH), {}]]


def bare_step(model, vae, wanted):
    """A function without arguments."""
    import torch
    from comfy.ldm.modules.attention import attention_pytorch

    from mist_attack.needs import NEEDS

    def attention(_, *args, **kwargs):
        return attention_pytorch(*args, **{**kwargs, "_inside_attn_wrapper": True})

    with torch.inference_mode(False):
        encoder, unet = (
            copy.deepcopy(m).requires_grad_(False) for m in (vae.first_stage_model, model.model.diffusion_model)
        )
        image = torch.rand(1, 3, wanted.side, wanted.side).requires_grad_()
        context, timestep = torch.randn(1, 77, unet_width(unet)), torch.tensor([500])
        noise = torch.randn(1, 4, wanted.side // 8, wanted.side // 8)

    def step():
        latents = encoder.encode(image)
        loss = latents.square().mean()
        if NEEDS[wanted.objective].denoiser:
            options = {"optimized_attention_override": attention}
            predicted = unet(latents + noise, timestep, context=context, transformer_options=options)
            loss = loss + (predicted - noise).square().mean()
        torch.autograd.grad(loss, image)

    return step


def unet_width(unet):
    return next(layer for name, layer in unet.named_modules() if name.endswith("attn2.to_k")).in_features


class Turns:
    """After each step of the node, one bare step."""

    def __init__(self, bare_step, steps):
        from mist_attack.hosts.comfyui.adapter import comfy

        self.bare_step, self.bar = bare_step, comfy.utils.ProgressBar(steps)
        self.node, self.bare = [], []
        self.begun, self.seen = None, 0

    def on_step(self, progress):
        import torch

        self.bar.update_absolute(progress.step, progress.steps)
        ended = time.process_time()
        self.seen += 1
        with torch._C.DisableTorchFunction():
            self.bare_step()
        bare = time.process_time() - ended
        if self.seen > WARM_UP:
            self.node.append(ended - self.begun)
            self.bare.append(bare)
        self.begun = time.process_time()


if __name__ == "__main__":
    main(arguments())
