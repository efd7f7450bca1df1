"""The whole request as one frozen value, presets, and the words in which people ask for it.

People speak Mist's language: strength in grey levels (0..255), fusion weight as an exponent. `Controls` is that
language, as presets, YAML files, widgets and flags use it; `Settings` is what the engine works with: unit range.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from .errors import SettingsError
from .surrogate import Objective

Gradient = Literal["exact", "sds", "amortised"]
Direction = Literal["ascent", "descent"]
ViewKind = Literal["whole", "tiles", "both"]

PRESETS_FILE = Path(__file__).with_name("presets.yaml")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One request. Same picture, settings, seed, device and torch build: same bytes."""

    objective: Objective = "fused"
    epsilon: float = 16 / 255
    """L-infinity cap of the perturbation, unit range."""
    step_size: float = 1 / 255
    """How far one step moves a pixel, unit range; the first of them where steps decay."""
    steps: int = 100
    step_decay: bool = False
    """Step sizes fall linearly towards zero, so that few large steps end finely."""
    momentum: float = 0.0
    """Share of the earlier gradients that a step keeps (Dong et al. 2018, arXiv 1710.06081): averages a noisy loss."""
    semantic_weight: float = 1e4
    """fused = textural - (semantic_weight / 16384) * semantic, both means per image."""
    gradient: Gradient = "exact"
    """Semantic gradient through the UNet; by score distillation without its Jacobian (sds); or that of two draws at
    every third step only, and kept for the next two (amortised)."""
    direction: Direction = "ascent"
    """Denoising loss maximised (Mist) or minimised (Xue et al. 2024, arXiv 2311.12832)."""
    view: ViewKind = "whole"
    working_size: int = 512
    """Side in pixels of the square whose area the model sees at once."""
    keep_tone: bool = True
    """No channel's mean may shift: the picture gets neither darker nor tinted."""
    random_start: bool = True
    prompt: str = "a painting"
    target: str = "lattice"
    """A built-in target's name; a target picture given to `protect` takes its place."""
    low_vram: bool = False
    seed: int = 23

    def __post_init__(self) -> None:
        _check_choice("objective", self.objective, Objective)
        _check_choice("gradient", self.gradient, Gradient)
        _check_choice("direction", self.direction, Direction)
        _check_choice("view", self.view, ViewKind)
        _check_range("strength (epsilon)", self.epsilon * 255, 0, 255)
        _check_range("step size", self.step_size * 255, 1e-3, 255)
        _check_range("momentum", self.momentum, 0, 0.99)
        _check_range("steps", self.steps, 1, 100_000)
        _check_range("semantic weight", self.semantic_weight, 0, 1e12)
        _check_range("working size", self.working_size, 64, 4096)
        _check_range("seed", self.seed, 0, 2**63 - 1)

    @property
    def strength_levels(self) -> float:
        """epsilon in grey levels."""
        return round(self.epsilon * 255, 6)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Controls:
    """A request in the words of Mist's interface; every field is a flag, a widget or a line of YAML."""

    strength: float = 16.0  # grey levels
    steps: int = 100
    step: float = 1.0  # grey levels
    step_decay: bool = False
    momentum: float = 0.0  # share of the earlier gradients that a step keeps
    objective: str = "fused"
    fusion_weight: float = 1.0  # w: semantic_weight is 10 ** (w + 3)
    gradient: str = "exact"
    direction: str = "ascent"
    view: str = "whole"
    working_size: int = 512  # pixels
    keep_tone: bool = True
    prompt: str = "a painting"
    target: str = "lattice"
    low_vram: bool = False
    seed: int = 23

    def settings(self) -> Settings:
        """The same request in the engine's units. Raises SettingsError."""
        same = {field.name: getattr(self, field.name) for field in fields(Settings) if hasattr(self, field.name)}
        return Settings(
            **same,
            epsilon=self.strength / 255,
            step_size=self.step / 255,
            semantic_weight=10 ** (self.fusion_weight + 3),
        )


def preset_names() -> list[str]:
    return list(_presets())


def preset_descriptions() -> dict[str, str]:
    return {name: body["about"] for name, body in _presets().items()}


def preset_controls(name: str) -> dict[str, Any]:
    """What a preset sets, in the words of Controls. Raises SettingsError for an unknown name."""
    if name not in _presets():
        raise SettingsError(f"Unknown preset '{name}'. Choose one of: {', '.join(_presets())}.")
    return _presets()[name].get("controls", {})


def resolve(preset: str = "default", config: Path | None = None, **overrides: Any) -> Settings:
    """Settings from a preset, then a YAML file, then single controls; the later wins, None means not given.

    Raises SettingsError for an unknown preset, an unknown or ill-typed control and an unreadable file.
    """
    layers = [
        preset_controls(preset),
        {} if config is None else _read_yaml(config),
        {name: value for name, value in overrides.items() if value is not None},
    ]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Controls), *layers)
        controls = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise SettingsError(f"{_first_line(error)} Known controls: {_control_names()}.") from error
    assert isinstance(controls, Controls)
    return controls.settings()


def _presets() -> dict[str, Any]:
    presets = OmegaConf.to_container(OmegaConf.load(PRESETS_FILE))
    assert isinstance(presets, dict)
    return {str(name): body for name, body in presets.items()}


def _read_yaml(path: Path) -> Any:
    try:
        loaded = OmegaConf.load(path)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise SettingsError(f"Cannot read the settings file {path}: {_first_line(error)}") from error
    if not OmegaConf.is_dict(loaded):
        raise SettingsError(f"{path}: expected lines like 'strength: 8'. Known controls: {_control_names()}.")
    return loaded


def _control_names() -> str:
    return ", ".join(field.name for field in fields(Controls))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise SettingsError(f"Expected {name} to be one of {', '.join(get_args(choices))}; got '{value}'.")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise SettingsError(f"Expected {name} between {low:g} and {high:g}; got {value:g}.")
