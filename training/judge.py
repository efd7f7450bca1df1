"""Judge the demo models on pictures they have not seen: `python -m training.judge --out demo/models`.

Prints the figures of the model card (README.md beside this file) and leaves sheets of samples to look at. By default
the pictures are those of generated.py, which anyone has; --unseen FOLDER takes others, one sub-folder per kind. With
--real, autoencoders that nobody made attackable are judged first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from mist_attack.bench import judges, unseen
from mist_attack.bench.reach import reach
from mist_attack.demo import generated
from mist_attack.evaluation import img2img, reconstruct
from mist_attack.hosts.headless import diffusers
from mist_attack.hosts.headless.checkpoints import demo_models, find_checkpoint
from mist_attack.pictures.reading import to_u8
from mist_attack.protection import objectives_for, protect
from mist_attack.settings import Settings
from mist_attack.views import plan

from . import style

SIDE, EPSILON = 256, 16 / 255
BANDS, DRAWS = 10, 6
LINEAR = "linear.safetensors"
DENOISING = "denoising loss by band, median", "... over the linear one's, median", "... the same, of sums"
PROMPTS = "", "a painting", "a photo", "a drawing", "line art"
Pictures = Mapping[str, Sequence[Tensor]]


class LinearCode:
    """The best linear code of an f = 8, 4-channel autoencoder's size: four principal components of 8 x 8 patches."""

    def __init__(self, mean: Tensor, components: Tensor) -> None:
        """(192,) and (192, 4), orthonormal; of patches in [0, 1]."""
        self.mean, self.components = mean, components

    @classmethod
    def fitted(cls, patches: Tensor) -> LinearCode:
        """On (N, 192)."""
        mean = patches.mean(0)
        return cls(mean, torch.linalg.eigh((patches - mean).T.cov()).eigenvectors[:, -4:])

    def error(self, picture: Tensor) -> float:
        """Mean squared error of the coded and clipped picture."""
        patches = torch.nn.functional.unfold(picture, 8, stride=8)[0].T
        coded = (patches - self.mean) @ self.components @ self.components.T + self.mean
        return float((coded.clamp(0, 1) - patches).square().mean())


class LinearDenoiser:
    """The best predictor of the noise that is linear and the same everywhere (Wiener's filter)."""

    def __init__(self, mean: Tensor, spectrum: Tensor) -> None:
        """Of scaled latents: (C,), and the channels' covariances at each frequency, (h, w, C, C) complex."""
        self.mean, self.spectrum = mean, spectrum

    @classmethod
    def fitted(cls, latents: Tensor) -> LinearDenoiser:
        """On (N, C, h, w)."""
        mean = latents.mean((0, 2, 3))
        waves = torch.fft.fft2(latents - mean.view(1, -1, 1, 1), norm="ortho").permute(2, 3, 1, 0)
        return cls(mean, waves @ waves.mH / len(latents))

    def __call__(self, noised: Tensor, sigma: Tensor) -> Tensor:
        """The noise in (B, C, h, w) latents + sigma * noise. sigma: (B,)."""
        waves = torch.fft.fft2(noised - self.mean.view(1, -1, 1, 1), norm="ortho").permute(0, 2, 3, 1)
        s = sigma.view(-1, 1, 1, 1, 1).to(self.spectrum.dtype)
        spread = self.spectrum + s.square() * torch.eye(len(self.mean), dtype=self.spectrum.dtype)
        found = s[..., 0] * torch.linalg.solve(spread, waves[..., None])[..., 0]
        return torch.fft.ifft2(found.permute(0, 3, 1, 2), norm="ortho").real

    def loss(self, sigma: Tensor) -> Tensor:
        """Its mean squared error, as a closed form of the spectrum: the mean of s / (s + sigma^2) over the eigenvalues
        s of all frequencies. sigma: (T,). Returns (T,)."""
        s = torch.linalg.eigvalsh(self.spectrum).flatten()
        return (s / (s + sigma.view(-1, 1).square())).mean(1)


def save_linear(folder: Path, code: LinearCode, denoiser: LinearDenoiser) -> None:
    """What a model is compared with, beside it: fitted on its own training pictures."""
    from safetensors.torch import save_file

    spectrum = torch.view_as_real(denoiser.spectrum).contiguous()
    tensors = {"mean": code.mean, "components": code.components, "latents_mean": denoiser.mean, "spectrum": spectrum}
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, folder / LINEAR)


def load_linear(folder: Path) -> tuple[LinearCode, LinearDenoiser]:
    saved = load_file(folder / LINEAR)
    denoiser = LinearDenoiser(saved["latents_mean"], torch.view_as_complex(saved["spectrum"]))
    return LinearCode(saved["mean"], saved["components"]), denoiser


def decibels(mean_square: float) -> float:
    return -10 * float(np.log10(mean_square))


