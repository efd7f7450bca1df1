"""What a card's kernels do in a step: how long they run, how often Python waits for them, how fast they are alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from ..meters import waited

Call = Callable[[], object]
WAITED = "synchronizing CUDA operation"  # of CUDA's own debug mode


def busy_share(device: torch.device, call: Call) -> float | None:
    """Share of the call's time in which at least one kernel runs; None where the profiler sees none."""
    if device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        seconds = waited(device, call)
    spans = [(e.time_range.start, e.time_range.end) for e in profiler.events() or () if "CUDA" in str(e.device_type)]
    return union(spans) / 1e6 / seconds


def union(spans: list[tuple[float, float]]) -> float:
    """What spans of time cover together."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def synchronisations(device: torch.device, call: Call) -> int | None:
    """How often the call waits for the device; None where that cannot be counted."""
    if device.type != "cuda":
        return None
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum(WAITED in str(warning.message) for warning in seen)


def replayed(device: torch.device, call: Call) -> Call | None:
    """The same kernels without Python; None where there are no graphs of them."""
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
