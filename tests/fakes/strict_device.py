"""A device of its own, "strict": memory apart from the CPU's, computed by the CPU's kernels, with CUDA's demands.

What a graphics card refuses, and a CPU lets pass, is refused here: norms of anything but plainly contiguous memory,
norms whose weights are in another dtype, tensors, indices and generators that lie elsewhere; and a backward runs in
another thread, where the modes of the caller's do not hold. So an adapter that runs here has none of these faults.
It cannot show what kernels compute, what they cost, or how much memory there is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import torch

SOURCE = Path(__file__).with_name("strict_device.cpp")


def load() -> None:
    """Make the device, at the start of a process: autograd counts the devices when it first runs."""
    torch.ops.load_library(_built())
    torch.utils.rename_privateuse1_backend("strict")
    torch._register_device_module("strict", _module())


def _built() -> Path:
    """The library, compiled once for each version of its source and of torch: some ten seconds."""
    from torch.utils import cpp_extension

    newest = f"{torch.__version__}-{SOURCE.stat().st_mtime_ns}"
    library = Path(tempfile.gettempdir()) / f"mist-strict-device-{newest}.so"
    if not library.exists():
        half_built = library.with_suffix(f".{os.getpid()}")
        headers = [f"-I{path}" for path in cpp_extension.include_paths()]
        libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch", "-ltorch_cpu", "-lc10"]
        options = ["-shared", "-fPIC", "-std=c++20", "-O0"]
        subprocess.run(["c++", *options, *headers, str(SOURCE), *libraries, "-o", str(half_built)], check=True)
        half_built.replace(library)
    return library


def _module() -> ModuleType:
    module = ModuleType("torch.strict")
    module.__dict__.update(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        is_initialized=lambda: True,
        _is_in_bad_fork=lambda: False,
        manual_seed_all=lambda seed: None,
        get_amp_supported_dtype=lambda: [torch.float16, torch.bfloat16],
    )
    sys.modules["torch.strict"] = module
    return module
