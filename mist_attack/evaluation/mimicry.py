"""Mimicry: how near to the originals' style come pictures by LoRAs of the originals, and of the protected pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..surrogate import Surrogate
from .effect import OnPart
from .imitating import UNTAUGHT, Imitations, Pictures, Training, imitate, require_enough, require_student, side_for
from .imitating import squares as squares_of
from .intervals import interval
from .style import frechet, style_of

ORIGINALS, SHOWN = "originals", "shown"


@dataclass(frozen=True)
class Mimicry:
    """What came of it. See docs/evaluate.md for the figures."""

    figures: dict[str, Any]
    pictures: dict[str, list[Tensor]]
    """(1, 3, side, side) uint8: what was made with the first seed, by the name of the set; SHOWN: the originals."""


def mimicry(
    surrogate: Surrogate,
    originals: Pictures,
    protected: Mapping[str, Pictures],
    prompts: Sequence[str],
    training: Training,
    *,
    eyes: Sequence[Surrogate] = (),
    working_size: int = 512,
    low_vram: bool = False,
    on_part: OnPart = lambda words: None,
) -> Mimicry:
    """originals: (1, 3, H, W) uint8, of any sizes. protected: by name, in the same order and sizes each. prompts: one
    for each picture. eyes: autoencoders that judge the style besides the surrogate's own.

    Raises NotMeasuredError with the reason, where it cannot be done; CheckpointError for a prompt; PictureError."""
    require_student(surrogate)
    require_enough(originals)
    judges = (surrogate, *eyes)
    side = side_for(judges, originals, working_size)
    sets = {name: squares_of(pictures, side) for name, pictures in {ORIGINALS: originals, **protected}.items()}
    made = imitate(surrogate, sets, prompts, training, side, low_vram=low_vram, on_part=on_part)
    figures = {
        "model": surrogate.name,
        "is_demo": bool(getattr(surrogate, "is_demo", False)),
        "pictures": len(originals),
        "side": side,
        "training": asdict(training),
        "styles": [style_figures(judge, sets[ORIGINALS], made) for judge in judges],
    }
    return Mimicry(figures, {SHOWN: sets[ORIGINALS]} | {name: seeds[0] for name, seeds in made.items()})


def style_figures(eye: Surrogate, originals: Pictures, made: Imitations) -> dict[str, Any]:
    """As one autoencoder sees it. distances: by set, of the pictures of each seed to the originals, Frechet's (see
    `style`). originals_over_model: of those by the LoRA of the originals, over those without one. protected: by set,
    the same over_originals and over_model. Ratios are taken seed by seed; values are medians with 95 % intervals."""
    side = originals[0].shape[3]
    distances = eye.run(lambda ready: _distances(ready, originals, made), 1, side, side)
    clean, untaught = distances[ORIGINALS], distances[UNTAUGHT]
    return {
        "eye": eye.name,
        "distances": {name: _interval(values) | {"by_seed": values} for name, values in distances.items()},
        "originals_over_model": _ratio(clean, untaught),
        "protected": {
            name: {"over_originals": _ratio(values, clean), "over_model": _ratio(values, untaught)}
            for name, values in distances.items()
            if name not in (ORIGINALS, UNTAUGHT)
        },
    }


def _distances(ready: Surrogate, originals: Pictures, made: Imitations) -> dict[str, list[float]]:
    style = style_of(ready, originals)
    return {name: [frechet(style_of(ready, pictures), style) for pictures in seeds] for name, seeds in made.items()}


def _ratio(some: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    return _interval([a / b for a, b in zip(some, others, strict=True)])


def _interval(values: Sequence[float]) -> dict[str, float]:
    found = interval(values)
    return {"value": found.median, "low": found.low, "high": found.high}
