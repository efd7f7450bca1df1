"""`mist evaluate ORIGINAL PROTECTED`: what a protection is worth, into a page, a JSON and a CSV."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, MistError, OutputError, PictureError, SettingsError
from ..gallery import paths
from ..gallery.journal import Say
from ..gallery.manifest import PASSED_OVER
from ..surrogate import Surrogate
from . import mimicry
from .pairs import Paths, pairs

PAGE, TABLE, OBJECT = "index.html", "results.csv", "results.json"
OPENINGS = {PAGE: b"<!DOCTYPE html>", TABLE: b"original,protected,", OBJECT: b"{"}
"""How files of ours begin: others are not overwritten."""
MODELS = (".pth", ".safetensors", ".pt")


def run(options: argparse.Namespace, say: Say, complain: Say) -> list[str]:
    """The status of each pair and of each picture without one: "done", "failed" or "passed over".

    Raises SettingsError, OutputError, CheckpointError, and PictureError where no pair could be judged."""
    from ..evaluation.results import as_csv, as_json, results
    from ..evaluation.words import told

    found, lone = pairs(options.original, options.protected)
    out: Path = options.out
    _require_room(out, found)
    settings, target = _settings(options)
    training = mimicry.training_for(options)
    prompts = {pair.name: mimicry.prompt_of(pair.original, settings.prompt) for pair in found if training}
    models, missing = _models(options, complain)
    judged, failed = _judge_all(found, models, settings, target, say, complain)
    if not judged:
        raise PictureError("; ".join(failed.values()))
    imitated = []
    if training and models:
        own = [prompts[pair.protected] for pair in judged]
        imitated, why = mimicry.of_models(models, judged, own, training, settings, _follower(say))
        missing |= why
    everything = results(
        [pair.figures() for pair in judged], {**failed, **lone}, missing, [m.figures for m in imitated]
    )
    _write(out, everything, judged, imitated, embed=not options.no_pictures, texts=(as_json, as_csv))
    for words in told(everything):
        say(words)
    for name, why in lone.items():
        complain(f"{PASSED_OVER}: {name}: {why}")
    say(f"-> {out / PAGE}")
    return ["done"] * len(judged) + ["failed"] * len(failed) + [PASSED_OVER] * len(lone)


def _require_room(out: Path, found: list[Paths]) -> None:
    """Before anything is computed."""
    read = [use for pair in found for use in ((pair.original, "an original"), (pair.protected, "a protected picture"))]
    paths.require_apart(read, [(out / name, "a result") for name in OPENINGS])
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, and results need a folder. Choose another --out.")
    for name, opening in OPENINGS.items():
        paths.require_report(out / name, opening)


def _models(options: argparse.Namespace, complain: Say) -> tuple[list[Surrogate], dict[str, str]]:
    """Those that judge, and what is not measured for want of one. Raises CheckpointError for one that was named."""
    from ..runners import model

    model.set_threads(options.threads, complain)
    models: list[Surrogate] = []
    if options.real is not None:
        models += _real(options)
    try:
        models.append(_load(options, options.checkpoint))
    except CheckpointError as error:
        if options.checkpoint is not None:
            raise
        if not models:
            complain(f"no model judges: {error}")
            return [], {"effect": str(error)}
    for judge in models:
        if getattr(judge, "is_demo", False):
            complain(model.DEMO_WARNING)
        if about := getattr(judge, "about", ""):
            complain(f"{judge.name}: {about}")
    return models, {}


def _load(options: argparse.Namespace, checkpoint: str | None) -> Surrogate:
    from ..runners import model

    return model.load(model.ModelOptions(checkpoint, options.device, options.dtype or "float32", options.threads))


def _real(options: argparse.Namespace) -> list[Surrogate]:
    """The autoencoder of a file or folder; of a folder of several, each. Where we have a denoiser for its latents, with
    that. Raises CheckpointError."""
    from ..hosts.headless.choice import with_denoiser

    def load(path: Path) -> Surrogate:
        return with_denoiser(_load(options, str(path)), path)

    try:
        return [load(options.real)]
    except CheckpointError:
        if not options.real.is_dir():
            raise
        files = [path for path in sorted(options.real.iterdir()) if path.suffix in MODELS and "encoder" in path.stem]
        if not files:
            raise
    return [load(path) for path in files]


def _judge_all(
    found: list[Paths], models: Sequence[Surrogate], settings: Any, target: Any, say: Say, complain: Say
) -> tuple[list[Any], dict[str, str]]:
    judged, failed = [], dict[str, str]()
    for i, pair in enumerate(found):
        count = f"[{i + 1}/{len(found)}] " if len(found) > 1 else ""
        try:
            judged.append(_judge(pair, models, settings, target, _follower()))
        except MistError as error:
            failed[pair.name] = str(error)
            if len(found) > 1:
                complain(f"{count}{pair.name}: {error}")
        else:
            say(f"{count}{pair.name}: {_told(judged[-1])}")
    return judged, failed


def _judge(pair: Paths, models: Sequence[Surrogate], settings: Any, target: Any, on_part: Callable[[str], None]) -> Any:
    from ..budget import to_levels
    from ..evaluation.judging import TRANSPARENT, judge, require_pair
    from ..evaluation.results import Pair
    from ..pictures.reading import read_picture

    before, after = read_picture(pair.original), read_picture(pair.protected)
    first, second = to_levels(before.images), to_levels(after.images)
    require_pair(first, second)
    notices = [f"original: {notice}" for notice in before.notices]
    notices += [f"protected: {notice}" for notice in after.notices]
    if before.alpha is not None or after.alpha is not None:
        notices.append(TRANSPARENT)
    judgements = [judge(model, first, second, settings, target=target, on_part=on_part) for model in models]
    return Pair(pair.original.name, pair.name, first, second, judgements, notices)


def _settings(options: argparse.Namespace) -> tuple[Any, Any]:
    """Of the controls those that judge; and a target picture. Raises SettingsError and PictureError."""
    from ..pictures.reading import read_target
    from ..settings import resolve
    from ..targets import target_names
    from .native import target_file

    file = target_file(options.target)
    named = None if file else options.target
    if named is not None and named not in target_names():
        known = ", ".join(target_names())
        raise SettingsError(f"Target '{named}' is neither a file nor one of the built-in: {known}.")
    asked = {name: getattr(options, name) for name in ("prompt", "working_size", "seed", "low_vram")}
    return resolve("default", asked | {"target": named}), read_target(file) if file else None


def _told(pair: Any) -> str:
    from ..evaluation.words import short_of

    return short_of(pair.figures())


def _follower(say: Say = lambda words: None) -> Callable[[str], None]:
    """Says each part once, when it begins."""
    from ..ending import told_to_end

    said = ""

    def on_part(words: str) -> None:
        nonlocal said
        if told_to_end():
            raise KeyboardInterrupt
        if words != said:
            say(words)
        said = words

    return on_part


def _write(
    out: Path, everything: dict[str, Any], judged: list[Any], imitated: list[Any], *, embed: bool, texts: Any
) -> None:
    """All are made before the first is written."""
    from ..evaluation.page.writing import page
    from ..pictures.writing import write_text

    as_json, as_csv = texts
    made = {
        PAGE: page(everything, judged, imitated, embed=embed),
        TABLE: as_csv(everything),
        OBJECT: as_json(everything),
    }
    for name, text in made.items():
        write_text(out / name, text)
