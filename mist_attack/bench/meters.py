"""What a call costs: seconds, and the most memory it held at once."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..devices import proc_bytes

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Clock:
    """Seconds of the processor on a CPU, which other processes disturb less than the clock on the wall; on a GPU the
    device's own, by its events."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def time(self, call: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            begun = time.process_time()
            call()
            return time.process_time() - begun
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        call()
        ended.record()
        torch.cuda.synchronize(self.device)
        return begun.elapsed_time(ended) / 1000


def peak_bytes(device: torch.device, call: Callable[[], object]) -> int | None:
    """The largest amount held during the call, weights included; None where this machine cannot tell."""
    _give_back()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device)
    if not CLEAR.exists():
        return None
    CLEAR.write_text("5")  # resets the peak of the resident memory (Linux, proc(5))
    call()
    return proc_bytes(STATUS, "VmHWM")


def _give_back() -> None:
    """Freed memory that the allocator keeps would count as held."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
