"""Named starting points, from presets.yaml. A preset fills the controls; what a person then sets wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .errors import SettingsError, quoted

DEFAULT, BALANCED = "default", "balanced"
PRESETS_FILE = Path(__file__).with_name("presets.yaml")


def preset_names() -> list[str]:
    return list(_presets())


def preset_descriptions() -> dict[str, str]:
    return {name: body["about"] for name, body in _presets().items()}


def preset_controls(name: str) -> dict[str, Any]:
    """What a preset sets, in people's units. Raises SettingsError for an unknown name."""
    presets = _presets()
    if not isinstance(name, str) or name not in presets:
        raise SettingsError(f"Unknown preset {quoted(name)}. Choose one of: {', '.join(presets)}.")
    return presets[name].get("controls", {})


def usual(name: str, otherwise: Any) -> Any:
    """Of a control where nobody asks for another preset, in people's units; `otherwise` where the preset is silent."""
    return preset_controls(DEFAULT).get(name, otherwise)


def node_presets() -> dict[str, dict[str, Any]]:
    """What a node offers, and what each fills. There "default" fills nothing, as workflows that were saved before
    November 2026 mean it, and what the other faces call so is BALANCED."""
    others = {name: preset_controls(name) for name in preset_names() if name != DEFAULT}
    return {BALANCED: preset_controls(DEFAULT), **others, DEFAULT: {}}


def _presets() -> dict[str, Any]:
    return yaml.safe_load(PRESETS_FILE.read_text(encoding="utf-8"))
