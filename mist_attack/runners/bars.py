"""The steps of a picture, shown while it is at work."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from ..gallery.task import Task


def bar_for(task: Task, *, shown: bool) -> Any:
    """A tqdm bar, gone when it is closed."""
    return tqdm(total=task.settings.steps, desc=task.source.name, leave=False, disable=not shown)
