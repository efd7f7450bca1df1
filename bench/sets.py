"""What the protection of a set is worth against an imitator, beside that of single pictures and Mist v2's recipe.

    python -m bench.sets [--real FOLDER] [--styles drawing lineart painter] [--variants plain]

Twelve pictures of one manner each are protected on a demo model; an imitator fine-tunes a LoRA on them, by other seeds,
another rank and another rate than the surrogate's. How far from the originals' style are the pictures that it makes,
over those of a LoRA of the originals? Every cell is written to bench/results-sets.json as soon as it is measured, and
a run that was interrupted goes on; `bench/readme_figures.py` makes the tables of docs/sets.md from it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.sets_styles import SIDE, Style, styles
from mist_attack.bench import judges
from mist_attack.bench.machines import machine
from mist_attack.bench.meters import Clock, peak_bytes
from mist_attack.bench.models import random_sd_v1
from mist_attack.bench.quality import MIST_STEPS, published
from mist_attack.bench.sets_table import (
    CLEAN,
    LUNET,
    MIST,
    MIXED,
    OTHER,
    PLAIN,
    SET,
    SET_ASCENT,
    SET_ROBUST,
    SHARED,
    SINGLE,
    SINGLE_ASCENT,
    SINGLE_ROBUST,
    V2,
    VARIANTS,
)
from mist_attack.budget import to_levels
from mist_attack.evaluation.imitating import UNTAUGHT, Training, imitate
from mist_attack.evaluation.metrics import visibility
from mist_attack.evaluation.style import frechet, style_of
from mist_attack.evaluation.transforms import transformed
from mist_attack.protection import protect
from mist_attack.sets.alternation import Member, SetProtection
from mist_attack.sets.settings import SetSettings
from mist_attack.settings import resolve

ROOT = Path(__file__).parents[1]
RESULTS, WORK = ROOT / "bench" / "results-sets.json", ROOT / "demo" / "sets"
CPU = torch.device("cpu")
IMITATOR = Training(rank=8, steps=200, seeds=(101, 102, 103))
"""Of the surrogate's LoRA are the rank 4, a quarter of this rate (a picture a step, not four) and other seeds."""
TRIED = 6.0
"""Levels of strength at which it is found out which strength is as visible as another way."""
V2_STEP = 0.6375 / 4
"""Of its strength: pgd_alpha 0.005 over pgd_eps 8/255."""
PEAK_SIDE = 256
Pictures = list[Tensor]
Say = Callable[[str], None]


# The ways


def one_by_one(
    model: Any,
    style: Style,
    pictures: Sequence[Tensor],
    strength: float | None,
    *,
    preset: str = "default",
    **controls: Any,
) -> Pictures:
    """Each picture by itself."""
    del strength
    settings = resolve(preset, {"working_size": SIDE, "prompt": style.prompt} | controls)
    return [protect(x, model, settings).images for x in pictures]


def mist_v1(model: Any, style: Style, pictures: Sequence[Tensor], strength: float | None) -> Pictures:
    """Mist v1's hundred steps, fused, each picture by itself; its prompt is its own."""
    del style
    return [published(model, x, "fused", MIST_STEPS, strength or TRIED) for x in pictures]


def as_set(
    model: Any,
    style: Style,
    pictures: Sequence[Tensor],
    strength: float | None,
    *,
    preset: str = "default",
    chosen: SetSettings | None = None,
    **controls: Any,
) -> Pictures:
    """By `mist protect-set`'s own loop. strength: in levels, None for the preset's."""
    asked = {"working_size": SIDE, "prompt": style.prompt, "strength": strength} | controls
    members = _members(pictures, style.prompt)
    made = SetProtection(members, model, resolve(preset, asked), chosen or SetSettings()).run()
    return [protected.images for _, protected in made]


def _members(pictures: Sequence[Tensor], prompt: str) -> list[Member]:
    def reader(x: Tensor) -> Callable[[], tuple[Tensor, None]]:
        return lambda: (x, None)

    return [Member(str(i), x.shape[2], x.shape[3], reader(x), prompt) for i, x in enumerate(pictures)]


def mist_v2(model: Any, style: Style, pictures: Sequence[Tensor], strength: float | None) -> Pictures:
    """Its recipe in our words (docs/sets.md): 150 exact steps a picture in five rounds."""
    levels = strength or TRIED
    return as_set(model, style, pictures, levels, preset="mist", objective="lunet", steps=150, step=levels * V2_STEP)


