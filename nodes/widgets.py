"""The controls' widgets. Their order in a node is that of saved workflows: new ones come last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..mist_attack.control import Control
from ..mist_attack.controls import BY_NAME, CONTROLS
from ..mist_attack.presets import BALANCED, node_presets

OPTIONS = ("gradient", "direction", "step", "step_decay", "view", "working_size")
MORE_OPTIONS = ("low_vram", "keep_tone", "prompt", "momentum")
"""Of Mist Options, before and after its output size."""
FINEST = 0.001
"""To which the page rounds numbers."""


def protect_controls() -> list[Control]:
    """Of Mist Protect itself."""
    return [control for control in CONTROLS if control.level == "beginner" and control.widget_name]


def option_controls() -> tuple[list[Control], list[Control]]:
    """Of Mist Options, before and after its output size."""
    others = [control.name for control in CONTROLS if control.level != "beginner" and control.widget_name]
    new = [name for name in others if name not in (*OPTIONS, *MORE_OPTIONS)]
    return [BY_NAME[name] for name in OPTIONS], [BY_NAME[name] for name in (*MORE_OPTIONS, *new)]


def widgets(controls: Sequence[Control]) -> list[io.Input]:
    return [widget(control) for control in controls]


def widget(control: Control, tooltip: str = "") -> io.Input:
    kinds = {float: io.Float, int: io.Int, bool: io.Boolean, str: io.Combo if control.choices else io.String}
    keywords = {"default": control.default, "tooltip": tooltip or control.explained("comfyui")}
    made = kinds[control.kind].Input(control.widget_name, **keywords, **_grid(control))
    return advanced(made) if control.level == "expert" else made


def _grid(control: Control) -> dict[str, Any]:
    if control.choices:
        return {"options": control.offered}
    if control.name == "seed":
        return {"min": control.least, "max": control.most, "control_after_generate": fixed_seed()}
    if control.limits is None:
        return {}
    grid = {"min": control.least, "max": control.most, "step": control.step}
    return grid | ({"round": FINEST} if control.kind is float else {})


def later(made: io.Input) -> io.Input:
    """Of a control that saved prompts do not have."""
    made.optional = True
    return made


def advanced(made: io.Input) -> io.Input:
    """Hidden until asked for, where the host can; older ones refuse the keyword and show the widget."""
    made.extra_dict = {**(made.extra_dict or {}), "advanced": True}
    return made


def fixed_seed() -> Any:
    """The seed's control starts as "fixed" where the host can say so: a new seed is a new run of minutes."""
    control = getattr(io, "ControlAfterGenerate", None)
    return control.fixed if control else True


def named(values: dict[str, Any]) -> dict[str, Any]:
    """Values of widgets, under the controls' names; what is none stays, to be refused."""
    names = {control.widget_name: control.name for control in CONTROLS if control.widget_name}
    return {names.get(widget, widget): value for widget, value in values.items()}


def preset_widget() -> io.Input:
    tip = f"A named preset fills these, whatever the widgets and options say. {preset_contents()}"
    return io.Combo.Input("preset", options=list(node_presets()), default=BALANCED, tooltip=tip)


def preset_contents() -> str:
    """What each fills, for people."""
    return " ".join(f"{name}: {_contents(filled)}." for name, filled in node_presets().items())


def _contents(filled: dict[str, Any]) -> str:
    words = [f"{BY_NAME[name].label.lower()} {BY_NAME[name].shown(value)}" for name, value in filled.items()]
    return ", ".join(words) or "nothing, the widgets count"
