"""From widgets, options and a preset to the engine's settings. Widgets are data too: a link may bring them anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..mist_attack.errors import SettingsError, quoted
from ..mist_attack.presets import node_presets
from .packages import engine
from .schema import KEEP_SIZE, SIZES, WORKING_SIZE

if TYPE_CHECKING:
    from ..mist_attack.settings import Settings

Controls = dict[str, Any]


def settings_of(preset: str, widgets: Controls, options: Controls | None) -> Settings:
    """What the preset names wins over the widgets and the options: they always hold a value. Raises SettingsError."""
    with engine():
        from ..mist_attack.settings import checked, settings_from
    controls = {**_given(options), **widgets}
    controls.pop("output_size", None)
    filled = node_presets()[one_of("preset", preset, list(node_presets()))]
    return settings_from(checked({**controls, **filled}))


def wants_working_size(options: Controls | None) -> bool:
    """Is the picture to be reduced? Raises SettingsError."""
    return one_of("output_size", _given(options).get("output_size", KEEP_SIZE), SIZES) == WORKING_SIZE


def one_of(name: str, value: Any, choices: list[str]) -> str:
    """A choice that the host may not have checked. Raises SettingsError."""
    if value not in choices:
        raise SettingsError(f"Expected {name} to be one of {', '.join(choices)}; got {quoted(value)}.")
    return value


def _given(options: Controls | None) -> Mapping[str, Any]:
    if not isinstance(options or {}, Mapping):
        raise SettingsError(f"Expected options from a Mist Options node; got {quoted(options)}.")
    return options or {}
