"""A protection judged: what one sees of it, what a model makes of it, what is left of it after changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import CheckpointError, PictureError
from ..randomness import noise_like
from ..settings import Settings
from ..surrogate import Conditioning, Surrogate
from .effect import (
    STRENGTHS,
    Latents,
    OnPart,
    Pictures,
    Trio,
    denoising_figures,
    inpainting_figures,
    reconstruction_figures,
    shift_figures,
    target_figures,
    trio_latents,
    variation_figures,
)
from .sight import Sight, sights
from .survival import survival_figures

T = TypeVar("T")
NEEDS_DENOISER = "this needs the whole model, and only an autoencoder is there"
NEVER = {
    "mimicry": "no model was fine-tuned on the pictures, which is what imitators do (mist evaluate --mimicry does)",
    "lpips": "LPIPS needs weights that Mist does not ship",
    "dists": "DISTS needs weights that Mist does not ship",
}
"""What is not measured unless it is asked for, and why."""
TRANSPARENT = "transparency was left out: colours alone are compared"


@dataclass(frozen=True)
class Judgement:
    """What one model makes of one pair of pictures."""

    figures: dict[str, Any]
    """model, is_demo, about; views by name, each with words, effect and survival; denoising, img2img and inpainting,
    None where not_measured says why. See docs/evaluate.md."""
    pictures: Pictures = field(default_factory=dict)
    """What the model made: (1, 3, h, w) uint8 on the CPU, by name."""


def require_pair(before: Tensor, after: Tensor) -> None:
    """Raises PictureError for two pictures that cannot be compared."""
    if before.shape != after.shape:
        sizes = [f"{picture.shape[3]} x {picture.shape[2]}" for picture in (before, after)]
        raise PictureError(
            f"Expected two pictures of one size; the original has {sizes[0]} pixels and the protected one {sizes[1]}. "
            "Compare it with the original of the same size."
        )
    if torch.equal(before, after):
        raise PictureError("The two pictures are equal: nothing was protected, and there is nothing to judge.")
    if before.shape[0] != 1 or before.shape[1] != 3 or before.dtype != torch.uint8 or after.dtype != torch.uint8:
        raise PictureError(f"Expected levels of shape (1, 3, H, W); got {before.dtype} of {tuple(before.shape)}.")


def notices_of(before: Tensor, after: Tensor) -> list[str]:
    """What of two pictures makes their figures mean something else."""
    grey = [bool((picture == picture[:, :1]).all()) for picture in (before, after)]
    if grey[0] == grey[1]:
        return []
    names = ("original", "protected picture")
    return [f"the {names[grey[1]]} is grey and the {names[grey[0]]} in colours: that difference counts too"]


def judge(
    surrogate: Surrogate,
    before: Tensor,
    after: Tensor,
    settings: Settings,
    *,
    target: Tensor | None = None,
    conditioning: Conditioning = None,
    on_part: OnPart = lambda words: None,
) -> Judgement:
    """before, after: (1, 3, H, W) uint8, of one size. settings: of them working_size, target, prompt, seed and low_vram
    count. target, conditioning: as in `protect`. Raises PictureError, CheckpointError."""
    require_pair(before, after)
    whole_model = len(surrogate.sigmas) > 0
    if whole_model and conditioning is None:
        conditioning = surrogate.conditioning(settings.prompt)
    seen = sights(surrogate, before.shape[2], before.shape[3], settings.working_size)
    trio = Trio(before, after, noise_like(before, after, settings.seed))
    job = _Job(seen, trio, settings, target, conditioning, on_part)
    views = [view for sight in seen for view in sight.views]
    return surrogate.run(
        job.run,
        1,
        max(view.model_height for view in views),
        max(view.model_width for view in views),
        low_vram=settings.low_vram,
    )


@dataclass(frozen=True)
class _Job:
    seen: list[Sight]
    trio: Trio
    settings: Settings
    target: Tensor | None
    conditioning: Conditioning
    on_part: OnPart

    def run(self, ready: Surrogate) -> Judgement:
        pictures: Pictures = {}
        latents = {sight.name: self._latents(ready, sight) for sight in self.seen}
        views = {sight.name: self._view(ready, sight, latents[sight.name], pictures) for sight in self.seen}
        missing = {name: words for view in views.values() for name, words in view.pop("not_measured").items()}
        figures = {
            "model": ready.name,
            "is_demo": bool(getattr(ready, "is_demo", False)),
            "about": getattr(ready, "about", ""),
            "views": views,
            **dict.fromkeys(("denoising", "img2img", "inpainting")),
        }
        if len(ready.sigmas) > 0:
            figures |= self._denoiser(ready, latents[self.seen[0].name], pictures)
        else:
            missing |= dict.fromkeys(("denoising", "img2img", "inpainting"), NEEDS_DENOISER)
        return Judgement(figures | {"not_measured": missing}, pictures)

    def _latents(self, ready: Surrogate, sight: Sight) -> Latents:
        self.on_part(f"latents of {sight.words}")
        return trio_latents(ready, sight, self.trio)

    def _view(self, ready: Surrogate, sight: Sight, latents: Latents, pictures: Pictures) -> dict[str, Any]:
        effect = shift_figures(latents)
        effect |= target_figures(ready, sight, self.trio, self.settings, self.target)
        survival, missing = survival_figures(ready, sight, self.trio, latents, self.conditioning, self.on_part)
        try:
            figures, made = reconstruction_figures(ready, sight, self.trio.before, latents)
        except CheckpointError as error:  # an encoder without its decoder
            missing["reconstruction"] = str(error)
        else:
            effect |= figures
            pictures |= {name: picture for name, picture in made.items() if name not in pictures}  # the whole's
        return {"words": sight.words, "effect": effect, "survival": survival, "not_measured": missing}

    def _denoiser(self, ready: Surrogate, latents: Latents, pictures: Pictures) -> dict[str, Any]:
        whole, seed = self.seen[0], self.settings.seed
        self.on_part("denoising loss")
        denoising = denoising_figures(ready, latents, seed, self.conditioning)
        varied = [self._keeping(pictures, self._variation(ready, strength)) for strength in STRENGTHS]
        self.on_part("inpainting")
        painted = self._keeping(pictures, inpainting_figures(ready, whole, self.trio, seed, self.conditioning))
        return {"denoising": denoising, "img2img": varied, "inpainting": painted}

    def _variation(self, ready: Surrogate, strength: float) -> tuple[dict[str, float | None], Pictures]:
        self.on_part(f"img2img at strength {strength:g}")
        return variation_figures(ready, self.seen[0], self.trio, self.settings.seed, self.conditioning, strength)

    @staticmethod
    def _keeping(pictures: Pictures, made: tuple[T, Pictures]) -> T:
        pictures |= made[1]
        return made[0]
