"""What is measured: the textural objective on autoencoders, the fused one on whole models, and mimicry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...budget import to_levels
from ...demo import generated
from ...evaluation.imitating import LEAST, Imitations, Training, imitate, require_student
from ...evaluation.mimicry import ORIGINALS, style_figures
from ...evaluation.transforms import NotMeasuredError
from .. import balance, fused, judges, unseen
from ..asked import Asked, Say
from ..real import on_processes
from ..ways import LADDER, MIST, PRESETS, by_mist, by_preset
from .flat import METHODS, Flat, medians, told

EVERYTHING = (balance.PLAIN, *balance.SURVIVED)
DEMO_EACH = 1
LARGE = 512
STYLE_SIDE = 128  # pixels: of pictures that a LoRA is trained on
PROMPT = "a drawing"
TRAINING = Training(steps=200)
"""Half the steps of `mist evaluate`: what five trainings on five sets have time for."""
WAYS = {MIST: "mist"} | {name: name for name in PRESETS}
FIGURES: dict[str, str] = {balance.PLAIN: "taken_off"} | {name: f"taken_off_after_{name}" for name in balance.SURVIVED}
FIGURES |= {f"{name}_over_equal": f"{FIGURES[name]}_over_mist_at_equal_psnr" for name in balance.AFTER}
FIGURES |= {"lost_db": "reconstruction_lost_db", "times_noise": "shift_over_noise"}
"""What the bench's names are called here; others keep theirs."""


MARKS = {"textural": ".taken_off.", "fused": ".fused_denoising_loss.", "mimicry": ".style_distance_over_originals."}
"""A figure that each part leaves."""


def picture_count(asked: Asked) -> int:
    return sum(len(of) for of in unseen.pictures(max(asked.each, balance.EACH), asked.side, asked.pictures).values())


def short(checkpoint: Path) -> str:
    """A model's name within a key."""
    return checkpoint.stem.removesuffix("_encoder").removesuffix("_latents")


def demo_names() -> dict[Path, str]:
    return {path: f"demo{number}" for number, path in enumerate(judges.demos())}


def visibility(asked: Asked, say: Say) -> Flat:
    """A part of `mist bench`: of the real autoencoder what is seen and taken off, and the fused objective's figures."""
    flat = _on_the_real_one(asked, say, balance.AFTER, tuple(LADDER))
    for found in semantic(asked, say):
        flat |= found
    return flat


def survival(asked: Asked, say: Say) -> Flat:
    """A part of `mist bench`: of the real autoencoder what is left after each transform of the suite."""
    return _on_the_real_one(asked, say, balance.SURVIVED, (16,))


def textural(asked: Asked, say: Say) -> Iterator[Flat]:
    """On the real autoencoder with a decoder, and on each demo model."""
    yield _on_the_real_one(asked, say, EVERYTHING, tuple(LADDER))
    for path, name in demo_names().items():
        say(f"textural, {name}")
        rows = balance.measured_on(balance.jobs_for(asked, path, EVERYTHING, each=DEMO_EACH), asked, say)
        yield _textural(rows, name)


def large(asked: Asked, say: Say) -> Iterator[Flat]:
    """The textural objective on the real autoencoder at LARGE px, beside Mist at 16 levels alone."""
    judge = balance.judge_of(asked, say)
    if judge is not None:
        say(f"textural, {LARGE} px")
        jobs = balance.jobs_for(replace(asked, side=LARGE), judge, balance.AFTER, (16,), each=DEMO_EACH)
        yield _textural(balance.measured_on(jobs, asked, say), f"{short(judge)}_{LARGE}")


def _on_the_real_one(asked: Asked, say: Say, after: tuple[str, ...], strengths: tuple[int, ...]) -> Flat:
    """None where there is no such autoencoder."""
    judge = balance.judge_of(asked, say)
    if judge is None:
        return {}
    rows = balance.measured_on(balance.jobs_for(asked, judge, after, strengths), asked, say)
    return _textural(rows, short(judge))


def _textural(rows: balance.Rows, model: str) -> Flat:
    flat: Flat = {}
    figures = balance.balance(rows)
    whole = set(balance.SURVIVED) <= set(rows[0][MIST].off)
    worst = balance.worst(rows) if whole else {}
    for way, method in WAYS.items():
        found: dict[str, Any] = {FIGURES.get(str(name), str(name)): values for name, values in figures[way].items()}
        flat |= told(method, model, found | ({"taken_off_after_worst": worst[way]} if whole else {}))
    return flat


