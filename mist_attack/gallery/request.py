"""What one command asks for, and how to go about it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import PictureError
from ..pictures.reading import read_bytes
from ..settings import Settings
from .lists import decoded
from .manifest import sha256
from .naming import Work
from .selection import Passed
from .storage import Folder, Storage
from .task import Prepare, Task, Text

FIRST = (
    *("objective", "epsilon", "step_size", "steps", "step_decay", "momentum", "semantic_weight", "gradient"),
    *("direction", "view", "working_size", "keep_tone", "random_start", "prompt", "target", "low_vram", "seed"),
)
"""Settings of the first manifests. Never to be added to, or what galleries have finished would be done again."""


@dataclass(frozen=True)
class Request:
    """All that one command asks for."""

    works: list[Work]
    settings: Settings
    root: Path = Path()
    """Of the works' outputs; the storage's names are relative to it."""
    storage: Storage = field(default_factory=lambda: Folder(Path()))
    remembers: bool = False
    """Keeps a manifest, and skips what is done already."""
    passed: list[Passed] = field(default_factory=list)
    """Files that look like pictures and are not among the works."""
    mask: Path | None = None
    target: Tensor | None = None
    target_sha256: str | None = None
    lossy_quality: int | None = None
    model_key: str = ""
    """Tells one checkpoint from another."""
    part: str = ""
    """Of a gallery that several machines share."""
    prepare: Prepare | None = None
    """What is done to a picture, and to its settings, before it is protected."""
    prepared: str = ""
    """Tells that from something else, where a manifest is kept."""
    text: Text | None = None
    """What a PNG says of it in its text chunks; None: see `task.made_by`."""


@dataclass(frozen=True)
class Policy:
    """How a run goes about it; changes no picture's bytes."""

    force: bool = False
    limit: int | None = None
    shuffle: bool = False
    fail_fast: bool = False
    retries: int = 0


def task_for(request: Request, work: Work) -> tuple[Task, dict[str, Any]]:
    """The task, and what its result depends on, as columns of the manifest. Raises PictureError."""
    if work.refused:
        raise PictureError(work.refused)
    data, settings, mask_path = read_bytes(work.source), request.settings, work.mask or request.mask
    mask = None if mask_path is None else read_bytes(mask_path)
    if work.prompt:
        settings = replace(settings, prompt=read_prompt(work.prompt))
    name = name_of(request, work)
    task = Task(
        name,
        work.source,
        data,
        settings,
        mask,
        mask_path or Path("mask"),
        request.lossy_quality,
        own_prompt=work.prompt is not None,
        prepare=request.prepare,
        text=request.text,
    )
    facts: dict[str, Any] = {
        "source_sha256": sha256(data),
        "mask_sha256": None if mask is None else sha256(mask),
        "target_sha256": request.target_sha256,
        "model_key": request.model_key,
        "settings": settings.as_dict(),
        "lossy_quality": request.lossy_quality,
        **({"prepared": request.prepared} if request.prepared else {}),
    }
    return task, {**facts, "key": _key(name, facts, settings)}


def _key(name: str, facts: dict[str, Any], settings: Settings) -> str:
    """Of a finished picture; one that later versions of this program come to as well.

    The settings of the first manifests stand in it always; a later one does only where it differs from its default,
    which is what was done before there was that setting."""
    told = {field: value for field, value in settings.as_dict().items() if field in FIRST or value != _default(field)}
    return sha256(json.dumps([name, {**facts, "settings": told}], sort_keys=True).encode())


def _default(field: str) -> Any:
    return next(known.default for known in fields(Settings) if known.name == field)


def name_of(request: Request, work: Work) -> str:
    """Of its result, and of its line in the manifest; a refused one has no result, and its source's name serves."""
    return str(work.source) if work.refused else work.output.relative_to(request.root).as_posix()


def read_prompt(path: Path) -> str:
    """On one line; an empty file is an empty prompt."""
    is_empty = path.is_file() and path.stat().st_size == 0
    try:
        return "" if is_empty else " ".join(decoded(read_bytes(path)).split())
    except UnicodeDecodeError as error:
        raise PictureError(
            f"{path}: expected a prompt as UTF-8 text, found something else; save it as UTF-8"
        ) from error
