"""What can go wrong for a user. Every message says what was expected, what was found and what to do."""


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


class OutputError(MistError):
    """A result cannot be written."""


class Stop(Exception):  # noqa: N818  # a signal, as StopIteration is: not an error
    """Raised by `on_step` to end the loop and keep what is reached so far."""