def semantic(asked: Asked, say: Say) -> Iterator[Flat]:
    """The fused objective on each whole model."""
    for path, model in whole_models(asked).items():
        judged = fused.judged_on(fused.jobs_for(asked, [path], every=True), asked, say)
        flat: Flat = {}
        for way, method in WAYS.items():
            flat |= medians(method, model, [_fused(found.ways[way]) for found in judged])
        yield flat


def _fused(figures: Mapping[str, float]) -> dict[str, float]:
    equal = "_over_mist_at_equal_psnr"
    return {f"fused_{name.replace('_over_equal', equal)}": value for name, value in figures.items()}


def whole_models(asked: Asked) -> dict[Path, str]:
    """The demo models, and where it is the real autoencoder with the denoiser that we trained on its latents."""
    real = balance.with_denoiser(asked, lambda _: None)
    return demo_names() | ({real: f"{short(real)}_denoiser"} if real is not None else {})


class Unprotected(NamedTuple):
    """A picture of the style, to be protected against one model by one method."""

    checkpoint: Path
    device: torch.device
    picture: Tensor
    method: str


class Imitator(NamedTuple):
    """Who fine-tunes one LoRA on the originals, or on a method's pictures."""

    checkpoint: Path
    device: torch.device
    name: str
    pictures: list[Tensor]
    """Levels, (1, 3, STYLE_SIDE, STYLE_SIDE) uint8."""
    seed: int


def imitation(asked: Asked, say: Say) -> Iterator[Flat]:
    """Mimicry by LoRAs of the model that the pictures were protected against, each model by itself."""
    pictures = _style(asked)
    if pictures is None:
        say(f"mimicry: not measured, it needs {LEAST} pictures of one kind")
        return
    with on_processes(asked.device) as processes:
        for path, model in whole_models(asked).items():
            try:
                found = _mimicry(path, model, pictures, asked.device, processes)
            except NotMeasuredError as error:
                say(f"mimicry, {model}: not measured, {error}")
                continue
            say(f"mimicry, {model}: {found}")
            yield found


def _style(asked: Asked) -> list[Tensor] | None:
    """Twelve pictures of one manner; of a folder those of its first kind that has enough."""
    if asked.pictures is None:
        return generated.style(side=STYLE_SIDE)
    kinds = unseen.pictures(None, STYLE_SIDE, asked.pictures).values()
    return next((pictures for pictures in kinds if len(pictures) >= LEAST), None)


def _mimicry(path: Path, model: str, pictures: list[Tensor], device: torch.device, processes: Executor) -> Flat:
    """style_distance: of the pictures by a LoRA of the protected ones over that of the originals' (more is better
    protected); model and originals: over that of the model as it is (below 1: the LoRA learned the style). Raises
    NotMeasuredError."""
    surrogate: Any = judges.whole(path, device)
    require_student(surrogate)
    asked = [Unprotected(path, device, x, method) for method in METHODS for x in pictures]
    after = processes.map(protected, asked)
    originals = [to_levels(x) for x in pictures]
    sets = {ORIGINALS: originals} | {method: [next(after) for _ in pictures] for method in METHODS}
    imitators = [Imitator(path, device, name, sets[name], seed) for name in sets for seed in TRAINING.seeds]
    made: Imitations = {}
    for one in processes.map(imitated, imitators):
        for name, seeds in one.items():
            made.setdefault(name, []).extend(seeds)
    style = style_figures(surrogate, originals, made)
    flat = told("originals", model, {"style_distance_over_model": _ends(style["originals_over_model"])})
    for method, ratios in style["protected"].items():
        figures = {f"style_distance_{name}": _ends(values) for name, values in ratios.items()}
        flat |= told(method, model, figures)
    return flat


def protected(job: Unprotected) -> Tensor:
    """(1, 3, STYLE_SIDE, STYLE_SIDE) uint8."""
    model: Any = judges.whole(job.checkpoint, job.device)
    if job.method == "mist":
        return to_levels(by_mist(model, job.picture, "fused", 16))
    return to_levels(by_preset(model, job.picture, "fused", job.method))


def imitated(job: Imitator) -> Imitations:
    """With the originals' also those of the model without a LoRA."""
    model: Any = judges.whole(job.checkpoint, job.device)
    prompts, training = [PROMPT] * len(job.pictures), replace(TRAINING, seeds=(job.seed,))
    return imitate(model, {job.name: job.pictures}, prompts, training, STYLE_SIDE, untaught=job.name == ORIGINALS)


def _ends(ratio: Mapping[str, float]) -> dict[str, float]:
    return {"median": ratio["value"], "low": ratio["low"], "high": ratio["high"]}