Way = Callable[[Any, Style, Sequence[Tensor], "float | None"], Pictures]
WAYS: dict[str, Way] = {
    SINGLE: one_by_one,
    SINGLE_ASCENT: partial(one_by_one, direction="ascent", fusion_weight=1.5),
    SET: as_set,
    SET_ASCENT: partial(as_set, fusion_weight=1.5, chosen=SetSettings(set_direction="ascent")),
    V2: mist_v2,
    MIST: mist_v1,
    LUNET: partial(as_set, objective="lunet"),
    SINGLE_ROBUST: partial(one_by_one, preset="robust"),
    SET_ROBUST: partial(as_set, preset="robust"),
}
MATCHED = (MIST, V2)
"""Whose strength is chosen so that they are as visible as SINGLE; the others have their preset's budget."""


# What they cost


@dataclass
class Passes:
    forward: int = 0
    backward: int = 0


@contextmanager
def counted(model: Any) -> Iterator[Passes]:
    """Passes of the denoiser, pictures of a batch each by itself."""
    passes = Passes()

    def after(_: Any, given: tuple[Any, ...], found: Any) -> None:
        count, sample = len(given[0]), found[0]
        passes.forward += count
        if sample.requires_grad:
            sample.register_hook(lambda gradient: setattr(passes, "backward", passes.backward + count))

    handle = model.unet.register_forward_hook(after)
    try:
        yield passes
    finally:
        handle.remove()


def psnr_db(originals: Sequence[Tensor], pictures: Sequence[Tensor]) -> float:
    """Mean over pictures."""
    found = [visibility(to_levels(a), to_levels(b))["psnr_db"] for a, b in zip(originals, pictures, strict=True)]
    return math.fsum(float(value or 0) for value in found) / len(found)


def as_visible(way: Way, model: Any, style: Style, wanted: float) -> float:
    """The strength, levels, at which a way has a PSNR, by two pictures: half of it is 6 dB more."""
    first = style.pictures[:2]
    return TRIED * 10 ** ((psnr_db(first, way(model, style, first, TRIED)) - wanted) / 20)


# The table of cells


@dataclass
class Bench:
    """Cells under their keys, each measured once. protections: MODEL/STYLE/WAY. distances: the same /VARIANT/SEED,
    of the style of what a LoRA makes (UNTAUGHT: the model without one) to the originals', as the imitator's model sees
    it."""

    models: Mapping[str, Any]
    styles: Mapping[str, Style]
    out: Path
    work: Path
    say: Say = print
    training: Training = IMITATOR
    ways: Mapping[str, Way] = field(default_factory=lambda: WAYS)
    results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = json.loads(self.out.read_text(encoding="utf-8")) if self.out.is_file() else {}
        self.results = {"about": {}, "protections": {}, "distances": {}} | known
        asked = {"training": asdict(self.training) | {"seeds": None}, "side": SIDE, "version": 1}
        asked = json.loads(json.dumps(asked))
        if self.results["about"].get("asked", asked) != asked:
            raise SystemExit(f"Expected {self.out} of the same training; it has another. Move it away, or --out.")
        self.results["about"] = {"asked": asked, **machine(CPU, torch.float32)}

    def cell(self, model: str, style: str, way: str, variant: str, seed: int) -> None:
        key = f"{model}/{style}/{way}/{variant}/{seed}"
        if key in self.results["distances"]:
            return
        pictures = self.shown(model, style, way, variant)
        judge = self._judge(model, variant)
        made = self._made(judge, self.styles[style], {way: pictures}, seed)
        for name, samples in made.items():
            own = key if name == way else f"{model}/{style}/{UNTAUGHT}/{variant}/{seed}"
            self.results["distances"][own] = value = self._distance(judge, self.styles[style], samples)
            self.say(f"{own}: {value:.4f}")
        self._write()

    def shown(self, model: str, style: str, way: str, variant: str) -> Pictures:
        """What the imitator has, levels."""
        originals = [to_levels(x) for x in self.styles[style].pictures]
        pictures = originals if way == CLEAN else self.protected(model, style, way)
        if variant == MIXED:
            return [own if i % 2 else x for i, (x, own) in enumerate(zip(pictures, originals, strict=True))]
        if variant == SHARED:
            return [transformed("jpeg75", transformed("half", x)) for x in pictures]
        return pictures

    def protected(self, model: str, style: str, way: str) -> Pictures:
        """Levels; made once, and kept in the folder for work."""
        key = f"{model}/{style}/{way}"
        file = self.work / f"{key.replace('/', '-')}.pt"
        if key not in self.results["protections"] or not file.is_file():
            made = self._protect(model, style, way, key)
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save([to_levels(x) for x in made], file)
            self._write()
        return torch.load(file, weights_only=True)

    def _protect(self, model: str, style: str, way: str, key: str) -> Pictures:
        surrogate, asked = self.models[model], self.styles[style]
        strength = None
        if way in MATCHED:
            self.protected(model, style, SINGLE)
            wanted = self.results["protections"][f"{model}/{style}/{SINGLE}"]["psnr_db"]
            strength = as_visible(self.ways[way], surrogate, asked, wanted)
        made: list[Pictures] = []
        with counted(surrogate) as passes:
            seconds = Clock(CPU).time(lambda: made.append(self.ways[way](surrogate, asked, asked.pictures, strength)))
        found = {"psnr_db": psnr_db(asked.pictures, made[0]), "strength": strength, "seconds": seconds}
        self.results["protections"][key] = found | asdict(passes) | {"pictures": len(made[0])}
        self.say(f"{key}: {self.results['protections'][key]}")
        return made[0]

    def _judge(self, model: str, variant: str) -> Any:
        if variant != OTHER:
            return self.models[model]
        return next(other for name, other in self.models.items() if name != model)

    def _made(self, judge: Any, style: Style, shown: dict[str, Pictures], seed: int) -> dict[str, Pictures]:
        """With the clean ones also those of the model without a LoRA."""
        training = replace(self.training, seeds=(seed,))
        prompts = [style.prompt] * len(style.pictures)
        made = imitate(judge, shown, prompts, training, SIDE, untaught=CLEAN in shown)
        return {name: seeds[0] for name, seeds in made.items()}

    def _distance(self, judge: Any, style: Style, samples: Pictures) -> float:
        originals = [to_levels(x) for x in style.pictures]
        return judge.run(lambda ready: frechet(style_of(ready, samples), style_of(ready, originals)), 1, SIDE, SIDE)

    def keep_peaks(self, found: Mapping[str, float]) -> None:
        self.results["peaks"] = {"side": PEAK_SIDE, **found}
        self._write()

    def _write(self) -> None:
        text = json.dumps(self.results, indent=1, sort_keys=True) + "\n"
        temporary = self.out.with_suffix(".writing")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.out)


