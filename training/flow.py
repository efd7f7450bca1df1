"""Does the attack work on a rectified flow? `python -m training.flow --work FOLDER [--steps 300]`

Rewrites the demo model's denoiser as one of velocity and teaches it that (its autoencoder stays), then protects
pictures that it has not seen and prints how its loss changed, judged by fresh noise. Nothing of it is shipped: pictures
that scikit-image carries and drawn ones are too few for a model that anyone would sample from.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from mist_attack.demo import generated
from mist_attack.hosts.headless import diffusers
from mist_attack.hosts.headless.checkpoints import find_checkpoint
from mist_attack.noising import Flow, Noising
from mist_attack.objectives import ESTIMATES, Semantic
from mist_attack.protection import protect
from mist_attack.settings import resolve

SIDE, DRAWS = 256, 8
UP = {"steps": 20, "step": 2, "direction": "ascent"}
PROMPTS = {"drawing": "a drawing", "lineart": "line art", "painting": "a painting", "photograph": "a photo"}
PHOTOGRAPHS = ("camera", "coins", "brick", "grass", "gravel", "page", "text", "moon", "retina", "hubble_deep_field")


class DemoFlow(diffusers.DiffusersSurrogate):
    """The demo model with a denoiser that predicts the velocity; sigmas evenly in (0, 1].

    Untaught it is the demo model: of noised = (1 - sigma) * latents + sigma * noise the velocity is
    (noise - noised) / (1 - sigma), and the variance-preserving latents that the UNet takes are these, scaled.
    """

    unet: Any

    def __init__(self, demo: diffusers.DiffusersSurrogate) -> None:
        vars(self).update(vars(demo))
        self.name = f"{demo.name}, as a flow"
        self.of_timestep = demo.sigmas / (1 + demo.sigmas)
        self.noising: Noising = Flow()
        self.sigmas = torch.arange(1, 1001) / 1000

    def velocity(self, noised: Tensor, sigma: Tensor, conditioning: Tensor) -> Tensor:
        prompts = conditioning.expand(len(noised), -1, -1)
        timestep = torch.searchsorted(self.of_timestep, sigma).clamp(max=len(self.of_timestep) - 1)
        sigma = sigma.view(-1, 1, 1, 1)
        scaled = noised * ((1 - sigma) ** 2 + sigma**2).rsqrt()
        noise = self.unet(scaled, timestep, encoder_hidden_states=prompts).sample
        return (noise - noised) / (1 - sigma).clamp(min=1 - float(self.of_timestep[-1]))

    def denoise(self, noised_latents: Tensor, sigma: Tensor, conditioning: Tensor) -> Tensor:
        return noised_latents - sigma.view(-1, 1, 1, 1) * self.velocity(noised_latents, sigma, conditioning)


def pictures() -> dict[str, list[Tensor]]:
    """Kind -> pictures, (1, 3, h, w) in [0, 1]; none of those that judge."""
    photographs = [_photograph(name) for name in PHOTOGRAPHS if hasattr(skimage.data, name)]
    return {
        "drawing": [generated.tensor(generated.drawn(generated.shapes, seed)) for seed in range(100, 112)],
        "lineart": [generated.tensor(generated.drawn(generated.curves, seed)) for seed in range(100, 112)],
        "painting": [generated.tensor(generated.painted(photograph, 100)) for photograph in photographs],
        "photograph": [generated.tensor(photograph) for photograph in photographs],
    }


def _photograph(name: str) -> Image.Image:
    return generated.ImageOps.fit(
        Image.fromarray(getattr(skimage.data, name)()).convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS
    )


@torch.no_grad()
def bank(model: DemoFlow, known: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Kind -> latents; each picture, mirrored too."""
    seen = {kind: torch.cat([y for x in members for y in (x, x.flip(3))]) for kind, members in known.items()}
    return {kind: torch.cat([model.encode(part) for part in members.split(4)]) for kind, members in seen.items()}


def train(model: DemoFlow, latents: dict[str, Tensor], steps: int) -> None:
    """On the velocity's mean squared error; noise levels stratified over the batch."""
    rng, kinds, unet = np.random.default_rng(0), list(latents), model.unet.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(unet.parameters(), 3e-4, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-4, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        side, count = (32, 4) if step % 4 == 0 else (16, 16)
        said = kinds[rng.integers(len(kinds))]
        chosen, (top, left) = rng.integers(len(latents[said]), size=count), rng.integers(33 - side, size=2)
        clean = latents[said][chosen, :, top : top + side, left : left + side]
        sigma, noise = torch.from_numpy((np.arange(count) + rng.random(count)) / count).float(), torch.randn_like(clean)
        prompt = model.conditioning("" if rng.random() < 0.3 else PROMPTS[said])
        noised = model.noising.noised(clean, noise, sigma.clamp(min=1e-3))
        loss = (model.velocity(noised, sigma, prompt) - (noise - clean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(step, float(loss.detach()), flush=True)
    unet.eval().requires_grad_(False)


def judged(model: DemoFlow, picture: Tensor) -> float:
    """The flow loss over fresh noise: mean of DRAWS x 4 draws that no protection saw."""
    semantic = Semantic(model, model.conditioning("a painting"), ESTIMATES["sds"])
    with torch.no_grad():
        latents = model.encode(picture)
    losses = [float(semantic.measure(latents, 10_000 + seed)["denoising_loss"]) for seed in range(DRAWS)]
    return sum(losses) / len(losses)


def attack(model: DemoFlow, chosen: Sequence[Tensor], preset: str, values: dict[str, object]) -> list[float]:
    """How many times as large the judged loss is after protection, picture by picture."""
    settings = resolve(preset, {"working_size": SIDE, **values})
    after = [protect(x, model, settings).images for x in chosen]
    return [judged(model, y) / judged(model, x) for x, y in zip(chosen, after, strict=True)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = DemoFlow(diffusers.load(find_checkpoint("demo"), torch.device("cpu")))
    weights = options.work / f"flow{options.steps}.pt"
    if weights.is_file():
        model.unet.load_state_dict(torch.load(weights, weights_only=True))
    else:
        train(model, bank(model, pictures()), options.steps)
        options.work.mkdir(parents=True, exist_ok=True)
        torch.save(model.unet.state_dict(), weights)
    chosen = [x for members in generated.unseen(each=1).values() for x in members]
    for gradient in ("sds", "exact", "amortised"):
        times = attack(model, chosen, "default", UP | {"gradient": gradient})
        print(f"{gradient}: loss x {median(times):.2f} (median), {min(times):.2f} to {max(times):.2f}", flush=True)


if __name__ == "__main__":
    main()
