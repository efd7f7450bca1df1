"""From what people ask for to a request: presets, settings files and single controls, each checked; the later wins.

The controls themselves are in `controls.py`. People speak Mist's language: strength in grey levels (0..255), fusion
weight as an exponent; the engine works in unit range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import make_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import BooleanNode, FloatNode, IntegerNode, StringNode
from omegaconf.errors import OmegaConfBaseException

from .control import KINDS, MAX_TEXT, Control, exponent_of
from .controls import (
    BY_NAME,
    CONTROLS,
    Direction,
    Gradient,
    Settings,
    Shape,
    Transforms,
    ViewKind,
    controls_from,
    settings_from,
)
from .errors import SettingsError, quoted
from .presets import preset_controls, preset_descriptions, preset_names
from .settings_file import read_config

__all__ = [
    "LIMITS",
    "MAX_TEXT",
    "Controls",
    "Direction",
    "Gradient",
    "Settings",
    "Shape",
    "Transforms",
    "ViewKind",
    "checked",
    "controls_from",
    "exponent_of",
    "preset_controls",
    "preset_descriptions",
    "preset_names",
    "resolve",
    "settings_from",
]

LIMITS = {known.name: known.limits for known in CONTROLS if known.limits}
"""Of every number that people give, whichever way they give it; both ends are allowed."""

Controls: Any = make_dataclass(
    "Controls",
    [(known.name, known.kind, known.default) for known in CONTROLS],
    namespace={"settings": lambda self: settings_from(vars(self))},
)
"""A request in people's units, a field for each control; `settings()` is the engine's. Raises SettingsError."""


def resolve(
    preset: str = "default",
    values: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    usual: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings from a preset, then a YAML file, then single controls by name; the later wins, None means not given.
    usual: checked controls in place of the table's defaults.

    values: what people ask for: any object of any type. Text is taken as it is; nothing in it is looked up.
    Raises SettingsError for an unknown preset, an unknown, ill-typed or unbounded control and an unreadable file.
    """
    layers = [usual or {}, preset_controls(preset), {} if config is None else _from_file(config), checked(values or {})]
    return settings_from({name: value for layer in layers for name, value in layer.items()})


def checked(values: Mapping[str, Any], known: Mapping[str, Control] = BY_NAME) -> dict[str, Any]:
    """Controls by name, of their own types and within their limits; those that are None are left out. known: the table
    of them. Raises SettingsError."""
    if not isinstance(values, Mapping):
        raise SettingsError(f"Expected settings by name, as in {{'strength': 8}}; got {quoted(values)}.")
    asked = {name: value for name, value in values.items() if value is not None or name not in known}
    return {name: _checked(name, value, known) for name, value in asked.items()}


def _from_file(path: Path) -> dict[str, Any]:
    found = {}
    for name, (text, line) in read_config(path, known=", ".join(BY_NAME)).items():
        try:
            found |= checked({name: text})
        except SettingsError as error:
            raise SettingsError(f"{path}, line {line}, {quoted(name)}: {error}") from error
    return found


_NODES = {float: FloatNode, int: IntegerNode, bool: BooleanNode, str: StringNode}


def _checked(name: str, value: Any, known: Mapping[str, Control]) -> Any:
    if name not in known:
        near = "".join(f" Did you mean {other}?" for other in get_close_matches(quoted(name), known, 1))
        raise SettingsError(f"Unknown control {quoted(name)}.{near} Known controls: {', '.join(known)}.")
    value = _converted(known[name], value)
    known[name].check(value)
    return value


def _converted(known: Control, value: Any) -> Any:
    """Never through a container of OmegaConf's, which would look up what stands in ${...}."""
    if known.kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # sliders make floats of whole numbers
    try:
        if known.kind is str and not isinstance(value, str):
            raise ValueError
        return _NODES[known.kind]().validate_and_convert(value)
    except (OmegaConfBaseException, ValueError, OverflowError) as error:
        raise SettingsError(f"Expected {known.words} to be {KINDS[known.kind]}; got {quoted(value)}.") from error
