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

from mist_attack.devices import doctor
from mist_attack.settings import Controls, Settings, resolve
from mist_attack.targets import target_names

SECTION = ("mist", "Mist")
DEFAULTS = Controls()
OUTPUT_FOLDER = str(Path(default_output_dir) / "mist-images")
WHOLE_DOCTOR = (
    "Whether a step works on them: <code>python -m mist_attack doctor</code>, in this extension's folder and with the "
    "web UI's Python, which needs diffusers for it."
)


def slider(low: float, high: float, step: float) -> tuple[Any, dict[str, float]]:
    return gr.Slider, {"minimum": low, "maximum": high, "step": step}


def radio(*choices: str) -> tuple[Any, dict[str, Any]]:
    return gr.Radio, {"choices": list(choices)}


WIDGETS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "strength": ("Strength", *slider(0, 64, 1)),
    "steps": ("Steps", *slider(1, 500, 1)),
    "objective": ("Mode", *radio("fused", "textural", "semantic")),
    "fusion_weight": ("Fusion weight", *slider(0, 5, 0.005)),
    "view": ("View", *radio("whole", "tiles", "both")),
    "working_size": ("Working size", *slider(64, 2048, 64)),
    "target": ("Target", gr.Dropdown, {"choices": target_names()}),
    "low_vram": ("Low VRAM: slower, less memory", gr.Checkbox, {}),
    "seed": ("Seed", gr.Number, {"precision": 0}),
    "gradient": ("Gradient", *radio("exact", "sds", "amortised")),
    "direction": ("Direction", *radio("ascent", "descent")),
    "step": ("Step size", *slider(0.1, 16, 0.1)),
    "momentum": ("Momentum", *slider(0, 0.95, 0.01)),
    "step_decay": ("Decaying steps: end finely", gr.Checkbox, {}),
    "keep_tone": ("Keep tone: not darker, not tinted", gr.Checkbox, {}),
    "prompt": ("Prompt", gr.Textbox, {}),
}
"""Every control of `mist_attack.settings.Controls`: label, gradio class, its options."""

HINTS = {
    "strength": "grey levels by which a value may move; 16 can be seen in flat areas",
    "steps": "more are slower and stronger",
    "objective": "textural: towards the target; semantic: away from what the model knows; fused: both",
    "fusion_weight": "semantic against textural, an exponent as in Mist; fused only",
    "view": "of a large picture: all of it reduced, tiles at native scale, or both",
    "working_size": "side in pixels of the square that the model sees at once",
    "target": "textural: the pattern that the model is to see instead",
    "prompt": "semantic: what the picture is",
    "gradient": "semantic: through the UNet; sds without it, faster; amortised that at every third step, fastest",
    "direction": "semantic: denoising made harder (as in Mist) or easier",
    "step": "grey levels",
    "momentum": "share of the earlier gradients that a step keeps",
    "seed": "-1 draws one",
}


def default(name: str) -> Any:
    """Of a control, as the settings page has it; without a page (--nowebui), as the engine has it."""
    return getattr(shared.opts, f"mist_{name}", getattr(DEFAULTS, name))


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


def on_ui_settings() -> None:
    for name, (label, component, options) in WIDGETS.items():
        option = shared.OptionInfo(getattr(DEFAULTS, name), label, component, options, section=SECTION)
        option = option.info(HINTS[name]) if name in HINTS else option
        shared.opts.add_option(f"mist_{name}", option.needs_reload_ui())
    machine = shared.OptionHTML(machine_text())
    machine.section = SECTION
    shared.opts.add_option("mist_machine", machine)
    label, hidden = "Output directory of the Mist tab", {"component_args": shared.hide_dirs, "section": SECTION}
    shared.opts.add_option("mist_outdir", shared.OptionInfo(OUTPUT_FOLDER, label, **hidden))
    shared.restricted_opts.add("mist_outdir")  # with --hide-ui-dir-config neither page nor API may set it
