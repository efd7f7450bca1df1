"""What a call costs: seconds, and the most memory it held at once."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..devices import proc_bytes

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Clock:
    """Seconds of the processor on a CPU, which other processes disturb less than the clock on the wall; with CUDA the
    device's own, by its events; on other devices, of the clock until they have done all."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def time(self, call: Callable[[], object]) -> float:
        if self.device.type == "cpu":
            begun = time.process_time()
            call()
            return time.process_time() - begun
        if self.device.type != "cuda":
            return waited(self.device, call)
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        call()
        ended.record()
        torch.cuda.synchronize(self.device)
        return begun.elapsed_time(ended) / 1000


def waited(device: torch.device, call: Callable[[], object]) -> float:
    """Seconds on the wall until a device has done all that was asked."""
    synchronize(device)
    begun = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - begun


def synchronize(device: torch.device) -> None:
    wait: Any = getattr(getattr(torch, device.type, None), "synchronize", None)
    if wait is not None:
        wait()


def peak_bytes(device: torch.device, call: Callable[[], object]) -> int | None:
    """The largest amount held during the call, weights included; None where this machine cannot tell."""
    held: list[int] = []
    with peak(device, held):
        call()
    return max(held, default=None)


@contextmanager
def peak(device: torch.device, held: list[int]) -> Iterator[None]:
    """Adds to `held` the largest amount held within, weights included, where this machine can tell."""
    _give_back()
    own: Any = getattr(torch, device.type, None)
    if device.type != "cpu" and hasattr(own, "reset_peak_memory_stats"):
        own.reset_peak_memory_stats(device)
        yield
        held.append(own.max_memory_allocated(device))
    elif device.type == "cpu" and CLEAR.exists():
        CLEAR.write_text("5")  # resets the peak of the resident memory (Linux, proc(5))
        yield
        held.append(proc_bytes(STATUS, "VmHWM"))
    else:
        yield


def _give_back() -> None:
    """Freed memory that the allocator keeps would count as held."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
