"""ComfyUI servers that have our nodes, each with the model it holds: a picture goes there and comes back protected."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ...controls import CONTROLS, controls_from
from ...errors import MistError, SettingsError
from ...gallery.journal import Say
from ...gallery.request import Order
from ...gallery.task import Outcome, Result, Task, made_by, opened
from ...pictures.reading import Picture, from_u8, read_picture, to_u8
from ...pictures.writing import encode_picture
from ...report import Report
from ...settings import Settings
from ..bars import bar_for
from .client import Graph, Server, UnreachableError
from .graph import OnProgress, run
from .socket import require_websockets

LOG_IN = "MIST_COMFYUI_LOGIN"
TIMEOUT = 3600.0
NEEDED = ("MistProtect", "MistOptions", "MistTarget", "LoadImage", "LoadImageMask", "PreviewImage", "PreviewAny")


class ComfyEngine:
    """`mist_attack.gallery.task.Engine`: every server has one picture at a time; one that fails is left out."""

    dies_with_its_worker = False

    def __init__(
        self,
        servers: list[Server],
        checkpoint: str,
        target: Tensor | None,
        seconds: float,
        complain: Say,
        *,
        bars: bool = False,
    ) -> None:
        self.checkpoint, self.target, self.seconds, self.complain = checkpoint, target, seconds, complain
        self.bars = bars
        self.idle = list(servers)
        self.known: dict[str, dict[str, Any]] = {}
        self.flying: dict[Future[Result], tuple[Server, Task]] = {}
        self.ended = threading.Event()
        self.threads = ThreadPoolExecutor(len(servers))

    @property
    def has_room(self) -> bool:
        return bool(self.idle)

    def submit(self, task: Task) -> None:
        server = self.idle.pop(0)
        self.flying[self.threads.submit(self._protected, server, task)] = server, task

    def wait(self) -> Outcome | None:
        done, _ = wait(self.flying, return_when=FIRST_COMPLETED)
        future = done.pop()
        server, task = self.flying.pop(future)
        try:
            result = future.result()
        except UnreachableError as error:
            return self._without(task, str(error))
        except MistError as error:
            self.idle.append(server)
            return Outcome(task, error=str(error), again=True)
        self.idle.append(server)
        return Outcome(task, result)

    def close(self) -> None:
        self.ended.set()
        self.threads.shutdown(wait=True, cancel_futures=True)

    def _without(self, task: Task, error: str) -> Outcome | None:
        """Go on with the servers that are left: the picture moves on."""
        self.complain(error)
        if self.idle:
            self.submit(task)
            return None
        if self.flying:
            return Outcome(task, error=error, elsewhere=True)
        return Outcome(task, error=f"No server is left: {error}", fatal=True)

    def _protected(self, server: Server, task: Task) -> Result:
        if server.url not in self.known:
            self.known[server.url] = _facts(server, self.checkpoint)
        picture, settings, mask, notices = opened(task)
        levels = to_u8(picture.images)
        reach = _reach(settings, mask)
        files = {"image": server.upload(_png(levels))}
        if mask is not None:
            files["mask"] = server.upload(_png(_mask_levels(mask)))
        if self.target is not None:
            files["target"] = server.upload(_png(to_u8(self.target)))
        graph = graph_for(settings, self.checkpoint, files)
        with bar_for(task, shown=self.bars) as bar:
            outputs = run(server, graph, self.seconds, self.ended, _on_progress(bar))
        images, report = _answer(server, outputs)
        _require_budget(server, levels, images, reach)
        text = made_by(report.settings)
        data, lost = encode_picture(task.name, from_u8(images), picture, lossy_quality=task.lossy_quality, text=text)
        told = [*notices, *report.notices, *lost]
        return Result(data, report.as_dict(), told, self.known[server.url])


def _on_progress(bar: Any) -> OnProgress:
    def on_progress(step: int, steps: int) -> None:
        bar.total = steps
        bar.update(step - bar.n)

    return on_progress


def graph_for(settings: Settings, checkpoint: str, files: dict[str, str]) -> Graph:
    """The graph in the API's form: "picture" and "report" are its outputs. files: image, mask, target."""
    widgets: dict[str, Any] = {"preset": "default"}
    options: dict[str, Any] = {"output_size": "keep"}
    values = controls_from(settings)
    for known in CONTROLS:
        if known.widget_name:
            (widgets if known.level == "beginner" else options)[known.widget_name] = values[known.name]
    links: dict[str, Any] = {"image": ["image", 0], "vae": ["checkpoint", 2], "options": ["options", 0]}
    if settings.objective != "textural":
        links |= {"model": ["checkpoint", 0], "clip": ["checkpoint", 1]}
    graph = {
        "checkpoint": _node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "image": _node("LoadImage", image=files["image"]),
        "options": _node("MistOptions", **options),
        "protect": _node("MistProtect", **widgets, **links),
        "picture": _node("PreviewImage", images=["protect", 0]),
        "report": _node("PreviewAny", source=["protect", 2]),
    }
    return graph | _extras(graph["protect"]["inputs"], settings, files)


