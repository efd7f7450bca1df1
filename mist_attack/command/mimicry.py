"""`mist evaluate --mimicry`: its flags, and what a LoRA learns from the pictures that were judged."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, PictureError, SettingsError

if TYPE_CHECKING:
    from ..evaluation.imitating import Training
    from ..evaluation.mimicry import Mimicry
    from ..evaluation.results import Pair
    from ..settings import Settings
    from ..surrogate import Surrogate

PROTECTED = "protected"
VALUES = {
    "seeds": (int, "N", "trainings on each folder (default 5, whose span is an interval of 94 %%)"),
    "steps": (int, "N", "of each training, four pictures a step (default 400)"),
    "rank": (int, "N", "of the LoRAs (default 4)"),
    "rate": (
        float,
        "RATE",
        "of learning (default 4e-4 at the width of Stable Diffusion 1, more for narrower models)",
    ),
}
"""Flags --mimicry-NAME: kind, its letter, words."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("mimicry: LoRAs fine-tuned on the originals and on the protected pictures")
    words = "of folders: fine-tune and compare what the LoRAs make (minutes on a card or a demo model)"
    group.add_argument("--mimicry", action="store_true", help=words)
    for name, (kind, letter, words) in VALUES.items():
        group.add_argument(f"--mimicry-{name}", type=kind, metavar=letter, help=words)


def training_for(options: argparse.Namespace) -> Training | None:
    """None where mimicry was not asked for. Raises SettingsError."""
    from ..evaluation.imitating import Training

    given = {name: getattr(options, f"mimicry_{name}") for name in VALUES}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not options.mimicry:
        for name in asked:
            raise SettingsError(f"--mimicry-{name} goes with --mimicry.")
        return None
    if "seeds" in asked:
        asked["seeds"] = tuple(range(asked["seeds"]))
    return Training(**asked)


def prompt_of(original: Path, usual: str) -> str:
    """What stands beside the picture, or the usual one. Raises PictureError."""
    from ..gallery.companions import Beside
    from ..gallery.request import read_prompt

    found = Beside(original.parent).of("prompt", original.stem)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise PictureError(f"{original}: expected one prompt beside it, found {names}; keep one.")
    return read_prompt(found[0]) if found else usual


def of_models(
    models: Sequence[Surrogate],
    judged: Sequence[Pair],
    prompts: Sequence[str],
    training: Training,
    settings: Settings,
    on_part: Callable[[str], None],
) -> tuple[list[Mimicry], dict[str, str]]:
    """By each model that has a denoiser, the others being eyes; and why it is not measured, where it is not."""
    from ..evaluation.mimicry import mimicry
    from ..evaluation.transforms import NotMeasuredError

    found, missing = list[Any](), dict[str, str]()
    eyes = [model for model in models if len(model.sigmas) == 0]
    for model in [model for model in models if model not in eyes] or models[-1:]:
        try:
            found.append(
                mimicry(
                    model,
                    [pair.before for pair in judged],
                    {PROTECTED: [pair.after for pair in judged]},
                    prompts,
                    training,
                    eyes=eyes,
                    working_size=settings.working_size,
                    low_vram=settings.low_vram,
                    on_part=on_part,
                )
            )
        except (NotMeasuredError, CheckpointError) as error:
            missing["mimicry"] = str(error)
    return found, missing
