"""Named starting points, from presets.yaml. A preset fills the controls; what a person then sets wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .errors import SettingsError, quoted

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


def _presets() -> dict[str, Any]:
    return yaml.safe_load(PRESETS_FILE.read_text(encoding="utf-8"))
