"""The results as Markdown, for the README and docs/evidence.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ...evaluation.intervals import Interval
from ...evaluation.transforms import SUITE
from ...evaluation.words import REACHED
from .. import balance
from .flat import METHODS, models, read

Results = Mapping[str, Any]
Cell = Callable[[Interval], str]
Row = tuple[str, str, Cell]
NOT_MEASURED = "not measured"
HEADS = {"mist": "Mist, 16 levels"} | {name: f"`{name}`" for name in METHODS[1:]}
MODELS = {
    "taef2": "TAEF2, which strangers trained on real pictures",
    "taef2_512": "TAEF2 at 512 px, one picture of each of the four kinds",
    "taef2_denoiser": "TAEF2 with a small denoiser that we trained on its latents",
    "demo0": "demo model 0, which was trained to be attackable",
    "demo1": "demo model 1, which was trained to be attackable",
}


def percent(found: Interval) -> str:
    low, middle, high = (f"{100 * value:.0f}" for value in (found.low, found.median, found.high))
    return f"{middle} % ({low} to {high})"


def times(found: Interval) -> str:
    return f"{found.median:.2f} times ({found.low:.2f} to {found.high:.2f})"


def plain(digits: int) -> Cell:
    return lambda found: f"{found.median:.{digits}f}"


SEEN: list[Row] = [
    ("PSNR, dB", "psnr_db", plain(1)),
    ("SSIM", "ssim", plain(3)),
    ("CIEDE2000, mean", "ciede2000_mean", plain(2)),
]
AFTER = {"": "taken off", "_after_half": "... after a halving"}
AFTER |= {f"_after_jpeg{quality}": f"... after JPEG {quality}" for quality in (75, 50)}
OFF: list[Row] = [(words, f"taken_off{name}", percent) for name, words in AFTER.items()]
OVER: list[Row] = [
    (f"{words}, over Mist's at equal PSNR", f"taken_off{name}_over_mist_at_equal_psnr", times)
    for name, words in AFTER.items()
    if "50" not in name  # where next to nothing is left to divide by
]
WORST: Row = ("the worst of all transforms", "taken_off_after_worst", percent)
MOVED: list[Row] = [
    ("the latents' shift over noise's of the same size", "shift_over_noise", times),
    ("PSNR that the reconstruction loses, dB", "reconstruction_lost_db", plain(2)),
]
SURVIVED: list[Row] = [
    (f"taken off after: {SUITE[name].words}", f"taken_off_after_{name}", percent) for name in balance.SURVIVED
]
FUSED: list[Row] = [
    ("PSNR, dB", "fused_psnr_db", plain(1)),
    ("denoising loss, over the untouched picture's", "fused_denoising_loss", times),
    ("... over Mist's at equal PSNR", "fused_denoising_loss_over_mist_at_equal_psnr", times),
    ("distance to the target, over the untouched picture's", "fused_target_distance", times),
    ("... over Mist's at equal PSNR", "fused_target_distance_over_mist_at_equal_psnr", times),
    ("img2img's result, from that of the untouched picture, rms in levels", "fused_img2img_levels", plain(1)),
    ("... over Mist's at equal PSNR", "fused_img2img_levels_over_mist_at_equal_psnr", times),
    ("... where both were reduced to half before", "fused_img2img_halved_levels", plain(1)),
    ("... over Mist's at equal PSNR", "fused_img2img_halved_levels_over_mist_at_equal_psnr", times),
]
IMITATED: list[Row] = [
    ("style distance over that of a LoRA of the originals", "style_distance_over_originals", times),
    ("... over that of the model without a LoRA", "style_distance_over_model", times),
]


def grid(results: Results, model: str, rows: Sequence[Row]) -> list[list[str]]:
    """A row a figure, a column a method; the first row names the methods. What was not measured is empty."""
    lines = [["", *HEADS.values()]]
    for words, name, cell in rows:
        found = [read(results, method, name, model) for method in METHODS]
        if any(found):
            lines.append([words, *("" if one is None else cell(one) for one in found)])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    first, *rest = lines
    return "".join(f"| {' | '.join(line)} |\n" for line in [first, ["---"] * len(first), *rest])


def first_table(results: Results) -> str:
    """The README's."""
    if "taef2" not in models(results, "taken_off"):
        return f"{NOT_MEASURED.capitalize()}.\n"
    return markdown(grid(results, "taef2", [*SEEN, *OFF, *OVER, WORST]))


PARTS: list[tuple[str, str, Sequence[Row]]] = [
    ("Textural: what the autoencoder makes of it", "taken_off", [*SEEN, *OFF, *OVER, *MOVED]),
    ("Survival: what is left after a change", "taken_off_after_worst", [*SURVIVED, WORST]),
    ("Fused: what the denoiser makes of it", "fused_denoising_loss", FUSED),
    ("Mimicry: what a LoRA learns from it", "style_distance_over_originals", IMITATED),
]


class Section(NamedTuple):
    """One part on one model."""

    part: str
    who: str
    lines: list[list[str]]
    note: str


def sections(results: Results) -> list[Section]:
    return [
        Section(part, MODELS.get(model, model), grid(results, model, rows), _note(results, model, figure))
        for part, figure, rows in PARTS
        for model in _known_first(models(results, figure))
    ]


def _known_first(found: Sequence[str]) -> list[str]:
    return sorted(found, key=lambda model: list(MODELS).index(model) if model in MODELS else len(MODELS))


def _note(results: Results, model: str, figure: str) -> str:
    """Of mimicry: whether a LoRA of the originals learned the style at all."""
    learned = read(results, "originals", "style_distance_over_model", model)
    if learned is None or not figure.startswith("style"):
        return ""
    reached = "" if learned.high < REACHED else " That is no imitation, so the table says nothing of one."
    return f"A LoRA of the originals: {times(learned)} the distance of the model without one.{reached}"


def page_section(results: Results) -> str:
    """docs/evidence.md's."""
    text, part = "", ""
    for section in sections(results):
        text += "" if section.part == part else f"### {section.part}\n\n"
        part = section.part
        text += f"{section.who[0].upper()}{section.who[1:]}:\n\n{markdown(section.lines)}\n"
        text += f"{section.note}\n\n" if section.note else ""
    lacks = results.get("about", {}).get("not_measured", [])
    text += f"{NOT_MEASURED.capitalize()} in this run: {'; '.join(lacks)}.\n" if text and lacks else ""
    return text.rstrip("\n") + "\n" if text else f"{NOT_MEASURED.capitalize()}.\n"
