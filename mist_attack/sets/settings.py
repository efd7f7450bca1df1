"""How a set is protected, besides what holds for each picture: one more table of controls."""

# ruff: noqa: RUF009  # control() makes a field
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from ..control import LOSS, control, controls_in
from ..controls import Direction, Settings
from ..errors import SettingsError
from ..needs import NEEDS

LEAST = 2
"""Pictures of a set."""


@dataclass(frozen=True, kw_only=True)
class SetSettings:
    """The alternation (Anti-DreamBooth's ASPL, Van Le et al. 2023, arXiv 2303.15433). Same set, settings, seed, device
    and torch build: same bytes."""

    rounds: int = control(
        5,
        label="Rounds",
        level="beginner",
        limits=(1, 100),
        hint="How often a LoRA learns from the pictures as they are by then, before they are changed further.",
    )
    lora_steps: int = control(
        10,
        label="LoRA steps",
        limits=(1, 10_000),
        hint="Training steps of the LoRA in each round.",
    )
    lora_rank: int = control(
        4,
        label="LoRA rank",
        limits=(1, 128),
        hint="Rank of the LoRA that stands for the imitator's.",
    )
    lora_rate: float = control(
        0.0,
        label="LoRA rate",
        level="expert",
        limits=(0, 1),
        step=0.0001,
        hint="Learning rate of the LoRA. 0: by the width of the model's layers, 1e-4 for Stable Diffusion 1.",
    )
    lora_states: int = control(
        2,
        label="LoRA states",
        level="expert",
        limits=(1, 16),
        hint="States of the LoRA, from half-taught to taught, that the predictions of a round go through in turns.",
    )
    set_direction: Direction = control(
        "descent",
        label="Set direction",
        level="expert",
        choices=get_args(Direction),
        uses=LOSS,
        hint="In place of Direction: make the LoRA's denoising loss smaller, so that it finds little to learn, or "
        "larger (Anti-DreamBooth, Mist v2).",
    )

    def __post_init__(self) -> None:
        for known in SET_CONTROLS:
            known.check(getattr(self, known.setting))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


SET_CONTROLS = controls_in(SetSettings)
SET_BY_NAME = {known.name: known for known in SET_CONTROLS}


def set_settings(values: Mapping[str, Any]) -> SetSettings:
    """From controls by name, of any type; those that are None or missing have their defaults. Raises SettingsError."""
    from ..settings import checked  # ComfyUI reads the table before it has omegaconf

    return SetSettings(**checked(values, SET_BY_NAME))


def of_set(settings: Settings, chosen: SetSettings) -> Settings:
    """What holds for each picture."""
    return replace(settings, direction=chosen.set_direction)


def require_possible(settings: Settings, plan: SetSettings, pictures: int) -> None:
    """Raises SettingsError for what cannot be protected as a set."""
    if pictures < LEAST:
        raise SettingsError(f"Expected {LEAST} pictures or more of one style; got {pictures}. Protect one by itself.")
    if not NEEDS[settings.objective].denoiser:
        modes = ", ".join(name for name, needs in NEEDS.items() if needs.denoiser)
        raise SettingsError(
            f"The {settings.objective} mode goes through the autoencoder alone, which no LoRA changes. Choose {modes}, "
            "or protect the pictures one by one."
        )
    if settings.steps < plan.rounds:
        raise SettingsError(f"Expected a step or more for each round; got {settings.steps} for {plan.rounds} rounds.")
