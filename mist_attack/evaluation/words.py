"""An evaluation in words: first what it means, with how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..words import Figures, figure, moved, number, visible
from .transforms import SUITE

NOTHING, LITTLE = 1.0, 1.5
"""Times as far as noise: up to these a shift is no protection, or hardly one."""
HALF = "half"
REACHED = 0.8
"""Of the distance without a LoRA: below it, with all of the interval, a style was imitated."""
DEMO = (
    "Demo model: it was made to be easy to attack. These figures show how the tool works, not what a protection is "
    "worth against real models."
)

LABELS = {
    "linf_levels": "Largest change of any value, levels",
    "rms_levels": "Root mean square of the change, levels",
    "psnr_db": "PSNR, dB",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "ciede2000_mean": "CIEDE2000, mean",
    "ciede2000_p95": "CIEDE2000, 95th percentile",
    "flat_share": "Share of the picture that is flat",
    "flat_noise_levels": "Change in flat areas, rms in levels",
    "power_below_16th": "Power of the change below 1/16 cycle per pixel",
    "power_16th_to_8th": "... from 1/16 to 1/8",
    "power_8th_to_4th": "... from 1/8 to 1/4",
    "power_above_4th": "... above 1/4",
    "latent_shift": "Latents' shift, rms",
    "latent_shift_of_noise": "Latents' shift by random noise of the same size",
    "shift_over_noise": "Times as far as noise",
    "target_distance_before": "Mean squared distance to the target, original",
    "target_distance_after": "Mean squared distance to the target, protected",
    "target_distance_left": "Share of it that is left",
    "reconstruction_psnr_db_before": "Reconstruction of the original, PSNR in dB",
    "reconstruction_psnr_db_after": "Reconstruction of the protected picture against the original",
    "reconstruction_psnr_db_of_noise": "Reconstruction of the noisy original against the original",
}


def left(share: float | None) -> str:
    return "" if share is None else f"After halving {share:.0%} of that is left."


def short(visibility: Figures, times: float | None, share: float | None) -> str:
    """Three sentences for every face."""
    return " ".join(filter(None, (visible(visibility), moved(times), left(share))))


def short_of(pair: Figures) -> str:
    """The same of `Pair.figures`, by the first model."""
    return " ".join([pair["words"], *map(_moved_and_left, pair["models"][:1])])


def verdict(summary: Figures) -> str:
    """About one model, of `results.summaries`: what it sees, what is left, and what crops show of large pictures."""
    times, worst, nearest = summary["shift_over_noise"], summary["worst"], summary["nearest_noise"]
    if times is None or worst is None or nearest is None:
        return f"{summary['model']}: nothing could be told against noise."
    pictures = "the protected picture" if summary["pictures"] == 1 else f"{summary['pictures']} protected pictures"
    seen = (
        f"{_grade(times, nearest['over_noise'])}: {summary['model']} sees {pictures} {_between(times)} times as far "
        "from the original as random noise of the same size would put it."
    )
    return " ".join(filter(None, (seen, _at_worst(summary), _cut(summary["native_shift_over_noise"]))))


def _at_worst(summary: Figures) -> str:
    """What a change is called may be any words, so it stands in brackets."""
    worst, nearest = summary["worst"], summary["nearest_noise"]
    left = f"leaves {_percent(worst['share_left'])} of that"
    first = f"Of {summary['changes']} changes, the worst ({SUITE[worst['name']].words}) {left}"
    over = f"{_between(nearest['over_noise'])} times as far"
    if worst["name"] == nearest["name"]:
        return f"{first}, {over} as noise that went the same way."
    return (
        f"{first}; against noise that went the same way, the worst ({SUITE[nearest['name']].words}) leaves it {over}."
    )


def _cut(native: Figures | None) -> str:
    """Of pictures that the model sees reduced."""
    if native is None:
        return ""
    bad = ": no protection of those beyond noise" if native["low"] <= NOTHING else ""
    return f"That is of the picture reduced; in crops at its own scale it is {_between(native)} times as far{bad}."


def imitated(found: Figures, style: Figures) -> str:
    """A sentence about one `Mimicry.figures` and one of its styles, for each protected set."""
    name = found["model"] if found["model"] == style["eye"] else f"{found['model']}, as {style['eye']} sees it"
    clean = style["originals_over_model"]
    if clean["high"] >= REACHED:
        return (
            f"{name}: mimicry was not reached. Pictures by LoRAs of the originals lie {_between(clean)} times as far "
            "from their style as those without one, so nothing can be said of what the protection does to imitators."
        )
    return " ".join(_imitated(name, label, ratios, clean) for label, ratios in style["protected"].items())


def _imitated(name: str, label: str, ratios: Figures, clean: Figures) -> str:
    over, left = ratios["over_originals"], ratios["over_model"]
    return (
        f"{_imitation(over, left)}: pictures by LoRAs of the {label} pictures lie {_between(over)} times as far from "
        f"the originals' style as those by LoRAs of the originals, by {name}; of the distance without a LoRA, "
        f"{_percent(left)} instead of {_percent(clean)}."
    )


def _imitation(over: Figures, left: Figures) -> str:
    if over["high"] < 1:
        return "Imitated, and better than the originals are"
    if over["low"] <= 1:
        return "Imitated no worse than the originals are, as far as can be told"
    return "Imitated, but worse than the originals are" if left["high"] < REACHED else "Imitation kept off"


def _grade(times: Figures, after: Figures) -> str:
    if times["low"] <= NOTHING:
        return "No protection beyond noise on this model"
    if after["low"] <= NOTHING:
        return "Undone by one change"
    if min(times["low"], after["low"]) <= LITTLE:
        return "Weak on this model"
    return "Holds on this model"


def _between(found: Figures) -> str:
    return f"{number(found['value'])} ({number(found['low'])} to {number(found['high'])})"


def _percent(found: Figures) -> str:
    return f"{found['value']:.0%} ({found['low']:.0%} to {found['high']:.0%})"


def told(found: Figures) -> list[str]:
    """A sentence about each model, and about what each made when it was fine-tuned, of `results.results`."""
    return [row["words"] for row in found["verdicts"]] + [words for row in found["mimicry"] for words in row["words"]]


def as_text(found: Figures) -> str:
    """An evaluation (`results.results`) to be read as text: words first, numbers after."""
    return "\n".join([*sentences(found), "", *numbers(found)])


def sentences(found: Figures) -> list[str]:
    """Of an evaluation: the verdicts, and what there is to say of each picture."""
    lines = told(found)
    lines += [DEMO] if any(row["is_demo"] for row in found["verdicts"]) else []
    lines += [row["about"] for row in found["verdicts"] if row["about"]]
    return lines + [line for name, pair in _named(found) for line in (f"{name}{_told_of(pair)}", *pair["notices"])]


def numbers(found: Figures) -> list[str]:
    """Of an evaluation: every figure, a line each; and what was not measured."""
    lines = []
    for name, pair in _named(found):
        lines += [f"{name}{LABELS[key]}: {_or_not(value)}" for key, value in pair["visibility"].items()]
        for model in pair["models"]:
            for view in model["views"].values():
                lines += ["", f"{name}{model['model']}, {view['words']}", *_lines_of(view)]
            lines += _not_measured(model["not_measured"])
        lines.append("")
    return lines + _not_measured(found["not_measured"])


def _not_measured(reasons: Mapping[str, str]) -> list[str]:
    return [f"Not measured: {SUITE[name].words if name in SUITE else name}: {why}" for name, why in reasons.items()]


def _named(found: Figures) -> list[tuple[str, Figures]]:
    several = len(found["pairs"]) > 1
    return [(f"Picture {i + 1}: " if several else "", pair) for i, pair in enumerate(found["pairs"])]


def _told_of(pair: Figures) -> str:
    return " ".join([pair["words"], *map(_moved_and_left, pair["models"])])


def _moved_and_left(model: Figures) -> str:
    whole = model["views"]["whole"]
    times, half = whole["effect"]["shift_over_noise"], whole["survival"][HALF]["share_left"]
    return " ".join(filter(None, (moved(times and times["value"]), left(half and half["value"]))))


def _lines_of(view: Figures) -> list[str]:
    lines = [f"{LABELS[name]}: {_or_not(value)}" for name, value in view["effect"].items()]
    for name, transform in SUITE.items():
        row = view["survival"].get(name, {})
        times = _or_not(row.get("over_noise"))
        lines.append(f"{transform.words}: share left {_or_not(row.get('share_left'))}; times as far as noise {times}")
    return lines


def _or_not(value: Any) -> str:
    if value is None:
        return "not measured"
    return _between(value) if isinstance(value, Mapping) else figure(value)
