"""A machine that is taken back, or a closed terminal, ends a run as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_told = threading.Event()


def heed_signals() -> None:
    """From now on, in the main thread: the first of them raises KeyboardInterrupt where the program is."""
    _told.clear()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *_SIGNALS):
            signal.signal(number, _interrupt)


def told_to_end() -> bool:
    """Asked at each step, too: an exception that is raised inside a destructor is not heard of again."""
    return _told.is_set()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Once: a container's init and its script both tell us, and winding up is not to be cut short by the second."""
    del number, frame
    _told.set()
    for ending in _SIGNALS:
        signal.signal(ending, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise KeyboardInterrupt
