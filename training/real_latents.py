"""Train a denoiser for an autoencoder that strangers trained: TAEF2, whose makers published none.

    python -m training.real_latents --pictures FOLDER --autoencoder DIR/taef2_encoder.pth --work WORK --out OUT

FOLDER is as train.py has it. The pictures are encoded once, into WORK; the denoiser then learns on the latents as the
encoder gives them (their deviation is 0.8), with SD's noise schedule and v-prediction (Salimans and Ho 2022, arXiv
2202.00512). OUT gets `unet/`, `scheduler/` and `prompts.safetensors`, nothing of the autoencoder. Interrupted runs
resume.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from mist_attack.hosts.headless import tiny
from mist_attack.hosts.tiny.surrogate import TinySurrogate

from .judge import LinearDenoiser
from .train import PROMPT_DROPOUT, PROMPTS, TOKEN_WIDTH, Pictures, PromptTable, Trainer, sd_schedule, sigmas

CHANNELS, SIDE = 32, 256
SHARD = 32  # crops to a file
EVERY = 100  # steps: a checkpoint, and a look for more latents
Bank = tuple[Tensor, list[str]]


def new_unet() -> UNet2DConditionModel:
    """1.9 million parameters, attention at the coarsest scale alone. Its last layer begins at zero: v = 0 is the best
    prediction where latents are as white as the noise and as large, at every timestep alike."""
    unet = UNet2DConditionModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 64, 64),
        layers_per_block=1,
        cross_attention_dim=TOKEN_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return unet


def v_schedule() -> DDPMScheduler:
    return DDPMScheduler.from_config(sd_schedule().config, prediction_type="v_prediction")


def encode(autoencoder: TinySurrogate, folder: Path, count: int, seed: int, work: Path) -> None:
    """Half-precision latents of `count` crops of SIDE px and their kinds, in files of SHARD; those there are kept."""
    work.mkdir(parents=True, exist_ok=True)
    wanted = [work / f"latents-{i:04}.pt" for i in range(count // SHARD)]
    missing = [(i, path) for i, path in enumerate(wanted) if not path.exists()]
    pictures = Pictures(folder, seed) if missing else None
    for i, path in tqdm(missing, desc="latents"):
        assert pictures is not None
        pictures.rng = np.random.default_rng((seed, i))
        images, kinds = pictures.crops(SHARD, SIDE)
        latents = autoencoder.run(lambda ready, images=images: _latents(ready, images), SHARD, SIDE, SIDE)
        partial = path.with_suffix(".partial")
        torch.save({"latents": latents.half(), "kinds": [str(kind) for kind in kinds]}, partial)
        partial.replace(path)


@torch.no_grad()
def _latents(ready: TinySurrogate, images: Tensor) -> Tensor:
    """images: (B, 3, SIDE, SIDE) in [-1, 1]."""
    return torch.cat([ready.encode(part / 2 + 0.5) for part in images.split(4)])


def bank(work: Path) -> Bank:
    """(N, CHANNELS, SIDE/8, SIDE/8) float16, and the kind of each."""
    shards = [torch.load(path, weights_only=True) for path in sorted(work.glob("latents-*.pt"))]
    return torch.cat([shard["latents"] for shard in shards]), [kind for shard in shards for kind in shard["kinds"]]


def train(work: Path, steps: int, seed: int) -> tuple[UNet2DConditionModel, PromptTable]:
    """On the mean squared error over the best linear predictor's at that timestep, so that every timestep counts.
    Latents may still be written while it runs."""
    latents, kinds = bank(work)
    model = torch.nn.ModuleDict({"unet": new_unet(), "prompts": PromptTable()})
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    trainer, schedule = Trainer(model, steps, 3e-3, work / "unet.pt"), v_schedule()
    kept = schedule.alphas_cumprod
    of_v = kept / LinearDenoiser.fitted(latents.float()).loss(sigmas(schedule))  # eps errs by sqrt(kept) times as much
    for step in trainer.remaining():
        if step % EVERY == EVERY - 1:
            latents, kinds = bank(work)
            trainer.save(step)
        rng = np.random.default_rng((seed, step))
        side, count = (32, 6) if step % 2 or step >= steps / 2 else (16, 24)
        chosen, (top, left) = rng.integers(len(latents), size=count), rng.integers(33 - side, size=2)
        clean = latents[chosen, :, top : top + side, left : left + side].float()
        said = ["" if rng.random() < PROMPT_DROPOUT else PROMPTS[kinds[i]] for i in chosen]
        timesteps = torch.from_numpy(stratified(count, len(kept), rng))
        noise = torch.randn_like(clean)
        noised = schedule.add_noise(clean, noise, timesteps).contiguous(memory_format=torch.channels_last)
        v = schedule.get_velocity(clean, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            v_pred = model["unet"](noised, timesteps, model["prompts"](said)).sample
        trainer.update(((v_pred.float() - v).square().mean((1, 2, 3)) * of_v[timesteps]).mean())
    average = trainer.average.module.eval()
    return average["unet"], average["prompts"]


def stratified(count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """One timestep of each of `count` equal parts, which halves the noise of the gradient."""
    return ((np.arange(count) + rng.random(count)) / count * length).astype(np.int64)


def save(unet: UNet2DConditionModel, prompts: PromptTable, out: Path) -> None:
    unet.to(torch.float16).save_pretrained(out / "unet")
    v_schedule().save_pretrained(out / "scheduler")
    save_file(prompts.table(), out / "prompts.safetensors")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, required=True, help="TAEF2's encoder")
    parser.add_argument("--work", type=Path, required=True, help="where latents and checkpoints are kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latents", type=int, default=2048, help="crops encoded")
    parser.add_argument("--steps", type=int, default=8000, help="0: encode alone")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    autoencoder = tiny.load(options.autoencoder, torch.device("cpu"))
    encode(autoencoder, options.pictures, options.latents, options.seed, options.work)
    if options.steps:
        save(*train(options.work, options.steps, options.seed), options.out)


if __name__ == "__main__":
    main()
