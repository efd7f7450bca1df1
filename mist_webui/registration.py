"""Tells the web UI what there is; called each time `scripts/mist.py` is executed."""

from __future__ import annotations

from modules import script_callbacks

from . import always_on, api, options, tab


def register() -> None:
    script_callbacks.on_ui_settings(options.on_ui_settings)
    script_callbacks.on_ui_tabs(tab.on_ui_tabs)
    script_callbacks.on_app_started(api.on_app_started)
    script_callbacks.on_before_image_saved(always_on.strip_from_copies)
