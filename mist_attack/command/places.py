"""The paths of one command: nothing that is read is written to, nothing is written for two purposes, or nowhere."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import CheckpointError, OutputError, SettingsError
from ..gallery import manifest, paths
from ..gallery.request import Request
from ..gallery.selection import lists
from ..gallery.storage import Folder
from ..hosts.headless import checkpoints
from .native import target_file

Uses = list[tuple[Path, str]]


def check(request: Request, options: argparse.Namespace) -> None:
    """Before anything is computed. Raises SettingsError and OutputError."""
    is_here = isinstance(request.storage, Folder)
    results = [(work.output, "a result") for work in request.works if is_here and not work.refused]
    report = [(options.report, "the report")] if options.report else []
    _require_writable({path.parent for path, _ in results}, "--out")
    _require_writable({path.parent for path, _ in report}, "--report")
    paths.require_apart(_read(request, options), [*results, *report])
    if is_here and request.remembers:
        _require_not_kept(request.root, [*results, *report])
    if options.report:
        paths.require_report(options.report)


def _read(request: Request, options: argparse.Namespace) -> Uses:
    read = [(work.source, "an input") for work in request.works]
    read += [(work.mask, "a mask") for work in request.works if work.mask]
    read += [(work.prompt, "a prompt") for work in request.works if work.prompt]
    read += [(path, "a list") for path in lists(options.inputs)]
    named = {"the mask": request.mask, "the settings file": options.config, "the target": target_file(options.target)}
    named["the checkpoint"] = None if options.engine == "comfyui" else _checkpoint(options.checkpoint)
    return read + [(path, what) for what, path in named.items() if path]


def _checkpoint(requested: str | None) -> Path | None:
    try:
        return checkpoints.find_checkpoint(requested)
    except CheckpointError:  # told when it is needed
        return None


def _require_not_kept(root: Path, written: Uses) -> None:
    for path, what in written:
        if manifest.is_kept(Path(os.path.relpath(os.path.realpath(path), os.path.realpath(root))).as_posix()):
            raise SettingsError(f"{path} is where runs keep their manifest and state, and cannot be {what}.")


def _require_writable(folders: Iterable[Path], flag: str) -> None:
    for path in folders:
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not existing.is_dir():
            raise OutputError(f"{existing} is a file, and results need a folder. Choose another {flag}.")
        if not os.access(existing, os.W_OK):
            raise OutputError(f"{existing} cannot be written to. Choose another folder.")
