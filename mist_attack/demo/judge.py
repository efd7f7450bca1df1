"""Judge a demo model on pictures it has not seen:

    python -m mist_attack.demo.judge --unseen FOLDER --train FOLDER [--checkpoint demo]

Both folders have one sub-folder per kind, as for training; the training pictures only fit the linear code that the
autoencoder is compared with: principal components of 8 x 8 patches, 4 numbers each. Prints the model card's figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..evaluation import reconstruct
from ..hosts import diffusers
from ..hosts.checkpoints import find_checkpoint
from ..protect import protect
from ..settings import Settings
from ..surrogate import Surrogate
from ..targets import pattern

SIDE = 256
BANDS = 10
PATCHES_PER_KIND = 40_000


def load(folder: Path) -> dict[str, list[Tensor]]:
    """Kind -> pictures, (1, 3, SIDE, SIDE) in [0, 1]: shorter side reduced, centre cropped."""
    kinds = sorted(path for path in folder.iterdir() if path.is_dir())
    return {kind.name: [_square(path) for path in sorted(kind.iterdir())] for kind in kinds}


def _square(path: Path) -> Tensor:
    with Image.open(path) as image:
        image = image.convert("RGB")
    factor = SIDE / min(image.size)
    image = image.resize((max(SIDE, round(image.width * factor)), max(SIDE, round(image.height * factor))))
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    array = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255


class LinearCode:
    """The best linear code of an f = 8, 4-channel autoencoder's size."""

    def __init__(self, pictures: dict[str, list[Tensor]]) -> None:
        patches = []
        for kind in pictures.values():
            found = torch.cat([_patches(picture) for picture in kind])
            patches.append(
                found[torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:PATCHES_PER_KIND]]
            )
        self.mean = torch.cat(patches).mean(0)
        self.basis = torch.linalg.eigh((torch.cat(patches) - self.mean).T.cov()).eigenvectors[:, -4:]

    def error(self, picture: Tensor) -> float:
        """Mean squared error of the coded and clipped picture."""
        patches = _patches(picture)
        coded = (patches - self.mean) @ self.basis @ self.basis.T + self.mean
        return float((coded.clamp(0, 1) - patches).square().mean())


def _patches(picture: Tensor) -> Tensor:
    return torch.nn.functional.unfold(picture, 8, stride=8)[0].T


def reconstruction(model: Surrogate, pictures: dict[str, list[Tensor]], code: LinearCode) -> None:
    print(f"{'kind':12} {'model dB':>9} {'linear dB':>9}   (medians)")
    rows: list[tuple[float, float]] = []
    for kind, members in pictures.items():
        errors = [(float((reconstruct(model, x) - x).square().mean()), code.error(x)) for x in members]
        decibels = [(_decibels(a), _decibels(b)) for a, b in errors]
        _print_medians(kind, decibels)
        rows += decibels
    _print_medians("all", rows)


def _print_medians(kind: str, rows: list[tuple[float, float]]) -> None:
    print(f"{kind:12} {median(a for a, _ in rows):9.2f} {median(b for _, b in rows):9.2f}")


def _decibels(mean_square: float) -> float:
    return -10 * float(np.log10(mean_square))


@torch.no_grad()
def denoising(model: Surrogate, pictures: dict[str, list[Tensor]]) -> None:
    """Mean squared error of eps_pred per timestep band; the best constant predictor has 1."""
    latents = torch.cat([model.encode(x) for members in pictures.values() for x in members])
    prompt, generator = model.conditioning(""), torch.Generator().manual_seed(1)
    losses = []
    for band in range(BANDS):
        width = len(model.sigmas) // BANDS
        timesteps = torch.randint(width, (len(latents),), generator=generator) + band * width
        sigma, noise = model.sigmas[timesteps], torch.randn(latents.shape, generator=generator)
        noised = model.noised(latents, noise, sigma)
        eps_pred = (noised - model.denoise(noised, sigma, prompt)) / sigma.view(-1, 1, 1, 1)
        losses.append(float((eps_pred - noise).square().mean()))
    print("denoising loss per band of the schedule, from little noise to much (a constant has 1):")
    print("  " + " ".join(f"{loss:.3f}" for loss in losses))


def attack(model: Surrogate, pictures: dict[str, list[Tensor]], epsilon: float) -> None:
    """The attack at 16 levels against random noise of the same budget."""
    ratios, left, raised, gradients = [], [], [], []
    for x in [x for members in pictures.values() for x in members]:
        signs = torch.randint(2, x.shape, generator=torch.Generator().manual_seed(2)) * 2 - 1
        noisy = (x + epsilon * signs).clamp(0, 1)
        textural = protect(x, model, Settings(objective="textural", epsilon=epsilon))
        clean, random, moved = (_encode(model, y) for y in (x, noisy, textural.images))
        target = _encode(model, pattern(Settings().target, SIDE, SIDE))
        ratios.append(float((moved - clean).norm() / (random - clean).norm()))
        left.append(float((moved - target).norm() / (clean - target).norm()))
        semantic = protect(x, model, Settings(objective="semantic", epsilon=epsilon)).reports[0]
        raised.append(semantic.after["denoising_loss"] / semantic.before["denoising_loss"])
        fused = protect(x, model, Settings(epsilon=epsilon, steps=20)).reports[0]
        gradients.append(fused.gradient_ratio or 0.0)
    print(f"textural, 100 steps: latents move {median(ratios):.1f} times as far as by random signs of the same budget")
    print(f"textural, 100 steps: {100 * (1 - median(left)):.0f} % off the distance to the target (medians)")
    print(f"semantic, 100 steps: denoising loss times {median(raised):.2f} (fresh draws)")
    print(f"fused: semantic over textural gradient norm {median(gradients):.2f}")


@torch.no_grad()
def _encode(model: Surrogate, image: Tensor) -> Tensor:
    return model.encode(image)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unseen", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--checkpoint", default="demo")
    parser.add_argument("--attacked", type=int, default=2, help="pictures of each kind that are attacked")
    options = parser.parse_args(arguments)
    pictures, code = load(options.unseen), LinearCode(load(options.train))
    few = {kind: members[: options.attacked] for kind, members in pictures.items()}
    model = diffusers.load(find_checkpoint(options.checkpoint))

    def judge(ready: Any) -> None:
        reconstruction(ready, pictures, code)
        denoising(ready, pictures)

    model.run(judge, 1, SIDE, SIDE)
    attack(model, few, 16 / 255)


if __name__ == "__main__":
    main()
