"""Memory that serves again: on a CPU under Linux, the system clears pages in a part of a step's processor time.

It took 5 to 13 % of Stable Diffusion v1's modules, forward and backward at 512 px, on two machines.

glibc gives a freed block of more than 32 MB back to the system, and asks for a new one, which comes as pages that the
system clears one by one when they are first written to. A step allocates the same large blocks over and over. For
this program's own process alone: a host's allocator is not ours to set.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # mallopt(3)
LARGEST_BLOCK = 32 * 2**20  # where glibc's own threshold ends when it has adapted itself to large blocks


@contextmanager
def reused(device: torch.device) -> Iterator[None]:
    """While open, freed memory stays with the process; given back afterwards. On other systems and devices, nothing."""
    library = glibc() if device.type == "cpu" else None
    try:
        if library is not None:
            _keep(library)
        yield
    finally:
        if library is not None:
            _give_back(library)


@contextmanager
def given_back(device: torch.device) -> Iterator[None]:
    """Within `reused`: as if it were not."""
    library = glibc() if device.type == "cpu" else None
    try:
        if library is not None:
            _give_back(library)
        yield
    finally:
        if library is not None:
            _keep(library)


def _keep(library: Any) -> None:
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, -1)


def _give_back(library: Any) -> None:
    library.mallopt(MMAP_MAX, 65536)
    library.mallopt(MMAP_THRESHOLD, LARGEST_BLOCK)
    library.mallopt(TRIM_THRESHOLD, 2 * LARGEST_BLOCK)
    library.malloc_trim(0)


@cache
def glibc() -> Any | None:
    """Its functions, or None on another system."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
