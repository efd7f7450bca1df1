"""Mist's controls as widgets, the same in the tab, in Extras and in the always-on script."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules.ui_components import FormRow

from mist_attack.control import Control
from mist_attack.controls import DEFAULTS, Settings
from mist_attack.presets import preset_controls, preset_names
from mist_attack.sets.settings import SET_CONTROLS, SetSettings, set_settings

from . import options

SEEN = (("strength", "steps"), ("objective", "fusion_weight"))
_FOLDED = (
    ("view", "working_size"),
    ("target", "prompt"),
    ("gradient", "direction"),
    ("step", "momentum"),
    ("seed", "low_vram"),
    ("step_decay", "keep_tone"),
    ("autoencoder",),
)
_NEW = tuple(name for name in options.WIDGETS if name not in [name for row in (*SEEN, *_FOLDED) for name in row])
FOLDED = (*_FOLDED, *(_NEW[start : start + 2] for start in range(0, len(_NEW), 2)))
NAMES = tuple(name for row in (*SEEN, *FOLDED) for name in row)
"""The order of the widgets' values, in which requests to the API may give them too: new ones come last."""
SET_NAMES = tuple(known.name for known in SET_CONTROLS)


def create(where: str) -> dict[str, Any]:
    """Widgets by name, in the order of NAMES. `where` makes their ids: mist_<where>_<name>."""
    with FormRow():
        preset = gr.Dropdown(preset_names(), value="default", label="Preset", elem_id=f"mist_{where}_preset")
    widgets = _rows(SEEN, where)
    with gr.Accordion("More Mist options", open=False, elem_id=f"mist_{where}_more"):
        widgets |= _rows(FOLDED, where)
    for component in (preset, *widgets.values()):
        component.do_not_save_to_config = True  # their values come from the settings page
    preset.change(fn=_values_of_preset, inputs=[preset], outputs=list(widgets.values()), show_progress=False)
    return widgets


def _rows(rows: tuple[tuple[str, ...], ...], where: str) -> dict[str, Any]:
    widgets = {}
    for names in rows:
        with FormRow(elem_classes="mist-controls"):
            widgets |= {name: _widget(name, where) for name in names}
    return widgets


def _widget(name: str, where: str) -> Any:
    found, elem_id = options.WIDGETS[name], f"mist_{where}_{name}"
    return _component(found, value=options.default(name), info=options.HINTS[name], elem_id=elem_id)


def _component(widget: options.Widget, **arguments: Any) -> Any:
    label, component, own = widget
    return component(label=label, **arguments, **own)


def create_set() -> list[Any]:
    """Those of a set, in the order of SET_NAMES."""
    widgets = []
    for row in (SET_CONTROLS[start : start + 2] for start in range(0, len(SET_CONTROLS), 2)):
        with FormRow(elem_classes="mist-controls"):
            widgets += [_set_widget(known) for known in row]
    for component in widgets:
        component.do_not_save_to_config = True
    return widgets


def _set_widget(known: Control) -> Any:
    found, elem_id = options.SET_WIDGETS[known.name], f"mist_set_{known.name}"
    return _component(found, value=known.default, info=known.explained("webui"), elem_id=elem_id)


def set_settings_from(arguments: tuple[Any, ...]) -> SetSettings:
    """Of the widgets' values, in the order of SET_NAMES; None is the default. Raises SettingsError."""
    return set_settings(dict(zip(SET_NAMES, arguments, strict=False)))


def _values_of_preset(preset: str) -> list[Any]:
    page = {name: options.default(name) for name in NAMES}
    controls = page if preset == "default" else DEFAULTS | preset_controls(preset)
    return [controls[name] for name in NAMES]


def settings_from(arguments: tuple[Any, ...]) -> Settings:
    """Of the widgets' values, or of one dict of them (and a preset), as API users write it; what is not given is as
    the settings page has it. Raises SettingsError."""
    if not arguments or not isinstance(arguments[0], dict):
        given = dict(zip(NAMES, arguments, strict=False))
        earlier = DEFAULTS if given and "budget" not in given else {}  # a list from before there was one: Mist's
        return options.settings_from({**earlier, **given})
    values = dict(arguments[0])
    preset = values.pop("preset", "default")
    return options.settings_from(values, preset)
