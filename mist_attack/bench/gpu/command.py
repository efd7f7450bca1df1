"""The parts one after the other, what they give written down as it comes, and a table of it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...command.flags import GPU_PARTS
from ...devices import described
from ...gallery.journal import Say
from . import comfyui, cost, gradients, pictures, suite
from .check import ROOT, Check, Part, Row, failed
from .table import table

MEASURES: dict[str, Part] = dict(
    zip(GPU_PARTS, (gradients.rows, cost.rows, pictures.rows, comfyui.rows, suite.rows), strict=True)
)
SECONDS: dict[str, int] = dict(zip(GPU_PARTS, (30, 105, 60, 95, 60), strict=True))
"""For each part: six minutes in all, less what processes take to start."""
PATIENCE = 4  # with a CPU
GRACE = 15.0
"""Seconds in which a part that is told to end stops what it has started."""
Figures = dict[str, Any]


def run(device: torch.device, dtype: torch.dtype, out: Path, parts: Sequence[str], say: Say, *, reduced: bool) -> bool:
    """Measure `parts`, beside those that `out` holds of the same machine. Whether all was right."""
    figures = _earlier(out, machine(device, dtype, reduced=reduced))
    for name in parts:
        seconds = SECONDS[name] * (PATIENCE if reduced else 1)
        say(f"{name}: at most {seconds} s")
        begun, found = time.monotonic(), Figures(rows=[])
        figures["parts"][name] = found
        check = Check(device, dtype, reduced, time.time() + seconds)
        for measured in _rows(name, check):
            found["rows"].append(measured)
            _write(out, figures)
        found["seconds"] = round(time.monotonic() - begun, 1)
        _write(out, figures)
        say(table({name: found}))
    return not any(failed(row) for name in parts for row in figures["parts"][name]["rows"])


def machine(device: torch.device, dtype: torch.dtype, *, reduced: bool) -> Figures:
    return {
        "device": described(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or getattr(torch.version, "hip", None),
        "python": sys.version.split()[0],
        "mist": __version__,
        "dtype": str(dtype).removeprefix("torch."),
        "size": "reduced" if reduced else "full",
    }


def default_out(device: torch.device) -> Path:
    """What a CPU shows is not to take the place of a card's figures."""
    return ROOT / "build" / "gpu-check.json" if device.type == "cpu" else ROOT / "bench" / "results-gpu.json"


def _earlier(out: Path, facts: Figures) -> Figures:
    found: Figures = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    return found if found.get("machine") == facts else {"machine": facts, "parts": {}}


def _write(out: Path, figures: Figures) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _rows(name: str, check: Check) -> Iterator[Row]:
    """From a process of its own, which is ended when its time is over."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(name, check, theirs))
    process.start()
    theirs.close()
    try:
        while ours.poll(max(0.0, check.seconds_left()) + GRACE):
            yield ours.recv()
        yield {"what": name, "error": "its time was over, and it did not end by itself"}
    except EOFError:
        process.join(GRACE)
        if process.exitcode:
            yield {"what": name, "error": f"its process ended with {process.exitcode}"}
    finally:
        process.terminate()
        process.join(GRACE)
        process.kill()


def _measure(name: str, check: Check, connection: Connection) -> None:
    signal.signal(signal.SIGTERM, _leave)
    if check.device.type == "cuda" and check.device.index is not None:
        torch.cuda.set_device(check.device)  # events and graphs are the current device's
    try:
        for found in MEASURES[name](check):
            connection.send(found)
            if check.seconds_left() < 0:
                connection.send({"what": name, "error": "its time was over before all was measured"})
                break
    except Exception as error:
        connection.send({"what": name, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
    finally:
        connection.close()
        sys.stdout.flush()
    os._exit(0)  # some drivers do not survive an orderly end


def _leave(number: int, frame: object) -> None:
    """So that contexts are left, and the processes that they hold stopped."""
    del number, frame
    raise SystemExit(1)
