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
    from modules import devices, shared

    from mist_attack.hosts import lean

    strict_device.load()
    lean.DEVICES.add("strict")
    device = torch.device(name)
    devices.get_optimal_device_name = lambda: name
    devices.device = shared.device = device
    devices.cuda_no_autocast = lambda device_id=None: True


if os.environ.get("MIST_PROBE_DEVICE"):
    _use(os.environ["MIST_PROBE_DEVICE"])
