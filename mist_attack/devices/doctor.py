"""`mist doctor`: which devices there are, and whether a step on one of them gives the gradient that the CPU gives."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from .. import __version__
from ..errors import DeviceError, MistError
from ..needs import NEEDS
from ..settings import Settings
from ..surrogate import Objective, Surrogate
from . import all_devices, available_bytes, described_safely, pick_device, reason, require_working
from .agreement import agreement, agrees, step_gradient

PACKAGES = ("diffusers", "transformers", "safetensors", "numpy", "pillow", "torch-directml")
SIDE = 64
TRIALS: tuple[tuple[Objective, torch.dtype], ...] = (
    ("textural", torch.float32),
    ("fused", torch.float32),
    ("fused", torch.bfloat16),
    ("fused", torch.float16),
)
EVEN = 4e4
"""The semantic weight at which both terms turn the demo model's gradient alike."""
NEEDED = torch.float32
"""The dtype in which all must be right; a UNet in another one is a choice."""


@dataclass(frozen=True)
class Finding:
    """What one trial showed."""

    objective: Objective
    dtype: torch.dtype
    works: bool
    told: str

    def __str__(self) -> str:
        return f"{self.objective}, UNet in {_name(self.dtype)}: {'right' if self.works else 'WRONG'} ({self.told})"


@dataclass(frozen=True)
class Verdict:
    works: bool
    told: str

    def __str__(self) -> str:
        return self.told


def machine(*, memory: bool = True) -> list[str]:
    """Versions and devices, in lines; nothing is computed and no model is loaded.

    memory: also what is free on each device, which makes a driver take some of it."""
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    packages = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    return [
        f"mist {__version__}, {python}",
        f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads; {packages}",
        "devices: " + ", ".join(_shown(device, memory=memory) for device in all_devices()),
    ]


def examine(requested: str | None = None) -> Iterator[Finding | Verdict]:
    """What each trial on a device shows, as it comes (default: the device that `mist protect` takes), and a verdict.

    Raises nothing but what ends a program: whatever a device does wrong is a finding."""
    try:
        device = pick_device(requested)
    except MistError as error:
        yield Verdict(False, f"does not work: {error}")
        return
    findings: list[Finding] = []
    try:
        require_working(device)
        expected = {objective: _gradient(_demo(torch.device("cpu")), objective) for objective, _ in TRIALS}
        for objective, dtype in TRIALS:
            findings.append(_tried(device, objective, dtype, expected[objective]))
            yield findings[-1]
    except MistError as error:
        yield Verdict(False, _not_tried(device, error))
        return
    except Exception as error:  # the CPU's own gradient, which all are compared with
        yield Verdict(False, f"does not work: the step on the CPU failed: {reason(torch.device('cpu'), error)}")
        return
    yield _verdict(device, findings)


def _not_tried(device: torch.device, error: MistError) -> str:
    if isinstance(error, DeviceError):
        return f"does not work: {error}"
    return f"not shown to work: {device} computes, but no step was tried: {error}"


def _tried(device: torch.device, objective: Objective, dtype: torch.dtype, expected: Tensor) -> Finding:
    begun = time.perf_counter()
    try:
        found = _demo(device, dtype).run(lambda ready: _gradient(ready, objective), 1, SIDE, SIDE)
    except Exception as error:
        return Finding(objective, dtype, False, reason(device, error))
    shown = agreement(found, expected)
    seconds = time.perf_counter() - begun
    return Finding(objective, dtype, agrees(shown, dtype), f"{shown} with the CPU's gradient; {seconds:.2f} s")


def _demo(device: torch.device, dtype: torch.dtype = NEEDED) -> Surrogate:
    from ..hosts.headless import checkpoints, diffusers

    return diffusers.load(checkpoints.find_checkpoint("demo"), device, dtype)


def _gradient(ready: Surrogate, objective: Objective) -> Tensor:
    return step_gradient(ready, Settings(objective=objective, working_size=SIDE, semantic_weight=EVEN), SIDE)


def _verdict(device: torch.device, findings: list[Finding]) -> Verdict:
    shown = described_safely(device)
    wrong = [finding for finding in findings if not finding.works]
    for finding in wrong:
        if finding.dtype == NEEDED:
            go_on = "" if "--device cpu" in finding.told or device.type == "cpu" else " Go on with --device cpu."
            return Verdict(False, f"does not work on {shown}: {finding}.{go_on}".replace("..", "."))
    through = [finding for finding in findings if finding.works and NEEDS[finding.objective].denoiser]
    right = ", ".join(_name(finding.dtype) for finding in through)
    but = "".join(f"; not in {_name(finding.dtype)} ({finding.told})" for finding in wrong)
    return Verdict(True, f"works on {shown}: textural and fused, the UNet in {right}{but}")


def _shown(device: torch.device, *, memory: bool) -> str:
    try:
        free = available_bytes(device) if memory else None
    except Exception:  # a device that lists itself and does not answer
        return f"{device} (does not answer)"
    name = described_safely(device) if device.type != "cpu" else f"cpu ({platform.processor() or platform.machine()})"
    return name if free is None else f"{name}, {free / 2**30:.1f} GiB free"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
