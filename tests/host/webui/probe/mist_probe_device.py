"""The whole web UI on a device as strict as CUDA (tests/fakes/strict_device.py), where MIST_PROBE_DEVICE asks for it.

Scripts are loaded before the model is: what is set here holds for all that follows. Half precision is cast layer by
layer, as the host does for cards without autocast: CUDA's autocast knows CUDA alone."""

import os
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[3]


def _use(name: str) -> None:
    sys.path.append(str(TESTS))
    from fakes import strict_device

    from mist_attack.hosts import detect
    from mist_attack.hosts.borrowing import lean

    strict_device.load()
    lean.DEVICES.add("strict")
    {"forge": _in_forge}.get(detect.webui(), _in_a1111)(torch.device(name))


def _in_a1111(device: torch.device) -> None:
    from modules import devices, shared

    devices.get_optimal_device_name = lambda: str(device)
    devices.device = shared.device = device
    devices.cuda_no_autocast = lambda device_id=None: True


def _in_forge(device: torch.device) -> None:
    """By the host's own door for a device that it knows nothing of."""
    from backend import memory_management

    memory_management.directml_enabled, memory_management.directml_device = True, device
    memory_management.cpu_state = memory_management.CPUState.GPU
    memory_management.vram_state = memory_management.VRAMState.NORMAL_VRAM


if os.environ.get("MIST_PROBE_DEVICE"):
    _use(os.environ["MIST_PROBE_DEVICE"])
