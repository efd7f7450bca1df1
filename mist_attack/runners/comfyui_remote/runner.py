"""ComfyUI servers that have our nodes, each with the model it holds: a picture goes there and comes back protected."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from ...budget import Budget, budget_for, to_levels, to_unit
from ...controls import CONTROLS, controls_from
from ...errors import BudgetError, MistError
from ...gallery.journal import Say
from ...gallery.task import Outcome, Result, Task, finished, opened
from ...needs import NEEDS
from ...pictures.reading import Picture, read_picture, to_u8
from ...report import Report
from ...settings import Settings
from ..bars import bar_for
from .client import Graph, Server, UnreachableError
from .graph import OnProgress, run
from .options import RemoteOptions

T = TypeVar("T")
LOG_IN = "MIST_COMFYUI_LOGIN"
NEEDED = ("MistProtect", "MistOptions", "MistTarget", "LoadImage", "LoadImageMask", "PreviewImage", "PreviewAny")


class RemoteRunner:
    """`mist_attack.runners.protocol.Runner`: every server has one picture at a time; one that fails is left out.

    Raises SettingsError; no server is reached yet."""

    dies_with_its_worker = False

    def __init__(self, options: RemoteOptions, target: Tensor | None, complain: Say) -> None:
        self.checkpoint, self.target, self.seconds = options.checkpoint, target, options.seconds
        self.complain, self.bars = complain, options.bars
        self.servers = servers_for(options, complain)
        self.idle = list(self.servers)
        self.known: dict[str, dict[str, Any]] = {}
        self.flying: dict[Future[Result], tuple[Server, Task]] = {}
        self.ended = threading.Event()
        self.threads = ThreadPoolExecutor(len(self.servers))

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

    def withdraw(self) -> list[Task]:
        return []

    def alongside(self, work: Callable[[], T]) -> T:
        return work()

    def close(self) -> None:
        self.ended.set()
        self.threads.shutdown(wait=True, cancel_futures=True)
        for server in self.servers:
            server.close()

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
        budget = _budget(picture, mask, settings)
        files = {"image": server.upload(_png(to_u8(picture.images)))}
        if mask is not None:
            files["mask"] = server.upload(_png(to_levels(mask)[0, 0].numpy()))
        if self.target is not None:
            files["target"] = server.upload(_png(to_u8(self.target)))
        graph = graph_for(settings, self.checkpoint, files)
        with bar_for(task, shown=self.bars) as bar:
            outputs = run(server, graph, self.seconds, self.ended, _on_progress(bar))
        images, report = _answer(server, outputs)
        _require_budget(server, images, budget)
        data, lost = finished(task, picture, images, report, budget)
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
    if NEEDS[settings.objective].denoiser:
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
    elif settings.target != "lattice" and NEEDS[settings.objective].target:
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
            raise UnreachableError(f"{server.url} has no node {kind}. Install Mist there, in its custom_nodes.")
    loader = server.get("/object_info/CheckpointLoaderSimple")["CheckpointLoaderSimple"]
    wanted = loader["input"]["required"]["ckpt_name"]
    there = wanted[0] if isinstance(wanted[0], list) else wanted[1]["options"]  # the form of newer hosts
    if checkpoint not in there:
        raise UnreachableError(f"{server.url} has no checkpoint {checkpoint}. It has: {', '.join(there) or 'none'}.")
    stats = server.get("/system_stats")
    device = (stats.get("devices") or [{}])[0]
    return {
        "mist": None,
        "torch": stats.get("system", {}).get("pytorch_version"),
        "device": device.get("name"),
        "threads": None,
    }


def _budget(picture: Picture, mask: Tensor | None, settings: Settings) -> Budget:
    """By the mask as it is sent, in 8 bits."""
    if mask is None:
        return budget_for(picture.images, None, settings)
    sent = to_levels(mask)
    if not sent.any():
        raise MistError("The mask is all black: there is nothing to protect (white is what may change).")
    return budget_for(picture.images, to_unit(sent), settings)


def _png(levels: np.ndarray) -> bytes:
    """Pixels alone: names, profiles and EXIF stay here."""
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _answer(server: Server, outputs: dict[str, Any]) -> tuple[Tensor, Report]:
    try:
        (file,) = outputs["picture"]["images"]
        (row,) = json.loads("".join(outputs["report"]["text"]))
        report = Report(**{known.name: row[known.name] for known in fields(Report) if known.name in row})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MistError(
            f"{server.url}: its answer was not understood ({error!r}). Install the same version of Mist there."
        ) from error
    return read_picture("the server's answer", server.download(file)).images, report


def _require_budget(server: Server, images: Tensor, budget: Budget) -> None:
    """The promise is kept here, whatever the server does."""
    try:
        budget.check(to_levels(images))
    except BudgetError as error:
        raise BudgetError(f"{server.url}: its answer is refused. {error}") from error


def servers_for(options: RemoteOptions, complain: Say) -> list[Server]:
    """One for each address. Raises SettingsError."""
    log_in = os.environ.get(LOG_IN)
    servers = [Server(url, allow_remote=options.allow_remote, log_in=log_in) for url in dict.fromkeys(options.urls)]
    for server in servers:
        if server.is_open:
            complain(f"{server.url} is not encrypted: others on the network can see the pictures. Use https.")
    return servers
