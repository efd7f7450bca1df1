"""The figures of every machine that ran `mist bench`, each by itself, in one file: no figure is made of two."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch

from .asked import Figures

CPUINFO = Path("/proc/cpuinfo")


def machine(device: torch.device, dtype: torch.dtype) -> Figures:
    """What tells one machine from another. dtype: the UNet's."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": f"{device.type}, {name}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
    }


def processor() -> str:
    """Its name, and the instructions that torch uses of it."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = (names or [platform.processor() or platform.machine()])[0]
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def read(path: Path) -> list[Figures]:
    """Of each machine that was measured."""
    return json.loads(path.read_text(encoding="utf-8"))["machines"] if path.is_file() else []


def write(path: Path, machines: list[Figures]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machines": machines}, indent=2) + "\n", encoding="utf-8")


def figures_of(facts: Figures, machines: list[Figures]) -> Figures:
    """The machine's own in the list, to which they are added where it is new."""
    for figures in machines:
        if figures["machine"] == facts:
            return figures
    machines.append({"machine": facts, "measured": {}})
    return machines[-1]