@torch.no_grad()
def reconstruction(ready: Any, pictures: Pictures, code: LinearCode) -> dict[str, tuple[float, float, float]]:
    """Kind -> medians: the model's dB, the linear code's, and the model's gain picture by picture."""
    result = {}
    for kind, members in pictures.items():
        ours = [decibels(float((reconstruct(ready, x) - x).square().mean())) for x in members]
        linear = [decibels(code.error(x)) for x in members]
        result[kind] = median(ours), median(linear), median(np.subtract(ours, linear).tolist())
    return result


@torch.no_grad()
def denoising(ready: Any, pictures: Pictures, linear: LinearDenoiser) -> list[tuple[float, float, float]]:
    """By band of the schedule, from little noise to much: mean squared error of eps_pred, the median over the pictures;
    over the linear one's, the median of that; and the same of the sums over all pictures."""
    latents = torch.cat([ready.encode(x) for members in pictures.values() for x in members])
    prompt, generator, width = ready.conditioning(""), torch.Generator().manual_seed(1), len(ready.sigmas) // BANDS
    result = []
    for band in range(BANDS):
        errors = np.zeros((2, len(latents)))
        for _ in range(DRAWS):
            timesteps = torch.randint(width, (len(latents),), generator=generator) + band * width
            sigma, noise = ready.sigmas[timesteps], torch.randn(latents.shape, generator=generator)
            noised = ready.noising.noised(latents, noise, sigma)
            eps_pred = (noised - ready.denoise(noised, sigma, prompt)) / sigma.view(-1, 1, 1, 1)
            found = eps_pred, linear(noised, sigma)
            errors += np.stack([(x - noise).square().mean((1, 2, 3)).numpy() for x in found]) / DRAWS
        ours, theirs = errors
        result.append((float(np.median(ours)), float(np.median(ours / theirs)), float(ours.sum() / theirs.sum())))
    return result


def attack(model: Any, pictures: Sequence[Tensor]) -> tuple[dict[str, float], list[Tensor]]:
    """Medians over the pictures at 16 levels, 100 steps: times_noise and off_target (see Reach), loss_times (judged by
    fresh draws); of the fused objective textural_norm and semantic_norm (of its terms' gradients at the picture's
    latents), gradient_ratio (semantic over textural, mean over the steps) and seconds_per_step. And the pictures after
    the textural attack."""
    rows: list[dict[str, float]] = []
    attacked = []
    for x in pictures:
        textural = protect(x, model, Settings(objective="textural", epsilon=EPSILON, working_size=SIDE))
        reached = reach(model, x, textural.images)
        semantic = protect(x, model, Settings(objective="semantic", epsilon=EPSILON, working_size=SIDE)).reports[0]
        begun = time.perf_counter()
        fused = protect(x, model, Settings(epsilon=EPSILON, steps=20, working_size=SIDE)).reports[0]
        seconds = time.perf_counter() - begun
        norms = model.run(lambda ready, x=x: gradient_norms(ready, x), 1, SIDE, SIDE)
        rows.append(
            {
                "times_noise": reached.times_noise,
                "off_target": 1 - reached.left,
                "loss_times": semantic.after["denoising_loss"] / semantic.before["denoising_loss"],
                "textural_norm": norms[0],
                "semantic_norm": norms[1],
                "gradient_ratio": fused.gradient_ratio or 0.0,
                "seconds_per_step": seconds / 20,
            }
        )
        attacked.append(textural.images)
    return {name: median(row[name] for row in rows) for name in rows[0]}, attacked


def gradient_norms(ready: Any, picture: Tensor, draws: int = 16) -> tuple[float, float]:
    """Of the textural and the weighted semantic gradient at the picture's latents; the latter's mean over draws."""
    settings = Settings(working_size=SIDE)
    views = plan(SIDE, SIDE, "whole", SIDE, ready.spatial_multiple(settings.objective))
    conditioning = ready.conditioning(settings.prompt)
    (objective,), _ = objectives_for(ready, settings, views, SIDE, SIDE, conditioning=conditioning)
    latents, generator = _encoded(ready, picture), torch.Generator().manual_seed(3)
    textural, semantic = (
        [part.value_and_gradient(latents, generator)[1].norm() for _ in range(draws)]
        for part in (objective.textural, objective.semantic)
    )
    return float(textural[0]), objective.share * float(torch.stack(semantic).mean())


@torch.no_grad()
def _encoded(ready: Any, image: Tensor) -> Tensor:
    return ready.encode(image)


def learning(ready: Any, steps: int = 250, count: int = 12) -> tuple[float, float]:
    """style.distance of samples to twelve pictures of one style, before and after a LoRA has seen them."""
    wanted = generated.style()
    before = style.distance(ready, style.samples(ready, "a drawing", count, SIDE), wanted)
    with style.taught(ready, wanted, "a drawing", steps):
        after = style.distance(ready, style.samples(ready, "a drawing", count, SIDE), wanted)
    return before, after


