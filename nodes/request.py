"""From widgets, options and a preset to the engine's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .packages import engine

if TYPE_CHECKING:
    from ..mist_attack.settings import Settings

Controls = dict[str, Any]


def settings_of(preset: str, widgets: Controls, options: Controls | None) -> Settings:
    """What the preset names wins over the widgets and the options: they always hold a value. Raises SettingsError."""
    with engine():
        from ..mist_attack.settings import preset_controls, resolve
    controls = {**(options or {}), **widgets}
    controls.pop("output_size", None)
    named = preset_controls(preset)
    return resolve(preset, **{name: value for name, value in controls.items() if name not in named})
