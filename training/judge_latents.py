"""Judge the denoiser on TAEF2's latents: `python -m training.judge_latents --real DIR [--work WORK] --out FOLDER`.

DIR holds TAEF2's two files. On pictures that no model of ours saw: denoising loss by band over the best linear one's
(fitted on WORK's latents, see real_latents.py), a sheet of samples and variations, and what three protections do to it
and to the demo models: Mist, Mist at the default's PSNR, and the default. A row for each in FOLDER/rows.jsonl; those
there are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mist_attack.bench import judges, unseen
from mist_attack.budget import to_levels
from mist_attack.evaluation.effect import (
    Trio,
    denoising_figures,
    shift_figures,
    target_figures,
    trio_latents,
    variation_figures,
)
from mist_attack.evaluation.intervals import interval
from mist_attack.evaluation.metrics import rms
from mist_attack.evaluation.sight import Sight, sights
from mist_attack.hosts.headless.checkpoints import find_checkpoint
from mist_attack.hosts.headless.choice import load, real_model
from mist_attack.protection import protect
from mist_attack.randomness import noise_like
from mist_attack.report import psnr
from mist_attack.settings import Settings, resolve
from mist_attack.surrogate import Surrogate

from .judge import SIDE, LinearDenoiser, denoising, sheets
from .real_latents import bank

CPU = torch.device("cpu")
MIST_STEPS, LEVELS = 30, 16.0
SEEDS = range(1000, 1002)  # of the judging noise; no attack has them
STRENGTHS = (0.3, 0.5)
Row = dict[str, Any]


def protected(model: Surrogate, picture: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Name and picture after each protection."""

    def by(preset: str, **controls: Any) -> Tensor:
        return protect(picture, model, resolve(preset, {"working_size": SIDE, **controls})).images

    default, mist = by("default"), by("mist", steps=MIST_STEPS)
    size = [rms(to_levels(picture), to_levels(after)) for after in (default, mist)]
    yield "mist", mist
    yield "mist, default's PSNR", by("mist", steps=MIST_STEPS, strength=LEVELS * size[0] / size[1])
    yield "default", default


def judged(model: Surrogate, before: Tensor, after: Tensor) -> Row:
    """loss_times: the denoising loss over the original's, mean of bands and SEEDS; loss_times_of_noise: by random noise
    of the same size; loss_times_by_band; left: of the squared distance to the target; times_noise: how far the latents
    move, over noise's; img2img_S: how far variations at strength S lie apart, rms in levels, over noise's."""
    levels = to_levels(before), to_levels(after)
    trio, (whole,) = Trio(*levels, noise_like(*levels, 2)), sights(model, SIDE, SIDE, SIDE)
    prompt = model.conditioning("a painting")
    return model.run(lambda ready: _judged(ready, whole, trio, prompt), 1, SIDE, SIDE)


def _judged(ready: Surrogate, whole: Sight, trio: Trio, prompt: Any) -> Row:
    latents = trio_latents(ready, whole, trio)
    bands = [denoising_figures(ready, latents, seed, prompt) for seed in SEEDS]
    sums = {name: [sum(row[name] for row in rows) for rows in zip(*bands, strict=True)] for name in NAMES}
    over = shift_figures(latents)["shift_over_noise"]
    return {
        "psnr_db": psnr(trio.before, trio.after),
        "loss_times": sum(sums["after"]) / sum(sums["before"]),
        "loss_times_of_noise": sum(sums["of_noise"]) / sum(sums["before"]),
        "loss_times_by_band": [a / b for a, b in zip(sums["after"], sums["before"], strict=True)],
        "left": target_figures(ready, whole, trio, Settings(), None)["target_distance_left"],
        "times_noise": over and over["value"],
        **{
            f"img2img_{strength:g}": variation_figures(ready, whole, trio, 1000, prompt, strength)[0]["over_noise"]
            for strength in STRENGTHS
        },
    }


NAMES = "before", "after", "of_noise"
TOLD = "psnr_db", "loss_times", "loss_times_of_noise", "left", "times_noise", *(f"img2img_{s:g}" for s in STRENGTHS)


def rows(models: Sequence[Surrogate], pictures: Sequence[tuple[str, Tensor]], path: Path) -> list[Row]:
    known = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    done = {(row["model"], row["picture"]) for row in known}
    for name, picture in pictures:
        for model in models:
            if (model.name, name) not in done:
                found = [
                    {"model": model.name, "picture": name, "way": way, **judged(model, picture, after)}
                    for way, after in protected(model, picture)
                ]
                with path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in found)
                known += found
    return known


def table(found: Iterable[Row]) -> str:
    """Medians and their 95 % intervals over the pictures, by model and way."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        groups.setdefault((row["model"], row["way"]), []).append(row)
    lines = []
    for (model, way), members in groups.items():
        figures = [f"{name} {interval([row[name] for row in members])}" for name in TOLD]
        bands = torch.tensor([row["loss_times_by_band"] for row in members]).median(0).values
        by_band = " ".join(f"{value:.2f}" for value in bands.tolist())
        lines += [f"{model}: {way}, {len(members)} pictures", *(f"  {line}" for line in figures), f"  bands {by_band}"]
    return "\n".join(lines)


def report(model: Surrogate, pictures: dict[str, list[Tensor]], work: Path | None, out: Path) -> None:
    def job(ready: Surrogate) -> None:
        if work is not None:
            linear = LinearDenoiser.fitted(bank(work)[0].float())
            for words, values in zip(
                ("loss", "over linear", "... of sums"),
                zip(*denoising(ready, pictures, linear), strict=True),
                strict=True,
            ):
                print(f"  {words:12}" + " ".join(f"{value:.3f}" for value in values), flush=True)
        sheets(ready, pictures).save(out / "samples.png")

    print(model.name)
    model.run(job, 1, SIDE, SIDE)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help=f"folder of TAEF2's files (default: {judges.ENVIRONMENT})")
    parser.add_argument("--work", type=Path, help="where real_latents.py kept its latents")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--attacked", type=int, default=2, help="pictures of each kind that are attacked")
    parser.add_argument("--demo", nargs="*", default=["demo:0", "demo:1"], help="models beside it")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    folder = judges.real_folder(options.real)
    if folder is None:
        raise SystemExit(f"Not measured: {judges.NOT_MEASURED}.")
    models = [
        real_model(folder / "taef2_encoder.pth", CPU),
        *(load(find_checkpoint(name), CPU) for name in options.demo),
    ]
    pictures = unseen.pictures(side=SIDE)
    report(models[0], pictures, options.work, options.out)
    chosen = [
        (f"{kind} {i}", x) for i in range(options.attacked) for kind, members in pictures.items() for x in [members[i]]
    ]
    print(table(rows(models, chosen, options.out / "rows.jsonl")))


if __name__ == "__main__":
    main()
