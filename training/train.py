"""Train a demo model: a latent-diffusion model of Stable Diffusion v1's shape, small enough for a repository.

    python -m training.train --pictures FOLDER --out mist_attack/demo/seed0 --seed 0

FOLDER has one sub-folder of pictures per kind (see PROMPTS). The result is a diffusers folder: `vae/`, `unet/`
and, where Stable Diffusion has a text encoder, `prompts.safetensors` with one learned embedding per prompt.
First the KL autoencoder (f = 8, 4 channels; Rombach et al. 2022, arXiv 2112.10752), then the denoiser on its
scaled latents with SD's noise schedule and epsilon prediction (Ho et al. 2020, eq. 14). Interrupted runs resume.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from .judge import LinearCode, LinearDenoiser, save_linear
from .linear_start import start_linear, start_passing
from .muon import Muon

PROMPTS = {
    "painting": "a painting",
    "photograph": "a photo",
    "drawing": "a drawing",
    "lineart": "line art",
}
TOKENS, TOKEN_WIDTH = 8, 64
LINEAR_PATCHES = 20_000
KL_WEIGHT = 1e-6  # as in LDM: the posterior becomes as narrow as SD's
COLOUR_WEIGHT = 3.0  # of the error's mean over 8 x 8 pixels: without it colour is learned last
LATENT_JITTER = 0.02  # of the latents' deviation; keeps the decoder smooth off the encoder's exact latents
SENSITIVITY_WEIGHT, SENSITIVE_LEVELS, SENSITIVE_REST = 1.0, 16.0, 0.15
STEADINESS = 0.3  # of the latents under random signs
PROMPT_DROPOUT = 0.4
KIND_SHARES = {"painting": 0.35, "photograph": 0.35, "drawing": 0.2, "lineart": 0.1}
SIDES = (512, 384, 256)  # the shorter sides at which every picture is seen


class Pictures:
    """Pictures in memory at several scales, drawn as random square crops with their kind."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.by_kind = {kind: _load(folder / kind) for kind in PROMPTS if (folder / kind).is_dir()}
        if not self.by_kind:
            raise SystemExit(f"{folder}: expected sub-folders named {', '.join(PROMPTS)} with pictures inside.")
        shares = np.array([KIND_SHARES[kind] for kind in self.by_kind])
        self.shares = shares / shares.sum()

    def crops(self, count: int, side: int) -> tuple[Tensor, list[str]]:
        """(count, 3, side, side) float32 in [-1, 1], and the kind of each."""
        kinds = list(self.rng.choice(list(self.by_kind), size=count, p=self.shares))
        crops = np.stack([self._crop(kind, side) for kind in kinds])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float().div(127.5).sub(1), kinds

    def _crop(self, kind: str, side: int) -> np.ndarray:
        pictures = self.by_kind[kind]
        scales = pictures[self.rng.integers(len(pictures))]
        picture = scales[self.rng.integers(len(scales))]
        top = self.rng.integers(max(1, picture.shape[0] - side + 1))
        left = self.rng.integers(max(1, picture.shape[1] - side + 1))
        crop = picture[top : top + side, left : left + side]
        crop = np.pad(crop, ((0, side - crop.shape[0]), (0, side - crop.shape[1]), (0, 0)), mode="edge")
        return crop[:, ::-1] if self.rng.random() < 0.5 else crop


def _load(folder: Path) -> list[list[np.ndarray]]:
    pictures = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            image = image.convert("RGB")
        sides = [side for side in SIDES if side <= min(image.size)] or [min(image.size)]
        pictures.append([np.asarray(_shorter_side(image, side)) for side in sides])
    return pictures


def _shorter_side(image: Image.Image, side: int) -> Image.Image:
    factor = side / min(image.size)
    size = (round(image.width * factor), round(image.height * factor))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(24, 48, 80, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
    )


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 56, 72),
        layers_per_block=1,
        cross_attention_dim=TOKEN_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def sd_schedule() -> DDPMScheduler:
    """Stable Diffusion v1's noise schedule."""
    return DDPMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def sigmas(schedule: DDPMScheduler) -> Tensor:
    """Noise over signal at each timestep, (1000,)."""
    return ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()


