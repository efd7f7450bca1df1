"""The devices of this machine: which there are, their names, and whether they compute. Importing this touches none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from ..errors import DeviceError, SettingsError
from ..surrogate import out_of_memory

MEMORY = Path("/proc/meminfo")
KILOBYTE = 1024
SIDE = 8  # of the matrices that a device is asked to multiply
TORCHES_OWN = "CUDA kernel errors might be asynchronously"  # where PyTorch's advice to its own developers begins


def pick_device(requested: str | None = None) -> torch.device:
    """`requested` as torch spells it ("cuda:1", "mps", "cpu"), else the machine's accelerator, else the CPU.

    Raises SettingsError where this machine has no such device.
    """
    kind, count = accelerator()
    if requested is None:
        return torch.device(kind)
    try:
        device = torch.device(requested)
    except RuntimeError:
        device = None
    if device and (device.type == "cpu" or (device.type == kind and (device.index or 0) < count)):
        return device
    available = ", ".join(["cpu", *(f"{kind}:{index}" for index in range(count))])
    why = _why_absent(device.type) if device and device.type != kind else ""
    raise SettingsError(f"Device {requested!r} is not available here. Available: {available}.{why}")


def all_devices() -> list[torch.device]:
    kind, count = accelerator()
    return [torch.device("cpu"), *(torch.device(kind, index) for index in range(count))]


def accelerator() -> tuple[str, int]:
    """Kind and number of the accelerators that are ready; ("cpu", 0) without one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that does not answer: `pick_device` says so to those who ask for it
        return _torches_own() or _directml() or ("cpu", 0)


def _torches_own() -> tuple[str, int] | None:
    own = getattr(torch, "accelerator", None)  # torch >= 2.6
    if own is not None:
        found = own.current_accelerator() if own.is_available() else None
        return (found.type, own.device_count()) if found else None
    for kind in ("cuda", "xpu"):
        if hasattr(torch, kind) and getattr(torch, kind).is_available():
            return kind, getattr(torch, kind).device_count()
    return ("mps", 1) if torch.backends.mps.is_available() else None


def _directml() -> tuple[str, int] | None:
    """Its package registers the device as torch's private one when it is imported."""
    try:
        import torch_directml  # pyright: ignore[reportMissingImports]

        return "privateuseone", torch_directml.device_count()
    except (ImportError, OSError, RuntimeError):
        return None


def _why_absent(kind: str) -> str:
    """In torch's words; empty where it has none."""
    start = getattr(getattr(torch, kind, None), "init", None)
    if start is None:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start()
    except Exception as error:  # of a build without it, of a driver that is missing or too old
        return f" torch {torch.__version__} says of {kind}: {first_line(error)}"
    return ""


def described(device: torch.device) -> str:
    """cuda (NVIDIA L4): two cards of one kind give the same bytes, two kinds may not."""
    named = getattr(getattr(torch, device.type, None), "get_device_name", None)
    return f"{device.type} ({named(device)})" if named and device.type != "cpu" else device.type


def available_bytes(device: torch.device) -> int | None:
    """Memory that a run may take now; None where this machine cannot tell."""
    if device.type == "cpu":
        return proc_bytes(MEMORY, "MemAvailable") if MEMORY.exists() else None
    asked: Any = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return asked(device)[0] if asked else None


def proc_bytes(file: Path, name: str) -> int:
    """A field of one of Linux's tables of memory."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * KILOBYTE


def require_working(device: torch.device) -> None:
    """Multiply two matrices there. Raises DeviceError, with the reason, where that cannot be done."""
    try:
        ones = torch.ones(SIDE, SIDE, device=device)
        found = float((ones @ ones).sum())
    except Exception as error:  # a driver may raise anything
        raise DeviceError(f"{described_safely(device)} does not compute: {reason(device, error)}") from error
    if found != SIDE**3:
        raise DeviceError(f"{described_safely(device)} does not compute: it says that {SIDE} ** 3 is {found}.")


def described_safely(device: torch.device) -> str:
    """Of a device that may not answer."""
    try:
        return f"{device} {described(device).partition(' ')[2]}".rstrip()
    except Exception:
        return str(device)


def reason(device: torch.device, error: BaseException) -> str:
    """Why a device failed, and how to go on, in a line."""
    if out_of_memory(error):
        return f"its memory ran out{_free(device)}. Close other programs that use it{_or_cpu(device)}."
    if "no kernel image" in str(error):
        has = f"torch {torch.__version__} has no kernels for it{_capability(device)}"
        return f"{has}. Install one that has{_or_cpu(device)}."
    told = first_line(error).rstrip(".")
    return f"{type(error).__name__}: {told}." + (" Go on with --device cpu." if device.type != "cpu" else "")


def first_line(error: BaseException) -> str:
    words = str(error).partition(TORCHES_OWN)[0].split()
    return " ".join(words)[:300] or "no further word"


def _or_cpu(device: torch.device) -> str:
    return ", or go on with --device cpu" if device.type != "cpu" else ""


def _free(device: torch.device) -> str:
    try:
        free = available_bytes(device)
    except Exception:  # the question itself takes memory
        return ""
    return "" if free is None else f" ({free / 2**30:.2g} GiB are free)"


def _capability(device: torch.device) -> str:
    try:
        major, minor = torch.cuda.get_device_capability(device)
        return f": it is sm_{major}{minor}, and they are for {', '.join(torch.cuda.get_arch_list())}"
    except Exception:
        return ""
