"""The page "Mist" under Settings: the values with which tab, Extras and scripts begin, and requests to the API."""

from __future__ import annotations

import html
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from modules import shared
from modules.paths_internal import default_output_dir

from mist_attack.control import Control
from mist_attack.controls import CONTROLS, DEFAULTS, Settings
from mist_attack.devices import doctor
from mist_attack.presets import preset_controls
from mist_attack.sets.settings import SET_CONTROLS
from mist_attack.settings import resolve
from mist_attack.targets import target_names

SECTION = ("mist", "Mist")
SLIDER_POSITIONS = 500
OUTPUT_FOLDER = str(Path(default_output_dir) / "mist-images")
WHOLE_DOCTOR = (
    "Whether a step works on them: <code>python -m mist_attack doctor</code>, in this extension's folder and with the "
    "web UI's Python, which needs diffusers for it."
)


def widget_of(control: Control) -> tuple[Any, dict[str, Any]]:
    """gradio's class and its options: a slider where its positions can be told apart, else a field for a number."""
    if control.name == "target":
        return gr.Dropdown, {"choices": target_names()}
    if control.choices:
        return gr.Radio, {"choices": control.offered}
    if control.kind in (bool, str):
        return (gr.Checkbox if control.kind is bool else gr.Textbox), {}
    if (control.most - control.least) / control.step <= SLIDER_POSITIONS:
        return gr.Slider, {"minimum": control.least, "maximum": control.most, "step": control.step}
    return gr.Number, {"precision": 0} if control.kind is int else {}


Widget = tuple[str, Any, dict[str, Any]]
"""Label, gradio class, its options."""
WIDGETS: dict[str, Widget] = {
    control.name: (control.label, *widget_of(control)) for control in CONTROLS if "webui" in control.faces
}
"""Every control."""
HINTS = {control.name: control.explained("webui") for control in CONTROLS}
SET_WIDGETS: dict[str, Widget] = {control.name: (control.label, *widget_of(control)) for control in SET_CONTROLS}
"""Those of a set: their values are the table's, and not on the settings page."""
FIRST: dict[str, Any] = DEFAULTS | preset_controls("default")
"""With what a new settings page begins."""


def default(name: str) -> Any:
    """Of a control, as the settings page has it; without a page (--nowebui), as a new one has it."""
    return getattr(shared.opts, f"mist_{name}", FIRST[name])


def output_folder() -> Path:
    return Path(getattr(shared.opts, "mist_outdir", "") or OUTPUT_FOLDER)


def settings_from(values: Mapping[str, Any], preset: str = "default") -> Settings:
    """From widgets or a request; what is missing or None is as the settings page has it, or the named preset.

    Seed -1 is a random one. Raises SettingsError.
    """
    page = {name: default(name) for name in WIDGETS} if preset == "default" else {}
    given = {name: value for name, value in values.items() if value is not None or name not in WIDGETS}
    asked = {**page, **given}
    if asked.get("seed") == -1:
        asked["seed"] = secrets.randbelow(2**31)
    return resolve(preset, asked)


def machine_text() -> str:
    """HTML: versions and devices; nothing is computed for it."""
    lines = [html.escape(line) for line in doctor.machine(memory=False)]
    return "<br>".join([*lines, WHOLE_DOCTOR])


def _begun() -> Mapping[str, Any]:
    """What new settings begin with. Beside those that someone changed before there was a budget to choose, Mist's, as
    then; a page that nobody changed begins anew."""
    saved = {name: shared.opts.data[f"mist_{name}"] for name in WIDGETS if f"mist_{name}" in shared.opts.data}
    if not saved or "budget" in saved:
        return FIRST
    if any(value != DEFAULTS[name] for name, value in saved.items()):
        return DEFAULTS
    for name in saved:
        del shared.opts.data[f"mist_{name}"]
    return FIRST


def on_ui_settings() -> None:
    first = _begun()
    for name, (label, component, options) in WIDGETS.items():
        option = shared.OptionInfo(first[name], label, component, options, section=SECTION)
        shared.opts.add_option(f"mist_{name}", option.info(HINTS[name]).needs_reload_ui())
    machine = shared.OptionHTML(machine_text())
    machine.section = SECTION
    shared.opts.add_option("mist_machine", machine)
    label, hidden = "Output directory of the Mist tab", {"component_args": shared.hide_dirs, "section": SECTION}
    shared.opts.add_option("mist_outdir", shared.OptionInfo(OUTPUT_FOLDER, label, **hidden))
    shared.restricted_opts.add("mist_outdir")  # with --hide-ui-dir-config neither page nor API may set it