def _extras(inputs: dict[str, Any], settings: Settings, files: dict[str, str]) -> Graph:
    """The nodes of a mask and a target, linked."""
    extras: Graph = {}
    if "mask" in files:
        extras["mask"] = _node("LoadImageMask", image=files["mask"], channel="red")
        inputs["mask"] = ["mask", 0]
    if "target" in files:
        extras["target"] = _node("LoadImage", image=files["target"])
        inputs["target"] = ["target", 0]
    elif settings.target != "lattice" and settings.objective != "semantic":
        size = settings.working_size
        extras["target"] = _node(
            "MistTarget", image=["image", 0], pattern=settings.target, fit="crop", working_size=size
        )
        inputs["target"] = ["target", 0]
    return extras


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _facts(server: Server, checkpoint: str) -> dict[str, Any]:
    """What the bytes depend on there. Raises UnreachableError where the server cannot do it."""
    for kind in NEEDED:
        if kind not in server.get(f"/object_info/{kind}"):
            raise UnreachableError(f"{server.url} has no node {kind}: put this repository into its custom_nodes.")
    loader = server.get("/object_info/CheckpointLoaderSimple")["CheckpointLoaderSimple"]
    wanted = loader["input"]["required"]["ckpt_name"]
    there = wanted[0] if isinstance(wanted[0], list) else wanted[1]["options"]  # the form of newer hosts
    if checkpoint not in there:
        raise UnreachableError(f"{server.url} has no checkpoint {checkpoint}. There: {', '.join(there) or 'none'}.")
    stats = server.get("/system_stats")
    device = (stats.get("devices") or [{}])[0]
    return {
        "mist": None,
        "torch": stats.get("system", {}).get("pytorch_version"),
        "device": device.get("name"),
        "threads": None,
    }


def _reach(settings: Settings, mask: Tensor | None) -> np.ndarray:
    """Grey levels that each pixel may move by."""
    if mask is None:
        return np.array(math.floor(settings.epsilon * 255 + 1e-3))
    if not _mask_levels(mask).any():
        raise MistError("The mask is all black: there is nothing to protect (white is what may change).")
    return np.floor(settings.epsilon * _mask_levels(mask).astype(np.float64) + 1e-3)[..., None]


def _mask_levels(mask: Tensor) -> np.ndarray:
    return mask[0, 0].mul(255).round().byte().numpy()


def _png(levels: np.ndarray) -> bytes:
    """Pixels alone: names, profiles and EXIF stay here."""
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _answer(server: Server, outputs: dict[str, Any]) -> tuple[np.ndarray, Report]:
    try:
        (file,) = outputs["picture"]["images"]
        (row,) = json.loads("".join(outputs["report"]["text"]))
        row.pop("summary", None)
        report = Report(**row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MistError(f"{server.url}: its answer is not understood ({error!r}); another version of Mist?") from error
    picture: Picture = read_picture("the server's answer", server.download(file))
    return to_u8(picture.images), report


def _require_budget(server: Server, before: np.ndarray, after: np.ndarray, reach: np.ndarray) -> None:
    """The promise is kept here, whatever the server does."""
    if before.shape != after.shape:
        raise MistError(f"{server.url}: sent {before.shape[1]} x {before.shape[0]} pixels, got another size back.")
    moved = np.abs(after.astype(np.int16) - before)
    if (moved > reach).any():
        raise MistError(f"{server.url}: its answer moves by {moved.max()} levels, more than was asked for.")


def engine_for(options: argparse.Namespace, order: Order, complain: Say, *, bars: bool = False) -> ComfyEngine:
    """Raises SettingsError; no server is reached yet."""
    if not options.url:
        raise SettingsError("--engine comfyui needs --url http://127.0.0.1:8188, once for each server.")
    if not options.checkpoint:
        raise SettingsError("--engine comfyui needs --checkpoint NAME: a checkpoint as the servers' own list has it.")
    require_websockets()
    log_in = os.environ.get(LOG_IN)
    servers = [Server(url, allow_remote=options.allow_remote, log_in=log_in) for url in dict.fromkeys(options.url)]
    for server in servers:
        if server.is_open:
            complain(f"{server.url} is not encrypted: whoever is in between sees the pictures. Use https.")
    return ComfyEngine(servers, options.checkpoint, order.target, options.timeout or TIMEOUT, complain, bars=bars)
