"""Part 4: a real ComfyUI under each way of keeping memory: the same gradient, what a step costs, and what is left."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...errors import SettingsError
from .check import ROOT, Check, Row, row

CLIENT, NODES = ROOT / "tests" / "host", ROOT / "bench" / "gpu_nodes"
FLAGS = {
    "default": "",
    "no dynamic VRAM": "--disable-dynamic-vram",
    "no VRAM": "--novram",
    "half precision": "--gpu-only --fp16-intermediates",
}
ON_A_CPU = {"default": "--cpu", "half precision": "--cpu --fp16-intermediates"}
LEFT = 2.0
"""GiB that the host may use where a model is to be loaded in part."""
SAME, SAME_IN_HALF = 1e-6, 1e-3
"""Of two gradients, their relative difference at most."""


def rows(check: Check) -> Iterator[Row]:
    if not os.environ.get("COMFYUI_DIR"):
        yield {"what": "left out: COMFYUI_DIR names no ComfyUI"}
        return
    if not NODES.is_dir() or not CLIENT.is_dir():
        yield {"what": "comfyui", "error": f"there is no {NODES}: it comes with a clone of the repository"}
        return
    client = _client(check)
    with tempfile.TemporaryDirectory() as folder:
        base = client.BaseFolder(_host(), Path(folder))
        (base.path / "custom_nodes" / NODES.name).symlink_to(NODES)
        name = "sd1" if check.reduced else "full"
        base.need(name)
        expected: list[torch.Tensor] = []
        for kind, flags in _flags(check).items():
            if check.seconds_left() < 0:
                return
            yield row(kind, partial(_measured, client, base, check, f"{name}.safetensors", flags.split(), expected))


def _client(check: Check) -> Any:
    """What the tests on real hosts say to a server."""
    sys.path.insert(0, str(CLIENT))
    client: Any = importlib.import_module("comfyui.client")
    client.FLAGS = [flag for flag in client.FLAGS if flag != "--cpu"]
    if check.device.type != "cpu" and check.device.index:
        client.FLAGS += ["--cuda-device", str(check.device.index)]
    return client


def _host() -> Any:
    return importlib.import_module("host_process").Host("COMFYUI")


def _flags(check: Check) -> dict[str, str]:
    if check.device.type == "cpu":
        return ON_A_CPU
    total = torch.cuda.get_device_properties(check.device).total_memory / 2**30
    partial_load = {"partial load": f"--disable-dynamic-vram --reserve-vram {max(0.0, total - LEFT):.1f}"}
    names = list(FLAGS)
    return {name: FLAGS[name] for name in names[:2]} | partial_load | {name: FLAGS[name] for name in names[2:]}


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _measured(
    client: Any, base: Any, check: Check, checkpoint: str, flags: list[str], expected: list[torch.Tensor]
) -> Row:
    """The first row's gradient is what the others are compared with."""
    found = Path(base.path) / "found"
    with _environment(MIST_ROOT=str(ROOT), MIST_FOUND=str(found)), client.Comfy(base, *flags) as server:
        server.wait(server.queue(_graph(client, checkpoint, check)), seconds=max(1.0, check.seconds_left()))
    file = found.with_suffix(".json")
    if not file.is_file():
        raise SettingsError(" ".join(server.tail().split())[-300:])
    figures: Row = json.loads(file.read_text(encoding="utf-8"))
    gradient = torch.load(found.with_suffix(".pt"), weights_only=True)
    file.unlink()
    expected.append(gradient)
    difference = float((gradient - expected[0]).norm() / expected[0].norm())
    allowed = SAME_IN_HALF if figures["unet_dtype"] != "float32" or "--fp16-intermediates" in flags else SAME
    return {"gradient_difference": difference, "same_gradient": difference <= allowed, **figures}


def _graph(client: Any, checkpoint: str, check: Check) -> Any:
    """Sample, measure, sample again, compare."""
    graph, side = client.Graph(), 64 if check.reduced else 512
    loaded = graph.add("CheckpointLoaderSimple", ckpt_name=checkpoint)
    words = graph.add("CLIPTextEncode", clip=loaded[1], text="a painting")
    empty = graph.add("EmptyLatentImage", width=side, height=side, batch_size=1)

    def sample(latent: Any) -> Any:
        options = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        return graph.add(
            "KSampler", model=loaded[0], positive=words[0], negative=words[0], latent_image=latent, **options
        )

    before = sample(empty[0])
    steps = 3 if check.reduced else 6
    measured = graph.add(
        "MistGpuMeasure",
        model=loaded[0],
        clip=loaded[1],
        vae=loaded[2],
        after=before[0],
        latent=empty[0],
        side=side,
        steps=steps,
    )
    after = sample(measured[0])
    graph.add("MistGpuCompare", first=before[0], second=after[0])
    return graph
