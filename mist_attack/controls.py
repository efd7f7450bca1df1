"""The one table of controls. Each is a field of the request that the engine gets, and says all that people see of it.

From it come flags, widgets, sliders, hints, checks, files' keys and the documentation's tables (`make texts`). A new
control is one more field here, the code that uses it, its translations (texts/) and its tests.
"""

# ruff: noqa: RUF009  # control() makes a field
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from .control import EXPONENT, LEVELS, LOSS, PIXELS, SEMANTIC, TEXTURAL, TEXTURAL_ALONE, Objective, control, controls_in

Gradient = Literal["exact", "sds", "amortised"]
Direction = Literal["ascent", "descent"]
ViewKind = Literal["whole", "tiles", "both"]
Shape = Literal["linf", "l2"]
Transforms = Literal["none", "reduction", "web", "harsh"]
Autoencoder = Literal["full", "small"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One request, in the engine's units. Same picture, settings, seed, device and torch build: same bytes."""

    objective: Objective = control(
        "fused",
        label="Mode",
        widget="mode",
        level="beginner",
        choices=get_args(Objective),
        hint="What the model is made to mis-read. textural: the picture's look, through the VAE alone; the fastest. "
        "semantic: what it shows, through the whole model. lunet: what a LoRA learns of it, Mist v2's. fused: textural "
        "and semantic, Mist's default.",
    )
    epsilon: float = control(
        16.0,
        name="strength",
        label="Strength",
        level="beginner",
        limits=(0, 255),
        scale=LEVELS,
        hint="How far any value may move, in grey levels of 0 to 255. 16 is Mist's; 8 is half as visible and weaker.",
    )
    """L-infinity cap of the perturbation, unit range."""
    budget: Shape = control(
        "linf",
        label="Budget",
        choices=get_args(Shape),
        hint="How the change is bounded within the strength. linf: each value alone, Mist's. l2: the whole change too, "
        "by its RMS, so that it goes where it works.",
    )
    rms: float = control(
        8.0,
        label="RMS",
        limits=(0.1, 255),
        step=0.1,
        scale=LEVELS,
        hint="Budget l2: the root mean square of the whole change is at most this, in grey levels. 8 is 30 dB of PSNR "
        "or more, 3.2 is 38 dB.",
    )
    """Unit range."""
    hiding: float = control(
        0.0,
        label="Hiding",
        limits=(0, 10),
        step=0.1,
        hint="How much the change keeps to where the picture's own structure hides it; flat parts get next to nothing. "
        "0 is off, 1 a good measure, more is stricter.",
    )
    """Of SSIM's curvature in the budget: see hiding.py."""
    chroma: float = control(
        1.0,
        label="Colour",
        limits=(0.05, 1),
        step=0.05,
        hint="Budget l2: how far colours may go, over lightness. People see changes of colour sooner than models do.",
    )
    transforms: Transforms = control(
        "none",
        label="Transforms",
        choices=get_args(Transforms),
        hint="What the change is made to survive, a step each in turns: nothing; reduction; web: reduction and JPEG; "
        "harsh: reduction and strong JPEG.",
    )
    step_size: float = control(
        1.0,
        name="step",
        label="Step size",
        limits=(1e-3, 255),
        step=0.1,
        scale=LEVELS,
        hint="How far one step moves a value, in grey levels. Mist's is 1.",
    )
    """How far one step moves a pixel, unit range; the first of them where steps decay."""
    steps: int = control(
        100,
        label="Steps",
        level="beginner",
        limits=(1, 100_000),
        hint="Steps of the search. More is slower and stronger, up to a point.",
    )
    step_decay: bool = control(
        False,
        label="Step decay",
        level="expert",
        hint="Steps shrink towards zero, so that few large ones end finely.",
    )
    """Step sizes fall linearly towards zero, so that few large steps end finely."""
    momentum: float = control(
        0.0,
        label="Momentum",
        level="expert",
        limits=(0, 0.99),
        step=0.01,
        hint="Share of the earlier gradients that a step keeps. 0.5 makes few large steps reach further.",
    )
    """Share of the earlier gradients that a step keeps (Dong et al. 2018, arXiv 1710.06081): averages a noisy loss."""
    semantic_weight: float = control(
        1.0,
        name="fusion_weight",
        label="Fusion weight",
        level="beginner",
        limits=(-9, 9),
        step=0.05,
        uses=("fused",),
        scale=EXPONENT,
        hint="Fused mode: semantic against textural. An exponent as in Mist: one more is ten times as much.",
    )
    """fused = textural - (semantic_weight / 16384) * semantic, both means per image."""
    gradient: Gradient = control(
        "exact",
        label="Gradient",
        choices=get_args(Gradient),
        uses=SEMANTIC,
        hint="The semantic gradient: exact, through the UNet; sds, score distillation, without the UNet's derivative: "
        "faster, and with less memory; or amortised, sds at every third step: faster still.",
    )
    """Semantic gradient through the UNet; by score distillation without its Jacobian (sds); or that of two draws at
    every third step only, and kept for the next two (amortised)."""
    direction: Direction = control(
        "ascent",
        label="Direction",
        level="expert",
        choices=get_args(Direction),
        uses=LOSS,
        hint="Make the denoising loss larger (Mist), or smaller (Xue et al. 2024), so that a LoRA finds less to learn.",
    )
    """Denoising loss maximised (Mist) or minimised (Xue et al. 2024, arXiv 2311.12832)."""
    view: ViewKind = control(
        "whole",
        label="View",
        choices=get_args(ViewKind),
        hint="Tiling: what the model sees of a picture larger than the working size. whole: all of it, reduced, as "
        "imitators train. tiles: overlapping tiles at native scale. both: the two together.",
    )
    working_size: int = control(
        512,
        label="Working size",
        limits=(64, 4096),
        step=64,
        scale=PIXELS,
        hint="Side in pixels of the square that the model sees at once: 512 for SD 1 and 2.0-base, 768 for SD 2, 1024 "
        "for SDXL. The picture keeps its size.",
    )
    """Side in pixels of the square whose area the model sees at once."""
    keep_tone: bool = control(
        True,
        label="Keep tone",
        hint="The picture gets neither darker, lighter nor tinted. Off: as Mist was published.",
    )
    """No channel's mean may shift: the picture gets neither darker nor tinted."""
    random_start: bool = True
    prompt: str = control(
        "a painting",
        label="Prompt",
        uses=SEMANTIC,
        hint="What the semantic part tells the model that it sees. Empty: no prompt.",
        notes={
            "comfyui": "Needs clip. A connected conditioning takes its place.",
            "command": "STEM.prompt.txt beside a picture wins.",
        },
    )
    target: str = control(
        "lattice",
        label="Target",
        widget="",
        uses=TEXTURAL,
        hint="What the model shall see instead: a built-in pattern, or a picture.",
    )
    """A built-in target's name; a target picture given to `protect` takes its place."""
    autoencoder: Autoencoder = control(
        "full",
        label="Autoencoder",
        choices=get_args(Autoencoder),
        uses=TEXTURAL_ALONE,
        faces=("webui",),
        hint="Textural mode alone. full: the model's own. small: the web UI's TAESD, a small approximation of it, "
        "about a ninth of the work. How much of the protection carries over to the full one has not been measured.",
    )
    """Of those that a host has for the model."""
    low_vram: bool = control(
        False,
        label="Low VRAM",
        changes_picture=False,
        hint="Less memory for more time: parts of the model are computed twice. Done by itself when memory runs out.",
    )
    seed: int = control(
        23,
        label="Seed",
        level="beginner",
        limits=(0, 2**63 - 1),
        hint="Same picture, settings, seed and machine: the same result.",
        notes={"webui": "-1 draws one."},
    )

    def __post_init__(self) -> None:
        for known in CONTROLS:
            value = getattr(self, known.setting)
            if known.scale is not EXPONENT or value != 0:  # a weight of zero is no weight, and no power of ten
                known.check(known.scale.to_people(value))

    @property
    def strength_levels(self) -> float:
        """epsilon in grey levels."""
        return LEVELS.to_people(self.epsilon)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


CONTROLS = controls_in(Settings)
BY_NAME = {known.name: known for known in CONTROLS}
DEFAULTS: dict[str, Any] = {known.name: known.default for known in CONTROLS}
"""In people's units."""


def settings_from(values: Mapping[str, Any]) -> Settings:
    """The engine's request from controls by name; what is missing has its default. Raises SettingsError."""
    asked = {known.setting: known.scale.to_engine({**DEFAULTS, **values}[known.name]) for known in CONTROLS}
    return Settings(**asked)


def controls_from(settings: Settings | Mapping[str, Any]) -> dict[str, Any]:
    """Back again: controls by name, of a request or of the dict that a report has of one."""
    found = settings.as_dict() if isinstance(settings, Settings) else settings
    return {known.name: known.scale.to_people(found[known.setting]) for known in CONTROLS if known.setting in found}
