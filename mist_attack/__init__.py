"""Mist: protect pictures against imitation by latent-diffusion models. Importing this does nothing.

`protect`, `Settings`, `resolve` and `Report` are here, and loaded when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .protection import protect as protect
    from .report import Report as Report
    from .settings import Settings as Settings
    from .settings import resolve as resolve

__version__ = "0.1.0"

_PLACES = {"protect": "protection", "Settings": "settings", "resolve": "settings", "Report": "report"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
