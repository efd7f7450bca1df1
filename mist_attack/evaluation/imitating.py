"""What imitators do: a LoRA is fine-tuned on pictures, clean or protected, and makes pictures in their style."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..budget import to_levels, to_unit
from ..errors import PictureError, SettingsError
from ..objectives import prediction_error
from ..randomness import integers, normal, seeded
from ..sets.learning import rate_for
from ..surrogate import Conditioning, Surrogate
from .comparison import sample
from .effect import OnPart
from .sight import multiple_of
from .transforms import NotMeasuredError

UNTAUGHT = "model"
"""The pictures of the model as it is: how near the style lies without a LoRA."""
LEAST = 5
"""Pictures of a style, below which nobody fine-tunes a LoRA on it."""

Pictures = Sequence[Tensor]
Imitations = dict[str, list[list[Tensor]]]
"""By the name of the set, for each seed: pictures, (1, 3, side, side) uint8 on the CPU."""


@dataclass(frozen=True)
class Training:
    """How a LoRA is fine-tuned and asked for pictures.

    rank: 4, as in diffusers' script. steps: of `batch` pictures each. rate: AdamW's, fading to zero; None for that
    script's, scaled (`rate_for`). seeds: one training each. pictures: made by each. sampling_steps: of the whole
    schedule.
    """

    rank: int = 4
    steps: int = 400
    batch: int = 4
    rate: float | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    pictures: int = 12
    sampling_steps: int = 25

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "batch", "pictures", "sampling_steps"):
            if getattr(self, name) < 1:
                raise SettingsError(f"Expected {name} of a LoRA's training of at least 1; got {getattr(self, name)}.")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise SettingsError(f"Expected a rate of a LoRA's training above 0; got {self.rate:g}.")
        if not self.seeds:
            raise SettingsError("Expected at least one seed of a LoRA's training; got none.")


def require_student(surrogate: Surrogate) -> None:
    """Raises NotMeasuredError for a model that takes no LoRA here."""
    if len(surrogate.sigmas) == 0:
        raise NotMeasuredError(f"{surrogate.name} is an autoencoder alone, and there is no denoiser to fine-tune")
    if not surrogate.differentiable:
        raise NotMeasuredError(f"{surrogate.name} has no checked derivative, and a LoRA is fine-tuned by it")
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise NotMeasuredError('a LoRA is fine-tuned by peft: pip install "mist-protect[evaluate]"') from error


def require_enough(pictures: Sequence[Any]) -> None:
    """Raises NotMeasuredError."""
    if len(pictures) < LEAST:
        raise NotMeasuredError(f"a LoRA of a style needs {LEAST} pictures or more, and there are {len(pictures)}")


def imitate(
    surrogate: Surrogate,
    sets: Mapping[str, Pictures],
    prompts: Sequence[str],
    training: Training,
    side: int,
    *,
    low_vram: bool = False,
    on_part: OnPart = lambda words: None,
    untaught: bool = True,
) -> Imitations:
    """For each set a LoRA is fine-tuned on it for each seed, then the model makes pictures; and, unless `untaught` is
    False, as it is (UNTAUGHT).

    sets: by name, squares of `side` (see `squares`), as many in each, in the same order; prompts: one for each picture.
    With the same seed every set has the same start, draws, noise and prompts. Raises NotMeasuredError, CheckpointError
    for a prompt, PictureError."""
    require_student(surrogate)
    require_enough(prompts)
    _require_alike(sets, prompts, side)
    conditionings = {prompt: surrogate.conditioning(prompt) for prompt in prompts}
    studio = _Studio(prompts, conditionings, training, on_part, untaught)
    return surrogate.run(lambda ready: studio.run(ready, sets), training.batch, side, side, low_vram=low_vram)


def side_for(models: Sequence[Surrogate], pictures: Pictures, working_size: int) -> int:
    """Of the squares that all of these models can take: the working size, or the smallest picture's shorter side,
    where that is less. Raises NotMeasuredError for pictures smaller than that."""
    multiple, shortest = math.lcm(*map(multiple_of, models)), min(min(picture.shape[2:]) for picture in pictures)
    side = min(working_size, shortest) // multiple * multiple
    if side == 0:
        raise NotMeasuredError(f"the smallest picture has {shortest} pixels, and the model takes {multiple} or more")
    return side


def squares(pictures: Pictures, side: int) -> list[Tensor]:
    """(1, 3, H, W) uint8 -> (1, 3, side, side): the shorter side reduced, then the middle."""
    return [_square(picture, side) for picture in pictures]


def _square(picture: Tensor, side: int) -> Tensor:
    height, width = picture.shape[2:]
    scale = side / min(height, width)
    size = [max(side, round(length * scale)) for length in (height, width)]
    reduced = picture
    if size != [height, width]:
        reduced = to_levels(F.interpolate(to_unit(picture), size, mode="bilinear", antialias=True).clamp(0, 1))
    top, left = ((length - side) // 2 for length in size)
    return reduced[..., top : top + side, left : left + side]


def _require_alike(sets: Mapping[str, Pictures], prompts: Sequence[str], side: int) -> None:
    for name, pictures in sets.items():
        if name == UNTAUGHT:
            raise PictureError(f"Expected another name for a set than {UNTAUGHT}, the model's own pictures.")
        if len(pictures) != len(prompts):
            raise PictureError(f"Expected {len(prompts)} pictures in {name}, one for each prompt; got {len(pictures)}.")
        for picture in pictures:
            if picture.shape != (1, 3, side, side) or picture.dtype != torch.uint8:
                found = f"{picture.dtype} of {tuple(picture.shape)}"
                raise PictureError(f"Expected levels of shape (1, 3, {side}, {side}) in {name}; got {found}.")


@dataclass(frozen=True)
class _Studio:
    prompts: Sequence[str]
    conditionings: Mapping[str, Conditioning]
    training: Training
    on_part: OnPart
    untaught: bool

    def run(self, ready: Any, sets: Mapping[str, Pictures]) -> Imitations:
        latents = {name: _encoded(ready, pictures) for name, pictures in sets.items()}
        like = next(iter(latents.values()))[:1]
        seeds = self.training.seeds
        made: Imitations = {}
        if self.untaught:
            made[UNTAUGHT] = [self._pictures(ready, like, seed) for seed in seeds]
        for name, clean in latents.items():
            made[name] = [self._taught(ready, name, clean, seed) for seed in seeds]
        return made

    def _taught(self, ready: Surrogate, name: str, clean: Tensor, seed: int) -> list[Tensor]:
        with ready.lora(self.training.rank, seed) as weights:
            self._teach(ready, weights, clean, seed, f"a LoRA of the {name}, seed {seed}")
            return self._pictures(ready, clean[:1], seed)

    def _teach(self, ready: Surrogate, weights: list[nn.Parameter], clean: Tensor, seed: int, words: str) -> None:
        generator = seeded(ready.device, seed)
        optimizer = torch.optim.AdamW(weights, self.training.rate or rate_for(weights, self.training.batch))
        fading = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.training.steps)
        for _ in range(self.training.steps):
            self.on_part(words)
            optimizer.zero_grad()
            self._loss(ready, clean, generator).backward()
            optimizer.step()
            fading.step()

    def _loss(self, ready: Surrogate, clean: Tensor, generator: torch.Generator) -> Tensor:
        """The mean squared error of the network's own prediction, of pictures that share a prompt."""

        def drawn(end: int, count: int) -> Tensor:
            return integers(end, (count,), generator, ready.device)

        prompt = self.prompts[int(drawn(len(self.prompts), 1))]
        members = [i for i, other in enumerate(self.prompts) if other == prompt]
        latents = clean[torch.tensor(members, device=clean.device)[drawn(len(members), self.training.batch)]]
        sigma = ready.sigmas[drawn(len(ready.sigmas), self.training.batch)]
        noise = normal(latents, generator)
        return prediction_error(ready, latents, noise, sigma, self.conditionings[prompt]).square().mean()

    def _pictures(self, ready: Surrogate, like: Tensor, seed: int) -> list[Tensor]:
        """By the pictures' prompts in turn, the same noise for each set."""
        generator, steps = seeded(ready.device, seed), self.training.sampling_steps
        asked = [self.prompts[i % len(self.prompts)] for i in range(self.training.pictures)]
        noises = [normal(like, generator) for _ in asked]
        made: dict[int, Tensor] = {}
        for prompt, members in self._batches(asked):
            self.on_part(f"pictures of seed {seed}")
            noise = torch.cat([noises[i] for i in members])
            pictures = _levels(sample(ready, noise, self.conditionings[prompt], steps))
            made |= dict(zip(members, pictures.split(1), strict=True))
        return [made[i] for i in range(len(asked))]

    def _batches(self, asked: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
        """Of pictures that share a prompt, as many as are trained on at once."""
        for prompt in dict.fromkeys(asked):
            members = [i for i, other in enumerate(asked) if other == prompt]
            for start in range(0, len(members), self.training.batch):
                yield prompt, members[start : start + self.training.batch]


@torch.no_grad()
def _encoded(ready: Surrogate, pictures: Pictures) -> Tensor:
    return torch.cat([ready.encode(to_unit(picture).to(ready.device)) for picture in pictures])


def _levels(picture: Tensor) -> Tensor:
    if not bool(picture.isfinite().all()):
        raise NotMeasuredError("the LoRA's training did not stay finite; choose a lower rate")
    return to_levels(picture).cpu()
