"""What can go wrong for a user. Every message says what was expected, what was found and what to do."""

from __future__ import annotations

from typing import Any

QUOTED = 40  # characters


def quoted(value: Any, limit: int = QUOTED) -> str:
    """What people sent, for a message: short, on one line, and free of what cannot be printed."""
    if isinstance(value, float):
        return f"{value:g}"
    try:
        text = repr(value[: limit + 1] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits; lists in themselves
        return f"a very large {type(value).__name__}"
    return text if len(text) <= limit + 2 else f"{text[:limit]}..."


class MistError(Exception):
    """Base of all errors that a face shows to the user as they are."""


class SettingsError(MistError):
    """A setting is out of range, or two settings contradict each other."""


class PictureError(MistError):
    """A picture, mask or target cannot be used."""


class CheckpointError(MistError):
    """No model, or a file that is not the model we need."""


class GradientError(MistError):
    """The model's gradient is not finite, or zero everywhere, so the picture cannot be protected with it."""


class DeviceError(MistError):
    """A device cannot do a step, for another reason than memory: no picture can be protected on it."""


class BudgetError(MistError):
    """A result moves by more than was asked for: our own fault, found by the last check and not written."""


class OutputError(MistError):
    """A result cannot be written."""


class Stop(Exception):  # noqa: N818  # a signal, as StopIteration is: not an error
    """Raised by `on_step` to end the loop and keep what is reached so far."""