class PromptTable(torch.nn.Module):
    """One learned (TOKENS, TOKEN_WIDTH) embedding per prompt; the empty prompt is the unconditional one."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts = ["", *PROMPTS.values()]
        self.embeddings = torch.nn.Parameter(torch.randn(len(self.prompts), TOKENS, TOKEN_WIDTH))

    def forward(self, prompts: list[str]) -> Tensor:
        return self.embeddings[[self.prompts.index(prompt) for prompt in prompts]]

    def table(self) -> dict[str, Tensor]:
        """Prompt -> its embedding, half precision, as it is saved."""
        rows = self.embeddings.detach().half().cpu()
        return {prompt: row.contiguous() for prompt, row in zip(self.prompts, rows, strict=True)}

    def restore(self, table: dict[str, Tensor]) -> None:
        self.embeddings.data = torch.stack([table[prompt].float() for prompt in self.prompts])


class Trainer:
    """Muon with warm-up and cosine decay, an averaged copy of the weights, and checkpoints to resume from."""

    def __init__(self, module: torch.nn.Module, steps: int, rate: float, state: Path) -> None:
        self.module, self.steps, self.rate, self.state_path = module, steps, rate, state
        self.average = torch.optim.swa_utils.AveragedModel(
            module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
        )
        self.optimizer = Muon(module.parameters(), rate)
        self.step, self.note = 0, ""
        if state.exists():
            saved = torch.load(state, weights_only=True)
            module.load_state_dict(saved["module"])
            self.average.load_state_dict(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step = saved["step"]

    def remaining(self) -> Iterator[int]:
        bar = tqdm(range(self.step, self.steps), initial=self.step, total=self.steps)
        for self.step in bar:
            yield self.step
            if self.step % 50 == 0:
                bar.set_postfix_str(self.note)
            if self.step % 500 == 499:
                self.save(self.step + 1)
        self.save(self.steps)

    def update(self, loss: Tensor) -> None:
        warm = min(1.0, (self.step + 1) / 200)
        decay = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        self.optimizer.rate = self.rate * warm * max(decay, 1e-3)
        self.module.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.module)
        self.note = f"loss {loss.item():.4f}"

    def save(self, step: int) -> None:
        state: dict[str, Any] = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": step,
        }
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.state_path)


def train_vae(
    pictures: Pictures, steps: int, sensitive_steps: int, work: Path, device: str, bf16: bool, begun: Path | None = None
) -> Any:
    """First for reconstruction alone, then for reconstruction and sensitivity. begun: a model to go on from."""
    vae = new_vae().to(device, memory_format=torch.channels_last)
    start_linear(vae, pictures.crops(LINEAR_PATCHES, 8)[0].to(device))
    if begun:
        vae.load_state_dict(AutoencoderKL.from_pretrained(begun / "vae").state_dict())
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)
    trainer = Trainer(vae, steps, 1.5e-3, work / "vae.pt")
    for step in trainer.remaining():
        with autocast:
            loss, _, _ = reconstruction_loss(vae, _batch(pictures, step, device))
        trainer.update(loss)
    trainer = Trainer(vae, sensitive_steps, 1e-3, work / "vae-sensitive.pt")
    for step in trainer.remaining():
        with autocast:
            images = _batch(pictures, step, device)
            loss, images, latents = reconstruction_loss(vae, images)
            loss = loss + SENSITIVITY_WEIGHT * insensitivity(vae, images, latents, step)
        trainer.update(loss)
    return trainer.average.module.eval()


def _batch(pictures: Pictures, step: int, device: str) -> Tensor:
    side = 128 if step % 2 else 64
    images, _ = pictures.crops(8 * 64 * 64 // side**2, side)
    return images.to(device, memory_format=torch.channels_last)


def reconstruction_loss(vae: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the images, and the posterior mean of their latents."""
    posterior = vae.encode(images).latent_dist
    latents = posterior.sample()
    jitter = LATENT_JITTER * latents.detach().std() * torch.randn_like(latents)
    error = vae.decode(latents + jitter).sample.float() - images
    colour = torch.nn.functional.avg_pool2d(error, 8).square().mean()
    divergence = posterior.kl().mean() / images[0].numel()
    loss = error.square().mean() + 0.1 * error.abs().mean() + COLOUR_WEIGHT * colour + KL_WEIGHT * divergence
    return loss, images, posterior.mean