def peaks(say: Say) -> dict[str, float]:
    """Bytes held at most on Stable Diffusion 1's architecture, weights included: single pictures, then a set."""
    found = {}
    for name in (SINGLE, SET):
        with get_context("spawn").Pool(1) as process:
            found[name] = process.apply(_peak, (name,))
        say(f"peak, {name}: {found[name] / 2**30:.2f} GiB")
    return found


def _peak(name: str) -> int | None:
    model, text = random_sd_v1(CPU)
    model.conditioning("a painting")
    text.drop()
    pictures = [torch.rand(1, 3, PEAK_SIDE, PEAK_SIDE, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    brief = {"working_size": PEAK_SIDE, "prompt": "a painting", "steps": 1}
    members = _members(pictures, "a painting")
    chosen = SetSettings(rounds=1, lora_steps=1, lora_states=1)

    def work() -> object:
        if name == SINGLE:
            return protect(pictures[0], model, resolve("default", brief))
        return list(SetProtection(members, model, resolve("default", brief), chosen).run())

    return peak_bytes(CPU, work)


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    paths = {f"demo{number}": path for number, path in enumerate(judges.demos())}
    real = judges.real_folder(asked.real)
    paths |= {} if real is None else {"taef2_denoiser": real / "taef2_encoder.pth"}
    models = {name: judges.whole(path, CPU) for name, path in paths.items()}
    bench = Bench(models, styles(), asked.out, asked.work, partial(print, flush=True))
    for variant in asked.variants:
        for style in asked.styles:
            for way in asked.ways if variant == MIXED else (CLEAN, *asked.ways):
                for seed in IMITATOR.seeds:
                    bench.cell(asked.model, style, way, variant, seed)
    if asked.peaks:
        bench.keep_peaks(peaks(bench.say))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.sets", description=__doc__)
    parser.add_argument("--model", default="demo0", help="the model they are protected against; default: demo0")
    parser.add_argument("--real", type=Path, help="the folder of a real autoencoder, for --model taef2_denoiser")
    parser.add_argument("--styles", nargs="+", default=["drawing", "lineart", "painter"], help="default: all")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=[PLAIN], help="default: plain")
    parser.add_argument("--peaks", action="store_true", help="also the memory, on Stable Diffusion 1's architecture")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: bench/results-sets.json")
    parser.add_argument("--work", type=Path, default=WORK, help="for the protected pictures; default: demo/sets")
    return parser


if __name__ == "__main__":
    main()