def sheets(ready: Any, pictures: Pictures) -> Image.Image:
    """A row of samples for each prompt, then pictures with their variations at strengths 0.3 and 0.6."""
    rows = [style.samples(ready, prompt, 6, SIDE) for prompt in PROMPTS]
    first = [members[0] for members in pictures.values()]
    made = [[img2img(ready, x, ready.conditioning(""), strength) for strength in (0.3, 0.6)] for x in first]
    for pair in (0, 2):
        rows.append(
            [y for x, found in zip(first[pair : pair + 2], made[pair : pair + 2], strict=True) for y in (x, *found)]
        )
    canvas = Image.new("RGB", (6 * SIDE, len(rows) * SIDE))
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            canvas.paste(Image.fromarray(to_u8(picture.cpu())), (j * SIDE, i * SIDE))
    return canvas


def report(checkpoint: str, pictures: Pictures, out: Path, chosen: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """Prints the figures of a model; returns it, and `chosen` after its textural attack."""
    folder = find_checkpoint(checkpoint)
    model, (code, linear) = diffusers.load(folder, torch.device("cpu")), load_linear(folder)

    def judge(ready: Any) -> None:
        print(f"{model.name}, {sum(len(members) for members in pictures.values())} unseen pictures at {SIDE} px")
        for kind, (ours, theirs, gain) in reconstruction(ready, pictures, code).items():
            print(
                f"  {kind:12} reconstruction {ours:.2f} dB, linear code {theirs:.2f} dB, gain {gain:+.2f} dB (medians)"
            )
        losses = denoising(ready, pictures, linear)
        for words, values in zip(DENOISING, zip(*losses, strict=True), strict=True):
            print(f"  {words:42}" + " ".join(f"{value:.3f}" for value in values))
        sheet = out / f"{folder.name}.png"
        sheets(ready, pictures).save(sheet)
        before, after = learning(ready)
        print(f"  a LoRA of rank {style.RANK} on 12 pictures: distance of samples to them {before:.2f} -> {after:.2f}")
        print(f"  samples and variations: {sheet}")

    model.run(judge, 1, SIDE, SIDE)
    found, attacked = attack(model, chosen)
    print(f"  textural, 100 steps: latents move {found['times_noise']:.1f} times as far as by noise of its size")
    print(f"  ... and {100 * found['off_target']:.0f} % off the distance to the target")
    print(f"  semantic, 100 steps: denoising loss times {found['loss_times']:.2f} (fresh draws)")
    norms = f"textural {found['textural_norm']:.2e}, semantic {found['semantic_norm']:.2e}"
    print(f"  fused: gradient norms at the latents {norms}; their ratio over the steps {found['gradient_ratio']:.2f}")
    print(f"  fused: {found['seconds_per_step']:.2f} s a step with {torch.get_num_threads()} threads", flush=True)
    return model, attacked


def on_real(checkpoint: Path, chosen: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """Prints what the textural attack does to an autoencoder that nobody made attackable; as `report`."""
    model = judges.loaded(checkpoint, torch.device("cpu"))
    settings = Settings(objective="textural", epsilon=EPSILON, working_size=SIDE)
    attacked = [protect(x, model, settings).images for x in chosen]
    print(f"{model.name}, which nobody here trained; textural, 100 steps")
    seen("  ... its own attack", model, attacked, chosen)
    return model, attacked


def transfer(found: Sequence[tuple[Any, list[Tensor]]], chosen: Sequence[Tensor]) -> None:
    """Prints what each model's attack does to the others."""
    for source, attacked in found:
        for other in (other for other, _ in found if other is not source):
            seen(f"{source.name}'s textural attack, seen by {other.name}", other, attacked, chosen)


def seen(words: str, model: Any, attacked: Sequence[Tensor], chosen: Sequence[Tensor]) -> None:
    rows = [reach(model, x, y) for x, y in zip(chosen, attacked, strict=True)]
    times_noise, left = (median(getattr(row, name) for row in rows) for name in ("times_noise", "left"))
    print(f"{words}: {times_noise:.1f} times as far as noise of the same size")
    print(f"  ... and {100 * (1 - left):.0f} % off the distance to the target", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unseen", type=Path, help="pictures, one sub-folder per kind")
    parser.add_argument("--checkpoint", nargs="+", default=demo_models(), help="default: every demo model there is")
    parser.add_argument("--attacked", type=int, default=2, help="pictures of each kind that are attacked")
    parser.add_argument("--real", type=Path, help=f"small autoencoders of others (default: {judges.ENVIRONMENT})")
    parser.add_argument("--out", type=Path, required=True, help="folder for the sheets")
    options = parser.parse_args(arguments)
    real = judges.encoders(judges.real_folder(options.real))
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = unseen.pictures(side=SIDE, folder=options.unseen)
    chosen = [x for members in pictures.values() for x in members[: options.attacked]]
    if not real:
        print(f"real: not measured, {judges.NOT_MEASURED}")
    found = [on_real(checkpoint, chosen) for checkpoint in real]
    found += [report(checkpoint, pictures, options.out, chosen) for checkpoint in options.checkpoint]
    transfer(found, chosen)


if __name__ == "__main__":
    main()
