"""From our own flags to a request and a policy (the flags themselves are in flags.py)."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import Any

from ..controls import CONTROLS
from ..errors import CheckpointError, SettingsError
from ..gallery.manifest import known_results, sha256
from ..gallery.naming import Folders, Work, with_companions, works_for
from ..gallery.paths import require_no_root
from ..gallery.request import Policy, Request
from ..gallery.selection import Source, selection
from ..gallery.storage import Bucket, Folder
from ..hosts.headless import checkpoints, choice
from ..needs import possible
from ..pictures.reading import read_bytes, read_target, require_readable
from ..settings import Settings, resolve
from ..targets import target_names
from .flags import FORMATS, OWN_CONTROLS, SHARED_CONTROLS

JPEG_WARNING = "JPEG is lossy: it weakens the protection, and the budget is not promised. PNG keeps both."


def request_for(options: argparse.Namespace) -> Request:
    """Raises SettingsError, PictureError for a target, and OutputError for a manifest that is not ours."""
    if not options.inputs or not options.out:
        raise SettingsError("Expected pictures and a folder for the results: mist protect PICTURE... --out DIR")
    bucket = "://" in options.out
    root = Path(options.out)  # of a bucket, no folder of this machine
    if not bucket:
        require_no_root(root, "of results")
    storage = Bucket(options.out) if bucket else Folder(root)
    quality = _lossy_quality(options)
    meant = selection(options.inputs, None if bucket else root)
    sources = meant.sources
    if not bucket:
        sources = _without(sources, {(root / name).absolute() for name in known_results(storage)})
    works = works_for(sources, root, FORMATS.get(options.format), options.name)
    target = target_file(options.target)
    if options.mask_file:
        require_readable(options.mask_file)
    folders: Folders = {}
    part, works = _shard(options.shard, works, root)
    return Request(
        works=[with_companions(work, folders) for work in works],
        passed=meant.passed,
        settings=_settings(options, named_target=None if target else options.target),
        root=root,
        storage=storage,
        remembers=True,
        mask=options.mask_file,
        target=read_target(target) if target else None,
        target_sha256=sha256(read_bytes(target)) if target else None,
        lossy_quality=quality,
        part=part,
    )


def policy_for(options: argparse.Namespace) -> Policy:
    """Raises SettingsError."""
    for name, least in (("limit", 1), ("retries", 0)):
        if (given := getattr(options, name)) is not None and given < least:
            raise SettingsError(f"Expected --{name} of at least {least}; got {given}.")
    return Policy(
        force=bool(options.force),
        limit=options.limit,
        shuffle=bool(options.shuffle),
        fail_fast=bool(options.fail_fast),
        retries=options.retries or 0,
    )


def _without(sources: list[Source], results: set[Path]) -> list[Source]:
    """What we found of our own making is not to be protected again."""
    return [source for source in sources if source.named or source.path.absolute() not in results]


def _shard(given: str | None, works: list[Work], root: Path) -> tuple[str, list[Work]]:
    """By a hash of the result's tree and name, so that machines agree though one sees a file more."""
    if given is None:
        return "", works
    match = re.fullmatch(r"(\d+)/(\d+)", given)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise SettingsError(f"Expected --shard I/N with I from 1 to N, as 2/4; got {given}.")
    part, parts = int(match[1]), int(match[2])
    chosen = [work for work in works if _digest(work.output.relative_to(root)) % parts == part - 1]
    return f"-{part}-of-{parts}", chosen


def _digest(name: Path) -> int:
    return int.from_bytes(hashlib.sha256(name.as_posix().encode("utf-8", "surrogateescape")).digest()[:8], "big")


def target_file(target: str | None) -> Path | None:
    return Path(target) if target and target not in target_names() and Path(target).exists() else None


def _settings(options: argparse.Namespace, named_target: str | None) -> Settings:
    given = {control: getattr(options, control) for control in (*OWN_CONTROLS, *SHARED_CONTROLS)}
    asked, usual = given | {"target": named_target}, usual_for(options)
    settings = resolve(options.preset or "default", asked, config=options.config, usual=usual)
    _require_ours(settings)
    if settings.target not in target_names():
        known = ", ".join(target_names())
        raise SettingsError(f"Target '{settings.target}' is neither a file nor one of the built-in: {known}.")
    return settings


def _require_ours(settings: Settings) -> None:
    """A settings file may have been written for another face."""
    for known in CONTROLS:
        if "command" not in known.faces and getattr(settings, known.setting) != known.scale.to_engine(known.default):
            raise SettingsError(f"{known.label} is for the web UI; here the --checkpoint says which model it is.")


def usual_for(options: argparse.Namespace) -> dict[str, Any]:
    """What an autoencoder alone can do is what it does where nothing else is asked."""
    if options.engine == "comfyui":
        return {}
    try:
        checkpoint = checkpoints.find_checkpoint(options.checkpoint)
    except CheckpointError:  # told when it is needed
        return {}
    return {"objective": possible(denoiser=False)[-1]} if choice.is_autoencoder_alone(checkpoint) else {}


def _lossy_quality(options: argparse.Namespace) -> int | None:
    if options.quality is not None and not 1 <= options.quality <= 100:
        raise SettingsError(f"Expected --quality from 1 to 100; got {options.quality}.")
    if options.format == "jpeg":
        return 95 if options.quality is None else options.quality
    if options.quality is not None:
        raise SettingsError("--quality is for --format jpeg; the other formats are lossless.")
    return None
