"""The whole request as one frozen value, presets, and the words in which people ask for it.

People speak Mist's language: strength in grey levels (0..255), fusion weight as an exponent. `Controls` is that
language, as presets, YAML files, widgets and flags use it; `Settings` is what the engine works with: unit range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from omegaconf import BooleanNode, FloatNode, IntegerNode, OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException

from .errors import SettingsError, quoted
from .settings_file import read_config
from .surrogate import Objective

Gradient = Literal["exact", "sds", "amortised"]
Direction = Literal["ascent", "descent"]
ViewKind = Literal["whole", "tiles", "both"]

PRESETS_FILE = Path(__file__).with_name("presets.yaml")

LIMITS: dict[str, tuple[float, float]] = {
    "strength": (0, 255),  # grey levels
    "steps": (1, 100_000),
    "step": (1e-3, 255),  # grey levels
    "momentum": (0, 0.99),
    "fusion_weight": (-9, 9),
    "working_size": (64, 4096),  # pixels
    "seed": (0, 2**63 - 1),
}
"""Of every number that people give, whichever way they give it; both ends are allowed."""

MAX_TEXT = 5000
"""Characters of a prompt or a name."""

WORDS = {"step": "step size", "objective": "objective (mode)"}
"""What people read for a control where it is not its name."""


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
        for name in _TYPES.keys() & vars(self).keys():
            _check(name, getattr(self, name))
        _check("strength", self.epsilon * 255)
        _check("step", self.step_size * 255)
        if self.semantic_weight != 0:
            _check("fusion_weight", exponent_of(self.semantic_weight))

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


def exponent_of(semantic_weight: float) -> float:
    """The fusion weight that people give, of the engine's; NaN for what has none."""
    return round(math.log10(semantic_weight) - 3, 9) if semantic_weight > 0 else math.nan


def preset_names() -> list[str]:
    return list(_presets())


def preset_descriptions() -> dict[str, str]:
    return {name: body["about"] for name, body in _presets().items()}


def preset_controls(name: str) -> dict[str, Any]:
    """What a preset sets, in the words of Controls. Raises SettingsError for an unknown name."""
    presets = _presets()
    if not isinstance(name, str) or name not in presets:
        raise SettingsError(f"Unknown preset {quoted(name)}. Choose one of: {', '.join(presets)}.")
    return presets[name].get("controls", {})


def resolve(
    preset: str = "default", values: Mapping[str, Any] | None = None, *, config: Path | None = None
) -> Settings:
    """Settings from a preset, then a YAML file, then single controls by name; the later wins, None means not given.

    values: what people ask for: any object of any type. Text is taken as it is; nothing in it is looked up.
    Raises SettingsError for an unknown preset, an unknown, ill-typed or unbounded control and an unreadable file.
    """
    layers = [preset_controls(preset), {} if config is None else _from_file(config), checked(values or {})]
    return Controls(**{name: value for layer in layers for name, value in layer.items()}).settings()


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Controls by name, of their own types and within their limits; those that are None are left out.

    Raises SettingsError."""
    if not isinstance(values, Mapping):
        raise SettingsError(f"Expected settings by name, as in {{'strength': 8}}; got {quoted(values)}.")
    return {name: _checked(name, value) for name, value in values.items() if value is not None or name not in _TYPES}


def _from_file(path: Path) -> dict[str, Any]:
    found = {}
    for name, (text, line) in read_config(path, known=_control_names()).items():
        try:
            found |= checked({name: text})
        except SettingsError as error:
            raise SettingsError(f"{path}, line {line}, {quoted(name)}: {error}") from error
    return found


_NODES = {"float": FloatNode, "int": IntegerNode, "bool": BooleanNode, "str": StringNode}
_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text"}
_TYPES = {field.name: str(field.type) for field in fields(Controls)}
_CHOICES = {"objective": Objective, "gradient": Gradient, "direction": Direction, "view": ViewKind}


def _checked(name: str, value: Any) -> Any:
    if name not in _TYPES:
        near = "".join(f" Did you mean {known}?" for known in get_close_matches(quoted(name), _TYPES, 1))
        raise SettingsError(f"Unknown control {quoted(name)}.{near} Known controls: {_control_names()}.")
    value = _converted(name, value)
    _check(name, value)
    return value


def _converted(name: str, value: Any) -> Any:
    """Never through a container of OmegaConf's, which would look up what stands in ${...}."""
    kind = _TYPES[name]
    if kind == "int" and isinstance(value, float) and value.is_integer():
        value = int(value)  # sliders make floats of whole numbers
    try:
        if kind == "str" and not isinstance(value, str):
            raise ValueError
        return _NODES[kind]().validate_and_convert(value)
    except (OmegaConfBaseException, ValueError, OverflowError) as error:
        raise SettingsError(f"Expected {_words(name)} to be {_KINDS[kind]}; got {quoted(value)}.") from error


def _presets() -> dict[str, Any]:
    presets = OmegaConf.to_container(OmegaConf.load(PRESETS_FILE))
    assert isinstance(presets, dict)
    return {str(name): body for name, body in presets.items()}


def _control_names() -> str:
    return ", ".join(field.name for field in fields(Controls))


def _words(name: str) -> str:
    return WORDS.get(name, name.replace("_", " "))


def _check(name: str, value: Any) -> None:
    """Of the control's own type already. Raises SettingsError."""
    if name in LIMITS:
        _check_range(name, value)
    elif name in _CHOICES:
        _check_choice(name, value)
    elif _TYPES[name] == "str":
        _check_text(name, value)


def _check_range(name: str, value: float) -> None:
    low, high = LIMITS[name]
    if not low <= value <= high:  # also refuses NaN
        raise SettingsError(f"Expected {_words(name)} between {low:g} and {high:g}; got {quoted(value)}.")


def _check_choice(name: str, value: str) -> None:
    choices = get_args(_CHOICES[name])
    if value not in choices:
        raise SettingsError(f"Expected {_words(name)} to be one of {', '.join(choices)}; got {quoted(value)}.")


def _check_text(name: str, value: str) -> None:
    if len(value) > MAX_TEXT:
        raise SettingsError(f"Expected {_words(name)} of at most {MAX_TEXT} characters; got {len(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"Expected {_words(name)} of Unicode characters; got halves of some.") from error
