"""What a process of our own does while it imports torch and diffusers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """While open, Python does not look for garbage, and what is there at the end it never looks through: modules stay
    for good, and going through them again and again takes a sixth of the time of importing them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