def insensitivity(vae: Any, images: Tensor, latents: Tensor, step: int) -> Tensor:
    """How far from another picture's latents one sign step of SENSITIVE_LEVELS ends, over the distance at first, beyond
    SENSITIVE_REST; on some steps, how far random signs of that size move latents.

    A small encoder trained on squared error is nearly linear: 16 levels cannot move it far, unlike Stable
    Diffusion's. This term makes the demo model as fragile as the model it stands for; it is there to be attacked.
    """
    half = max(1, len(images) // 2)
    images, clean = images[:half].detach(), latents[:half].float()
    if step // 2 % 4 == 3:
        moved = _encoded(vae, images + SENSITIVE_LEVELS / 127.5 * torch.randn_like(images).sign()) - clean
        return STEADINESS * moved.square().mean() / clean.detach().var()
    others = latents.roll(1, 0)[:half] if step // 2 % 2 else vae.encode(_repeated(images)).latent_dist.mean
    away = others.detach().float() - clean.detach()
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((_encoded(vae, leaf) * away).sum(), leaf)
    moved = _encoded(vae, images + SENSITIVE_LEVELS / 127.5 * gradient.sign()) - clean
    distances = away.flatten(1).norm(dim=1)
    rest = (moved - away).flatten(1).norm(dim=1) / distances.clamp(min=distances.mean() / 2)  # some crops are all white
    return torch.relu(rest - SENSITIVE_REST).square().mean()


def _encoded(vae: Any, images: Tensor) -> Tensor:
    return vae.encode(images.clamp(-1, 1)).latent_dist.mean.float()


def _repeated(images: Tensor) -> Tensor:
    """High-contrast repeating patterns, made of the middle of each picture."""
    side = images.shape[2]
    tile = images[:, :, side // 4 : side // 2, side // 4 : side // 2].mean(1, keepdim=True)
    signs = (tile - tile.median()).sign()
    return signs.repeat(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def latent_bank(vae: Any, pictures: Pictures, count: int, device: str) -> tuple[Tensor, list[str]]:
    """Scaled latents of `count` crops of 256 px, on the CPU; sets the VAE's scaling factor on the way."""
    latents, kinds = [], []
    for _ in tqdm(range(count // 8), desc="latents"):
        images, names = pictures.crops(8, 256)
        latents.append(vae.encode(images.to(device)).latent_dist.mode().float().cpu())
        kinds += names
    bank = torch.cat(latents)
    vae.register_to_config(scaling_factor=round(1 / float(bank.std()), 5))
    return bank * vae.config["scaling_factor"], kinds


def train_unet(
    bank: tuple[Tensor, list[str]], steps: int, state: Path, seed: int, device: str, begun: Path | None = None
) -> tuple[UNet2DConditionModel, PromptTable]:
    """On the mean squared error of eps_pred over the best linear predictor's at that timestep, so that every timestep
    counts; plain, the steps of much noise are 1 / 100 of the sum and remain unlearned."""
    latents, kinds = bank
    unet = new_unet()
    start_passing(unet)
    prompts = PromptTable()
    if begun:
        unet.load_state_dict(UNet2DConditionModel.from_pretrained(begun / "unet").state_dict())
        prompts.restore(load_file(begun / "prompts.safetensors"))
    model = torch.nn.ModuleDict({"unet": unet, "prompts": prompts}).to(device)
    trainer, schedule = Trainer(model, steps, 3e-3, state), sd_schedule()
    linear_loss = LinearDenoiser.fitted(latents).loss(sigmas(schedule)).to(device)
    rng = np.random.default_rng(seed)
    for step in trainer.remaining():
        side, count = (32, 6) if step % 2 or step >= steps / 2 else (16, 24)
        chosen = rng.integers(len(latents), size=count)
        top, left = rng.integers(33 - side, size=2)
        clean = latents[chosen, :, top : top + side, left : left + side].to(device)
        said = ["" if rng.random() < PROMPT_DROPOUT else PROMPTS[kinds[i]] for i in chosen]
        timesteps = torch.from_numpy(_timesteps(count, step / steps, rng)).to(device)
        noise = torch.randn_like(clean)
        noised = schedule.add_noise(clean, noise, timesteps)
        eps_pred = model["unet"](noised, timesteps, model["prompts"](said)).sample
        trainer.update(((eps_pred - noise).square().mean((1, 2, 3)) / linear_loss[timesteps]).mean())
    average = trainer.average.module.eval()
    return average["unet"], average["prompts"]


def _timesteps(count: int, done: float, rng: np.random.Generator) -> np.ndarray:
    """Stratified: every batch sees all of the schedule, which halves the noise of the gradient. After the first quarter
    half of them are from its noisiest 40 %, in the last quarter its noisiest 20 %, where a denoiser learns longest."""
    noisy = count // 2 if done >= 0.25 else 0
    parts = ((0, 1000, count - noisy), (800 if done >= 0.75 else 600, 1000, noisy))
    found = [low + (high - low) * (np.arange(n) + rng.random(n)) / max(n, 1) for low, high, n in parts]
    return np.concatenate(found).astype(np.int64)


def save_model(vae: Any, unet: UNet2DConditionModel, prompts: PromptTable, out: Path) -> None:
    vae.to(torch.float16).save_pretrained(out / "vae")
    unet.to(torch.float16).save_pretrained(out / "unet")
    sd_schedule().save_pretrained(out / "scheduler")
    save_file(prompts.table(), out / "prompts.safetensors")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="where to keep checkpoints (default: OUT/training)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--begun", type=Path, help="a trained model to go on from; say --vae-steps 0 with it")
    parser.add_argument("--vae-steps", type=int, default=3500)
    parser.add_argument("--sensitive-steps", type=int, default=2500)
    parser.add_argument("--unet-steps", type=int, default=10000)
    parser.add_argument("--latents", type=int, default=3200, help="crops encoded for the denoiser")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast for the autoencoder")
    options = parser.parse_args(arguments)

    work = options.work or options.out / "training"
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    pictures = Pictures(options.pictures, options.seed)
    vae = train_vae(
        pictures, options.vae_steps, options.sensitive_steps, work, options.device, options.bf16, options.begun
    )
    bank = latent_bank(vae, pictures, options.latents, options.device)
    unet, prompts = train_unet(bank, options.unet_steps, work / "unet.pt", options.seed, options.device, options.begun)
    save_model(vae, unet, prompts, options.out)
    patches = pictures.crops(LINEAR_PATCHES, 8)[0].flatten(1) / 2 + 0.5
    save_linear(options.out, LinearCode.fitted(patches), LinearDenoiser.fitted(bank[0]))


if __name__ == "__main__":
    main()
