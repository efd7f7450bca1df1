"""What a call costs: seconds, and the most memory it held at once."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

KILOBYTE = 1024
STATUS, CLEAR, MEMORY = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")


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
    return _field(STATUS, "VmHWM")


def available_bytes(device: torch.device) -> int | None:
    """Memory that a run may take now; None where this machine cannot tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _field(MEMORY, "MemAvailable") if MEMORY.exists() else None


def _give_back() -> None:
    """Freed memory that the allocator keeps would count as held."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _field(file: Path, name: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * KILOBYTE
